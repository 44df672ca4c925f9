"""The media times of all frames that were kept of a stream, as the topic `frames` holds them."""

from kafka import TopicPartition

from services.shared.kafka import reader
from services.shared.settings import KafkaSettings
from services.shared.topics import Topics, partition_of
from streamo.v1.frame_pb2 import FrameRecord


def kept_media_times_ms(settings: KafkaSettings, stream_id: str) -> list[int]:
    """Rising, without repeats. Reads the whole partition: for streams that are short or recent."""
    partition = TopicPartition(Topics.of(settings).frames, partition_of(stream_id, settings.partitions))
    times_ms: set[int] = set()
    with reader(settings, [partition]) as consumer:
        consumer.seek_to_beginning(partition)
        end = consumer.end_offsets([partition])[partition]
        while consumer.position(partition) < end:
            for record in consumer.poll(timeout_ms=500).get(partition, []):
                value = FrameRecord.FromString(record.value)
                if value.stream_id == stream_id:
                    times_ms.update(frame.media_time_ms for frame in value.frames.frames)
    return sorted(times_ms)
