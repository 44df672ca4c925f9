"""Settings that give each test topics, groups and checkpoints of its own on the shared Kafka and Redis."""

from collections.abc import Callable
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

if TYPE_CHECKING:
    from services.local.kafka_broker import KafkaBroker
    from services.local.redis_server import RedisServer
    from services.shared.settings import KafkaSettings, Settings


@pytest.fixture
def make_kafka_settings(broker: "KafkaBroker") -> "Callable[..., KafkaSettings]":
    """make_kafka_settings(partitions=2, ...) -> settings under a fresh prefix, with the topics made."""
    from services.shared.settings import KafkaSettings
    from services.shared.topics import Topics

    def make(partitions: int = 2, **values: object) -> KafkaSettings:
        settings = KafkaSettings.model_validate(
            {
                "bootstrap_servers": broker.bootstrap_servers,
                "prefix": f"test-{uuid4().hex[:8]}-",
                "partitions": partitions,
                **values,
            }
        )
        Topics.of(settings).create(settings)
        return settings

    return make


@pytest.fixture
def kafka_settings(make_kafka_settings: "Callable[..., KafkaSettings]") -> "KafkaSettings":
    """Two partitions under a fresh prefix, with the topics made."""
    return make_kafka_settings()


@pytest.fixture
def settings(kafka_settings: "KafkaSettings", redis_server: "RedisServer") -> "Settings":
    """The whole tree, pointing at the shared Kafka (fresh prefix) and at Redis, which is emptied before."""
    import redis

    from services.shared.settings import GatewaySettings, RedisSettings, Settings

    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
    return Settings(
        kafka=kafka_settings, redis=RedisSettings(url=redis_server.url), gateway=GatewaySettings(port=0)
    )
