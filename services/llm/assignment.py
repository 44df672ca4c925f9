"""Which partitions this replica owns: its membership in the consumer group, and the records that come with it."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from kafka import ConsumerRebalanceListener, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from kafka.errors import OffsetOutOfRangeError
from kafka.structs import ConsumerGroupMetadata

from services.shared.kafka import member
from services.shared.settings import Settings
from services.shared.topics import Topics

GROUP = "llm"
# A transaction under way at a revocation may end; the new owner would fence one that takes longer.
_REVOKE_WAIT_S = 2.0

WaitIdle = Callable[[int, float], None]


class Assignment(ConsumerRebalanceListener):
    """Used by one thread only; the listener runs while that thread is inside `poll` or `close`.

    A partition that is assigned stays paused until `start`, and is paused again where retention has deleted what was
    to be read of it next. The listener does nothing but pause and note, and at a revocation
    `wait_idle(partition, timeout_s)` lets a transaction end.
    """

    def __init__(self, settings: Settings, wait_idle: WaitIdle) -> None:
        llm = settings.llm
        self._topic = Topics.of(settings.kafka).frames
        self._wait_idle = wait_idle
        self._assigned: set[int] = set()
        self._released: set[int] = set()
        self._expired: set[int] = set()
        self._consumer = member(
            settings.kafka, GROUP, self._topic, self, llm.session_timeout_s, llm.max_poll_interval_s
        )

    def poll(self, timeout_ms: int, max_records: int) -> dict[int, list[ConsumerRecord]]:
        """Records by partition, of started partitions only. Returns as soon as there are some."""
        self._unpark()
        try:
            polled = self._consumer.poll(timeout_ms=timeout_ms, max_records=max_records)
        except OffsetOutOfRangeError as error:
            # As long as that partition is asked for, every call raises, whatever there is of the others.
            for found in error.args[0]:
                self._consumer.pause(found)
                self._expired.add(found.partition)
            return {}
        return {found.partition: records for found, records in polled.items()}

    def take_released(self) -> set[int]:
        """Partitions that are not owned any more, told once. To be asked before `take_assigned`."""
        released, self._released = self._released, set()
        return released

    def take_expired(self) -> set[int]:
        """Partitions that are owned and paused, because what was to be read next of them is not kept any more; told
        once."""
        expired, self._expired = self._expired, set()
        return expired

    def take_assigned(self) -> set[int]:
        """Partitions that are owned now and paused, told once."""
        assigned, self._assigned = self._assigned, set()
        return assigned

    def start(self, partition: int, offset: int) -> None:
        self._consumer.seek(self._of(partition), offset)
        self._consumer.resume(self._of(partition))

    def pause(self, partition: int) -> None:
        self._consumer.pause(self._of(partition))

    def resume(self, partition: int) -> None:
        self._consumer.resume(self._of(partition))

    def end_of(self, partition: int) -> int:
        """Where the log ended at the last fetch; 0 before the first."""
        return self._consumer.highwater(self._of(partition)) or 0

    def group_metadata(self) -> ConsumerGroupMetadata:
        return self._consumer.group_metadata()

    def close(self, timeout_s: float) -> None:
        """Leaves the group."""
        self._consumer.close(autocommit=False, timeout_ms=int(timeout_s * 1000))

    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        for found in assigned:
            # With a position no reset is tried, and none is allowed; the real one is set at `start`.
            self._consumer.seek(found, 0)
            self._consumer.pause(found)
            self._assigned.add(found.partition)

    def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        deadline_s = time.monotonic() + _REVOKE_WAIT_S
        for found in revoked:
            self._wait_idle(found.partition, max(0.0, deadline_s - time.monotonic()))
            self._release(found.partition)

    def on_partitions_lost(self, lost: Collection[TopicPartition]) -> None:
        for found in lost:
            self._release(found.partition)

    def _unpark(self) -> None:
        """kafka-python 3.0.12 sets records aside that were fetched before a pause, and takes them up again after the
        resume only if no other batch is in hand; one that was read to its end counts as in hand, for ever."""
        fetcher = self._consumer._fetcher
        if fetcher._next_partition_records is not None and not fetcher._next_partition_records:
            fetcher._next_partition_records = None

    def _release(self, partition: int) -> None:
        self._assigned.discard(partition)
        self._expired.discard(partition)
        self._released.add(partition)

    def _of(self, partition: int) -> TopicPartition:
        return TopicPartition(self._topic, partition)
