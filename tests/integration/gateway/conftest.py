from collections.abc import Iterator

import pytest
from gateway_harness import Replica, RunningGateway

from services.cli.client import Client
from services.shared.settings import KafkaSettings


@pytest.fixture
def client(gateway: RunningGateway) -> Iterator[Client]:
    with Client(gateway.address) as made:
        yield made


@pytest.fixture
def replica(kafka_settings: KafkaSettings) -> Iterator[Replica]:
    made = Replica(kafka_settings)
    yield made
    made.close()
