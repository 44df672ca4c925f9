"""Our Kafka clients against a real broker that goes away."""

import threading
from typing import TYPE_CHECKING

from kafka import TopicPartition

from services.shared.kafka import abandon, producer, reader
from services.shared.settings import KafkaSettings
from services.shared.topics import Topics

if TYPE_CHECKING:
    from services.local.kafka_broker import KafkaBroker


def test_a_commit_outlives_a_broker_that_goes_away_before_it(
    broker: "KafkaBroker", kafka_settings: KafkaSettings
) -> None:
    events = TopicPartition(Topics.of(kafka_settings).events, 0)
    # A broker that comes back later than a transaction may last ends it, which is another matter.
    made = producer(kafka_settings, "patient", transaction_timeout_s=60)
    try:
        made.init_transactions()
        made.begin_transaction()
        made.send(events.topic, partition=0, value=b"said").get(20)
        broker.kill()
        committing = threading.Thread(target=made.commit_transaction, daemon=True)
        committing.start()
        committing.join(1.5)
        assert committing.is_alive(), "nobody can have answered"
        broker.start()
        committing.join(60)
        assert not committing.is_alive(), "the commit was forgotten"
    finally:
        abandon(made)
    consumer = reader(kafka_settings, [events])
    try:
        consumer.seek_to_beginning(events)
        (records,) = consumer.poll(timeout_ms=20_000).values()
        assert [record.value for record in records] == [b"said"]
    finally:
        consumer.close()
