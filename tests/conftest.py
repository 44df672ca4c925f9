"""The real parts that tests run against. Each starts at its first use and is shared by all tests of the run."""

import logging
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

# No deadlines: a busy machine keeps none. The same examples every time: a test that fails now and not before fails
# for what was changed. `--hypothesis-profile=explore` looks for new ones.
settings.register_profile("repeat", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, print_blob=True)
settings.load_profile("repeat")

# Before anything imports torch: more threads only fight over two cores with everything else that a test runs.
os.environ.setdefault("OMP_NUM_THREADS", "1")

if TYPE_CHECKING:  # unit tests must not need what these import
    from services.local.kafka_broker import KafkaBroker
    from services.local.redis_server import RedisServer


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[KafkaBroker]":
    """A running Kafka. A test that kills it must start it again before it ends."""
    from services.local.kafka_broker import KafkaBroker

    # The client logs every refused connection as an error; a broker that starts refuses some.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    broker = KafkaBroker(tmp_path_factory.mktemp("kafka"))
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[RedisServer]":
    """A running Redis. A test that kills it must start it again before it ends."""
    from services.local.redis_server import RedisServer

    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()
