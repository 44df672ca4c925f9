"""The media times of all frames that were kept of a stream, as the topic `frames` holds them."""

import time

from kafka import TopicPartition
from kafka.errors import KafkaTimeoutError

from services.shared.errors import TimedOut
from services.shared.kafka import reader
from services.shared.settings import KafkaSettings
from services.shared.topics import Topics, partition_of
from streamo.v1.frame_pb2 import FrameRecord

_POLL_MS = 500


def kept_media_times_ms(settings: KafkaSettings, stream_id: str, timeout_s: float = 60.0) -> list[int]:
    """Rising, without repeats. Reads the whole partition: for streams that are short or recent. Raises TimedOut."""
    deadline_s = time.monotonic() + timeout_s
    partition = TopicPartition(Topics.of(settings).frames, partition_of(stream_id, settings.partitions))
    times_ms: set[int] = set()
    try:
        with reader(settings, [partition]) as consumer:
            consumer.seek(partition, consumer.beginning_offsets([partition])[partition])
            end = consumer.end_offsets([partition])[partition]
            while consumer.position(partition, timeout_ms=_POLL_MS) < end:
                if time.monotonic() > deadline_s:
                    raise _too_late(stream_id)
                for record in consumer.poll(timeout_ms=_POLL_MS).get(partition, []):
                    value = FrameRecord.FromString(record.value)
                    if value.stream_id == stream_id:
                        times_ms.update(frame.media_time_ms for frame in value.frames.frames)
    except KafkaTimeoutError as error:
        raise _too_late(stream_id) from error
    return sorted(times_ms)


def _too_late(stream_id: str) -> TimedOut:
    return TimedOut(f"the kept frames of {stream_id} could not be read in time: does Kafka still run?")
