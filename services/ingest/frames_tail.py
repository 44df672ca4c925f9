"""How far a recording had been read before its worker was lost: from the last records of its partition."""

import time
from dataclasses import dataclass

from google.protobuf.message import DecodeError
from kafka import KafkaConsumer, TopicPartition

from services.shared.control_log import AddedStream
from services.shared.errors import TimedOut
from services.shared.kafka import reader
from services.shared.settings import KafkaSettings
from services.shared.topics import Topics, partition_of
from streamo.v1.frame_pb2 import SOURCE_STATE_ENDED, FrameRecord

_FIRST_WINDOW = 64
# Gateways and ingest may stand on machines whose clocks differ by this much.
_CLOCK_SLACK_S = 60.0


@dataclass(frozen=True)
class Tail:
    """`last_media_time_ms`: of the last kept frame, -1 if there is none. `ended`: all of it was read."""

    last_media_time_ms: int = -1
    ended: bool = False


def find_tail(settings: KafkaSettings, added: AddedStream, end: int, timeout_s: float = 60.0) -> Tail:
    """Reads back from offset `end` of the partition until a frame of this stream, at most to when it was added.

    Counts only what readers count: records of epochs later than the stream's own record (an earlier stream may have
    had the same id), and of none that a newer one had overtaken by then. Raises TimedOut: then nothing is known, and
    to guess would be to repeat or to lose frames.
    """
    deadline_s = time.monotonic() + timeout_s
    partition = TopicPartition(
        Topics.of(settings).frames, partition_of(added.stream.stream_id, settings.partitions)
    )
    with reader(settings, [partition]) as consumer:
        floor = _floor(consumer, partition, added, end)
        window = _FIRST_WINDOW
        while end > floor:
            start = max(floor, end - window)
            tail = _tail_within(consumer, partition, added, start, end, deadline_s)
            if tail is not None:
                return tail
            end, window = start, window * 2
    return Tail()


def _floor(consumer: KafkaConsumer, partition: TopicPartition, added: AddedStream, end: int) -> int:
    earliest = consumer.beginning_offsets([partition])[partition]
    added_ms = int(added.stream.added_at_us / 1000 - _CLOCK_SLACK_S * 1000)
    found = consumer.offsets_for_times({partition: max(0, added_ms)})[partition]
    return max(earliest, end if found is None else found.offset)


def _tail_within(
    consumer: KafkaConsumer,
    partition: TopicPartition,
    added: AddedStream,
    start: int,
    end: int,
    deadline_s: float,
) -> Tail | None:
    key = added.stream.stream_id.encode()
    tail, newest_epoch = None, added.version + 1
    consumer.seek(partition, start)
    while consumer.position(partition) < end:
        if time.monotonic() > deadline_s:
            raise TimedOut(f"the last frames of {added.stream.stream_id} could not be read in time")
        for record in consumer.poll(timeout_ms=500).get(partition, []):
            if record.offset >= end or record.key != key or record.value is None:
                continue
            try:
                read = FrameRecord.FromString(record.value)
            except DecodeError:
                continue  # whoever decides the frames names it
            if read.epoch < newest_epoch:
                continue
            newest_epoch = read.epoch
            if read.HasField("frames") and read.frames.frames:
                last_ms = max(frame.media_time_ms for frame in read.frames.frames)
                tail = Tail(max(last_ms, tail.last_media_time_ms if tail else -1), False)
            elif read.HasField("status") and read.status.state == SOURCE_STATE_ENDED:
                tail = Tail(tail.last_media_time_ms if tail else -1, True)
    return tail
