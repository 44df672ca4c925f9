"""The newest events of one partition, in memory, so that whoever is near the end needs no read of Kafka."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from services.shared.kafka import Headers
from streamo.v1.event_pb2 import Event


@dataclass(frozen=True, slots=True)
class EventRecord:
    """A record of `events`. `event` is None where it could not be read; `fault` says why."""

    partition: int
    offset: int
    event: Event | None
    fault: str
    num_bytes: int
    headers: Headers
    # When the gateway had read it: wall clock, Unix, microseconds.
    read_at_us: int


@dataclass(frozen=True, slots=True)
class Slice:
    """Consecutive records of one partition, and the offset at which reading goes on after them.

    `next_offset` may lie beyond the last record: markers and aborted records take offsets too.
    """

    partition: int
    records: Sequence[EventRecord]
    next_offset: int


class EventRing:
    """Holds all records of offsets `start_offset` to `next_offset`; the oldest go when a bound is passed.

    Not safe to share between threads: its owner locks.
    """

    def __init__(self, partition: int, offset: int, max_records: int, max_bytes: int) -> None:
        self.start_offset = offset
        self.next_offset = offset
        self._partition = partition
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._records: list[EventRecord] = []
        self._num_bytes = 0

    def append(self, records: Sequence[EventRecord], next_offset: int) -> None:
        self._records.extend(records)
        self._num_bytes += sum(record.num_bytes for record in records)
        self.next_offset = next_offset
        dropped = 0
        while len(self._records) - dropped > self._max_records or self._num_bytes > self._max_bytes:
            self._num_bytes -= self._records[dropped].num_bytes
            self.start_offset = self._records[dropped].offset + 1
            dropped += 1
        if dropped:
            del self._records[:dropped]

    def after(self, offset: int, limit: int) -> Slice | None:
        """At most `limit` records from `offset` on. None: `offset` is older than the ring; read Kafka."""
        if offset < self.start_offset:
            return None
        first = bisect_left(self._records, offset, key=_offset)
        records = self._records[first : first + limit]
        more = first + limit < len(self._records)
        next_offset = records[-1].offset + 1 if more and records else self.next_offset
        if more and not records:  # limit 0
            next_offset = offset
        return Slice(self._partition, records, max(offset, next_offset))


def _offset(record: EventRecord) -> int:
    return record.offset
