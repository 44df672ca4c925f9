"""Commits what a partition has to say: one transaction for its events, its states and how far its frames were read."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from kafka import KafkaProducer, TopicPartition
from kafka.errors import InvalidProducerIdMappingError, KafkaError, ProducerFencedError
from kafka.metrics.stats import Total
from kafka.structs import ConsumerGroupMetadata, OffsetAndMetadata

from services.shared.kafka import Headers

log = logging.getLogger(__name__)

FailPoint = Callable[[str], None]

# Longer than the client keeps a record before it gives it up.
_SEND_TIMEOUT_S = 20.0


def no_failpoint(name: str) -> None:
    """Called at each step of the commit; tests put a failure in its place."""


@dataclass(frozen=True)
class OutgoingRecord:
    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: Headers


@dataclass(frozen=True)
class Transaction:
    """Records in the order in which they are to stand, and the offset of `frames` that they account for."""

    records: Sequence[OutgoingRecord]
    frames: TopicPartition
    next_offset: int


@dataclass(frozen=True)
class Committed:
    transaction: Transaction
    offsets: Sequence[int]  # of its records
    started_s: float
    ended_s: float


@dataclass(frozen=True)
class Aborted:
    """Nothing of the transaction is visible; the same one may be given again, with fresh group metadata."""

    transaction: Transaction
    error: Exception


class CommitFailed(Exception):
    """The producer cannot go on: it was fenced, or what became of the transaction is not known."""


class CommitterPort(Protocol):
    """What a partition needs of `Committer`."""

    @property
    def is_idle(self) -> bool: ...
    def give(self, transaction: Transaction, group: ConsumerGroupMetadata) -> None: ...
    def take_result(self) -> Committed | Aborted | None: ...
    def wait_idle(self, timeout_s: float) -> bool: ...
    def close(self, timeout_s: float) -> None: ...
    @property
    def is_tainted(self) -> bool: ...


class Committer:
    """One transactional producer, already initialised, in a thread of its own; one transaction at a time."""

    def __init__(self, producer: KafkaProducer, name: str, failpoint: FailPoint = no_failpoint) -> None:
        self._producer = producer
        self._failpoint = failpoint
        self._changed = threading.Condition()
        self._given: tuple[Transaction, ConsumerGroupMetadata] | None = None
        self._result: Committed | Aborted | CommitFailed | None = None
        self._is_closing = False
        self._is_tainted = False
        self._num_closed = _count_closed_connections(producer)
        self._thread = threading.Thread(target=self._run, name=f"committer-{name}", daemon=True)
        self._thread.start()

    @property
    def is_idle(self) -> bool:
        """A transaction can be given: none is under way, and the result of the last one was taken."""
        with self._changed:
            return self._given is None and self._result is None

    @property
    def is_tainted(self) -> bool:
        """A connection was lost during a transaction: the request that ends it may have been sent twice, and the
        first copy may still arrive and end a later one. Or Kafka has forgotten the producer, and takes nothing more
        from it. It must not begin another; a new one has a new epoch, and what the old one sent is refused then."""
        return self._is_tainted

    def give(self, transaction: Transaction, group: ConsumerGroupMetadata) -> None:
        with self._changed:
            if self._given is not None or self._result is not None:
                raise RuntimeError("a transaction is under way")
            self._given = (transaction, group)
            self._changed.notify_all()

    def take_result(self) -> Committed | Aborted | None:
        """What became of the transaction, once. Raises CommitFailed."""
        with self._changed:
            result, self._result = self._result, None
        if isinstance(result, CommitFailed):
            raise result
        return result

    def wait_idle(self, timeout_s: float) -> bool:
        """Whether no transaction is under way any more; its result may wait to be taken."""
        with self._changed:
            return self._changed.wait_for(lambda: self._given is None, timeout_s)

    def close(self, timeout_s: float) -> None:
        """Ends the thread and the producer; a transaction that does not end in time is left to be fenced."""
        self.wait_idle(timeout_s)
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join(timeout_s)
        if not self._thread.is_alive():
            self._producer.close(timeout=timeout_s)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._given is not None or self._is_closing)
                if self._given is None:
                    return
                transaction, group = self._given
            try:
                result: Committed | Aborted | CommitFailed = self._commit(transaction, group)
            except BaseException as error:
                result = error if isinstance(error, CommitFailed) else CommitFailed(repr(error))
                result.__cause__ = error
            with self._changed:
                self._given, self._result = None, result
                self._changed.notify_all()

    def _commit(self, transaction: Transaction, group: ConsumerGroupMetadata) -> Committed | Aborted:
        started_s, num_closed = time.monotonic(), self._num_closed()
        try:
            return self._commit_once(transaction, group, started_s)
        finally:
            self._is_tainted |= self._num_closed() != num_closed

    def _commit_once(
        self, transaction: Transaction, group: ConsumerGroupMetadata, started_s: float
    ) -> Committed | Aborted:
        self._failpoint("before begin")
        self._producer.begin_transaction()
        try:
            self._failpoint("begun")
            sent = [
                self._producer.send(
                    record.topic,
                    key=record.key,
                    value=record.value,
                    headers=list(record.headers),
                    partition=record.partition,
                )
                for record in transaction.records
            ]
            self._failpoint("records sent")
            # Before the commit: the client may give a record up and yet commit the others.
            offsets = [int(future.get(timeout=_SEND_TIMEOUT_S).offset) for future in sent]
            offset = OffsetAndMetadata(transaction.next_offset, "", -1)
            self._producer.send_offsets_to_transaction({transaction.frames: offset}, group)
            self._failpoint("offsets sent")
            self._producer.commit_transaction()
            self._failpoint("committed")
        except KafkaError as error:
            if _is_forgotten(error):
                log.warning("Kafka came back and does not know the producer: %r", error)
                self._is_tainted = True
            else:
                self._abort(error)
            return Aborted(transaction, error)
        return Committed(transaction, offsets, started_s, time.monotonic())

    def _abort(self, cause: KafkaError) -> None:
        """Raises CommitFailed where the producer was fenced; any other that cannot abort is tainted."""
        log.warning("a transaction is aborted: %r", cause)
        try:
            self._producer.abort_transaction()
        except KafkaError as error:
            if any(isinstance(one, ProducerFencedError) for one in (cause, *cause.args, error, *error.args)):
                raise CommitFailed(
                    f"{cause!r}; and the transaction could not be aborted: {error!r}"
                ) from cause
            # Kafka was away for too long. A new producer fences this one, and finds what was committed.
            self._is_tainted = True


def _is_forgotten(error: KafkaError) -> bool:
    """The coordinator has no such producer, as after a broker that was killed. The client wraps what is fatal to it."""
    return any(isinstance(one, InvalidProducerIdMappingError) for one in (error, *error.args))


def _count_closed_connections(producer: KafkaProducer) -> Callable[[], int]:
    """The producer tells only a rate of them, which says nothing of one transaction."""
    name = producer._metrics.metric_name("connection-close-total", "producer-metrics", "Connections closed")
    producer._metrics.get_sensor("connections-closed").add(name, Total())
    return lambda: int(producer._metrics.metrics[name].value())
