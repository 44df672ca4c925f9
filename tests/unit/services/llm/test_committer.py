"""What the committer does when the client or the broker gives up; the rest is tested on a real broker."""

from types import SimpleNamespace

from kafka import TopicPartition
from kafka.errors import InvalidProducerIdMappingError, KafkaError, KafkaTimeoutError
from kafka.structs import ConsumerGroupMetadata
from support.waiting import poll_until

import services.llm.committer as committer_module
from services.llm.committer import Aborted, Committer, OutgoingRecord, Transaction

GROUP = ConsumerGroupMetadata("llm", 1, "member", None)


class Sent:
    def __init__(self, is_lost: bool) -> None:
        self._is_lost = is_lost

    def get(self, timeout: float) -> SimpleNamespace:
        if self._is_lost:
            raise KafkaTimeoutError("expired")
        return SimpleNamespace(offset=7)


class ForgetfulProducer:
    """Gives up the records to `lost_topic`, and would commit the others."""

    def __init__(self, lost_topic: str) -> None:
        self._lost_topic = lost_topic
        self.calls: list[str] = []

    def begin_transaction(self) -> None:
        self.calls.append("begin")

    def send(self, topic: str, **record: object) -> Sent:
        return Sent(is_lost=topic == self._lost_topic)

    def send_offsets_to_transaction(self, offsets: object, group: object) -> None:
        self.calls.append("offsets")

    def commit_transaction(self) -> None:
        self.calls.append("commit")

    def abort_transaction(self) -> None:
        self.calls.append("abort")

    def close(self, timeout: float) -> None:
        self.calls.append("close")


def test_a_transaction_is_never_committed_without_one_of_its_records(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(committer_module, "_count_closed_connections", lambda producer: lambda: 0)
    producer = ForgetfulProducer(lost_topic="state")
    committer = Committer(producer, "0")  # type: ignore[arg-type]
    records = [OutgoingRecord(topic, 0, b"gate", b"", []) for topic in ("events", "state")]
    committer.give(Transaction(records, TopicPartition("frames", 0), 5), GROUP)
    result = poll_until(committer.take_result, 5, "the result of the transaction")
    committer.close(1)
    assert isinstance(result, Aborted)
    assert producer.calls == ["begin", "abort", "close"]


class UnknownProducer(ForgetfulProducer):
    """One whose broker was killed and has come back without knowing it."""

    def send_offsets_to_transaction(self, offsets: object, group: object) -> None:
        raise KafkaError(InvalidProducerIdMappingError())

    def abort_transaction(self) -> None:
        raise KafkaError("Cannot execute transactional method because we are in an error state")


def test_a_producer_that_kafka_has_forgotten_is_replaced_not_fatal(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(committer_module, "_count_closed_connections", lambda producer: lambda: 0)
    committer = Committer(UnknownProducer(lost_topic=""), "0")  # type: ignore[arg-type]
    assert not committer.is_tainted
    committer.give(Transaction([], TopicPartition("frames", 0), 5), GROUP)
    result = poll_until(committer.take_result, 5, "the result of the transaction")
    committer.close(1)
    assert isinstance(result, Aborted)
    assert committer.is_tainted, "the partition is taken over anew, with a producer of its own"
