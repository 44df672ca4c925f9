"""What stands in a partition."""

from kafka import TopicPartition

from services.shared.kafka import reader
from services.shared.settings import KafkaSettings


def topic_records(
    settings: KafkaSettings, topic: str, number: int
) -> list[tuple[bytes | None, bytes | None]]:
    """Key and value of all that is committed, in log order."""
    partition = TopicPartition(topic, number)
    with reader(settings, [partition]) as consumer:
        end = consumer.end_offsets([partition])[partition]
        consumer.seek_to_beginning(partition)
        records = []
        while consumer.position(partition) < end:
            records += consumer.poll(timeout_ms=200).get(partition, [])
        return [(record.key, record.value) for record in records]
