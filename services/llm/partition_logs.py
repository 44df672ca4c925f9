"""What Kafka holds of one partition, read by a consumer of its own that joins no group."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Protocol

from kafka import TopicPartition
from kafka.consumer.fetcher import ConsumerRecord

from services.llm.assignment import GROUP
from services.shared.errors import TimedOut
from services.shared.kafka import reader
from services.shared.settings import KafkaSettings
from services.shared.topics import Topics


class PartitionLogs(Protocol):
    """The partition's part of `frames`, `events` and `state`, by the topic's name. Committed records only."""

    def committed(self) -> int | None:
        """The group's offset of `frames`."""
        ...

    def begin(self, topic: str) -> int: ...
    def end(self, topic: str) -> int: ...

    def records(self, topic: str, begin: int, end: int) -> Iterator[ConsumerRecord]:
        """Those of begin <= offset < end, as far as they are kept."""
        ...


class KafkaPartitionLogs:
    """Everything here blocks, and ends at `deadline_s` of the monotonic clock. Not thread-safe.

    Ends are those at the time of construction. Also tells the end of `control`, which has one partition only.
    """

    def __init__(self, settings: KafkaSettings, partition: int, deadline_s: float) -> None:
        topics = Topics.of(settings)
        self._deadline_s = deadline_s
        self._partitions = {
            name: TopicPartition(name, partition) for name in (topics.frames, topics.events, topics.state)
        }
        self._partitions[topics.control] = TopicPartition(topics.control, 0)
        self._frames = self._partitions[topics.frames]
        self._consumer = reader(settings, self._partitions.values(), group=GROUP)
        self._ends = self._consumer.end_offsets(list(self._partitions.values()))
        self._begins = self._consumer.beginning_offsets(list(self._partitions.values()))
        for found in self._partitions.values():
            # With a position no reset is tried, and none is allowed.
            self._consumer.seek(found, 0)
            self._consumer.pause(found)

    def __enter__(self) -> KafkaPartitionLogs:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close(autocommit=False)

    def committed(self) -> int | None:
        offset = self._consumer.committed(self._frames)
        return None if offset is None else int(offset)

    def begin(self, topic: str) -> int:
        return int(self._begins[self._partitions[topic]])

    def end(self, topic: str) -> int:
        return int(self._ends[self._partitions[topic]])

    def records(self, topic: str, begin: int, end: int) -> Iterator[ConsumerRecord]:
        """Raises TimedOut."""
        partition = self._partitions[topic]
        begin, end = max(begin, self.begin(topic)), min(end, self.end(topic))
        if begin >= end:
            return
        self._consumer.seek(partition, begin)
        self._consumer.resume(partition)
        # Transaction markers and compaction leave offsets without a record; the position passes them.
        while self._consumer.position(partition) < end:
            if time.monotonic() > self._deadline_s:
                raise TimedOut(f"{partition} could not be read up to {end} in time")
            for record in self._consumer.poll(timeout_ms=200).get(partition, ()):
                if record.offset < end:
                    yield record
        self._consumer.pause(partition)
