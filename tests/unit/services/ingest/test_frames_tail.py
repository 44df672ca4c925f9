"""How far a recording was read: what counts of a partition in which two workers wrote at once."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from kafka import TopicPartition

from services.ingest import frames_tail
from services.ingest.frames_tail import Tail, find_tail
from services.shared.control_log import AddedStream
from services.shared.settings import KafkaSettings
from streamo.v1.frame_pb2 import (
    SOURCE_STATE_DISCONNECTED,
    SOURCE_STATE_ENDED,
    Frame,
    FrameBatch,
    FrameRecord,
    SourceState,
    SourceStatus,
)
from streamo.v1.stream_pb2 import Stream

ADDED = AddedStream(Stream(stream_id="gate"), 1)
OLD, NEW = 5, 8


class Partition:
    """A consumer of one partition, which holds these records from offset 0."""

    def __init__(self, name: TopicPartition, records: Sequence[FrameRecord]) -> None:
        self._name = name
        self._records = [
            SimpleNamespace(offset=offset, key=record.stream_id.encode(), value=record.SerializeToString())
            for offset, record in enumerate(records)
        ]
        self._next = 0

    def beginning_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        return {self._name: 0}

    def offsets_for_times(self, times: dict[TopicPartition, int]) -> dict[TopicPartition, SimpleNamespace]:
        return {self._name: SimpleNamespace(offset=0)}

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self._next = offset

    def position(self, partition: TopicPartition) -> int:
        return self._next

    def poll(self, timeout_ms: int) -> dict[TopicPartition, list[SimpleNamespace]]:
        records, self._next = self._records[self._next :], len(self._records)
        return {self._name: records}


def frame(epoch: int, media_time_ms: int, stream_id: str = "gate") -> FrameRecord:
    batch = FrameBatch(frames=[Frame(media_time_ms=media_time_ms)])
    return FrameRecord(stream_id=stream_id, epoch=epoch, frames=batch)


def status(epoch: int, state: SourceState = SOURCE_STATE_DISCONNECTED) -> FrameRecord:
    return FrameRecord(stream_id="gate", epoch=epoch, status=SourceStatus(state=state))


@pytest.mark.parametrize(
    ("records", "end", "tail"),
    [
        ([], 0, Tail()),
        ([frame(1, 700)], 1, Tail()),  # of a former stream of this id
        ([frame(OLD, 0), frame(OLD, 1000), frame(OLD, 9000, "yard"), status(NEW)], 3, Tail(1000)),
        # What lands after the mark of the newer epoch is nobody's, whether the mark is ours or of a worker before us.
        ([frame(OLD, 0), status(NEW), frame(OLD, 1000)], 1, Tail(0)),
        ([frame(OLD, 0), status(NEW), frame(OLD, 1000), status(NEW + 1)], 3, Tail(0)),
        ([frame(OLD, 0), status(NEW), *(frame(OLD, 1000 * n) for n in range(1, 200))], 1, Tail(0)),
        ([frame(OLD, 0), status(OLD, SOURCE_STATE_ENDED), status(NEW)], 2, Tail(0, ended=True)),
        ([frame(OLD, 0), *(frame(OLD, n, "yard") for n in range(200)), status(NEW)], 201, Tail(0)),
    ],
)
def test_what_readers_count_is_what_was_read(
    records: list[FrameRecord], end: int, tail: Tail, monkeypatch: pytest.MonkeyPatch
):
    @contextmanager
    def reader(settings: KafkaSettings, partitions: list[TopicPartition]) -> Iterator[Partition]:
        yield Partition(*partitions, records)

    monkeypatch.setattr(frames_tail, "reader", reader)
    assert find_tail(KafkaSettings(), ADDED, end) == tail
