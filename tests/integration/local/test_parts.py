"""Kafka and Redis as the local stack runs them."""

from collections.abc import Callable
from pathlib import Path

import redis
from kafka import KafkaConsumer, TopicPartition

from services.local.kafka_broker import KafkaBroker
from services.local.redis_server import RedisServer
from services.shared.kafka import cluster_id, producer, reader
from services.shared.settings import KafkaSettings
from services.shared.topics import Topics


def read_values(settings: KafkaSettings, topic: str, count: int) -> list[bytes]:
    partition = TopicPartition(topic, 0)
    values: list[bytes] = []
    with reader(settings, [partition]) as consumer:
        consumer.seek_to_beginning(partition)
        for _ in range(100):
            values += [record.value for record in consumer.poll(timeout_ms=200).get(partition, [])]
            if len(values) >= count:
                return values
    raise AssertionError(f"{len(values)} of {count} records in 20 s")


def test_a_killed_broker_comes_back_with_its_data_on_the_same_port(
    broker: KafkaBroker, kafka_settings: KafkaSettings
) -> None:
    topic = Topics.of(kafka_settings).events
    cluster = cluster_id(kafka_settings)
    writing = producer(kafka_settings)
    writing.send(topic, key=b"k", value=b"before", partition=0).get(timeout=10)
    broker.kill()
    assert broker.process.pid is None
    broker.start()
    # The same producer goes on: the addresses have not changed.
    writing.send(topic, key=b"k", value=b"after", partition=0).get(timeout=20)
    writing.close(timeout=5)
    assert read_values(kafka_settings, topic, 2) == [b"before", b"after"]
    assert cluster_id(kafka_settings) == cluster


def test_two_brokers_are_two_clusters(
    broker: KafkaBroker, kafka_settings: KafkaSettings, tmp_path: Path
) -> None:
    other = KafkaBroker(tmp_path / "kafka")
    try:
        other.start()
        assert cluster_id(KafkaSettings(bootstrap_servers=other.bootstrap_servers)) != cluster_id(
            kafka_settings
        )
    finally:
        other.stop()


def test_topics_are_not_made_by_asking_for_them(kafka_settings: KafkaSettings) -> None:
    asking = KafkaConsumer(bootstrap_servers=kafka_settings.bootstrap_servers, allow_auto_create_topics=True)
    try:
        assert not asking.partitions_for_topic("never-made")
    finally:
        asking.close()
    assert "never-made" not in topic_names(kafka_settings)


def test_a_killed_redis_comes_back_empty_on_the_same_port(redis_server: RedisServer) -> None:
    with redis.Redis.from_url(redis_server.url) as client:
        client.set("name", "value")
    redis_server.kill()
    redis_server.start()
    with redis.Redis.from_url(redis_server.url) as client:
        assert client.get("name") is None


def topic_names(settings: KafkaSettings) -> set[str]:
    from kafka.admin import KafkaAdminClient

    admin = KafkaAdminClient(bootstrap_servers=settings.bootstrap_servers)
    try:
        return set(admin.list_topics())
    finally:
        admin.close()


def test_make_kafka_settings_gives_topics_of_ones_own(
    make_kafka_settings: Callable[..., KafkaSettings],
) -> None:
    first, second = make_kafka_settings(partitions=3), make_kafka_settings()
    assert first.prefix != second.prefix
    assert {Topics.of(first).frames, Topics.of(second).frames} <= topic_names(first)
