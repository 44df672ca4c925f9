"""Pictures that were let go of, read again from the real Kafka."""

from collections.abc import Iterator

import numpy as np
import pytest
from kafka import TopicPartition
from kafka.admin import KafkaAdminClient
from support.scripted_engine import SIZE

from models.vlm.frame_size import FrameBudget
from services.llm.frame import Frame
from services.llm.frame_reader import FrameReader
from services.llm.picture_reader import PictureExpired, PictureReader
from services.shared.kafka import producer, reader
from services.shared.settings import KafkaSettings
from services.shared.topics import Topics
from streamo.v1 import frame_pb2
from streamo.v1.frame_pb2 import FrameBatch, FrameRecord, PixelFormat

NUM_RECORDS = 200  # of two frames each, on each partition
FRAME_READER = FrameReader(FrameBudget(min_pixels=SIZE * SIZE, max_pixels=4 * SIZE * SIZE))


@pytest.fixture
def frames(kafka_settings: KafkaSettings) -> dict[int, list[Frame]]:
    """As the replica has read them, by partition."""
    writing, topic = producer(kafka_settings), Topics.of(kafka_settings).frames
    for partition in (0, 1):
        for number in range(NUM_RECORDS):
            batch = [_frame(partition, 2 * number), _frame(partition, 2 * number + 1)]
            record = FrameRecord(stream_id="gate", epoch=1, frames=FrameBatch(frames=batch))
            writing.send(topic, key=b"gate", value=record.SerializeToString(), partition=partition)
    writing.flush()
    writing.close(timeout=5)
    found: dict[int, list[Frame]] = {}
    for partition in (0, 1):
        at = TopicPartition(topic, partition)
        with reader(kafka_settings, [at]) as consumer:
            consumer.seek(at, 0)
            read = found[partition] = []
            while len(read) < 2 * NUM_RECORDS:
                for record in consumer.poll(timeout_ms=200).get(at, []):
                    read += FRAME_READER.read(record)
    return found


@pytest.fixture
def pictures(kafka_settings: KafkaSettings) -> Iterator[PictureReader]:
    pictures = PictureReader(kafka_settings, FRAME_READER, timeout_s=20)
    yield pictures
    pictures.close(5)


def test_every_picture_comes_again_in_whatever_order(
    frames: dict[int, list[Frame]], pictures: PictureReader
) -> None:
    rng = np.random.default_rng(0)
    near = [(0, index) for index in range(60)]
    far = [(int(rng.integers(2)), int(rng.integers(2 * NUM_RECORDS))) for _ in range(60)]
    asked = [(frames[partition][index], partition) for partition, index in near + far]
    loading = [pictures.load(partition, frame.without_picture()) for frame, partition in asked]
    for (frame, _), picture in zip(asked, loading, strict=True):
        np.testing.assert_array_equal(picture.result(30), frame.pixels)


def test_a_picture_that_retention_has_deleted_is_told_and_harms_no_other(
    frames: dict[int, list[Frame]], pictures: PictureReader, kafka_settings: KafkaSettings
) -> None:
    admin = KafkaAdminClient(bootstrap_servers=kafka_settings.bootstrap_servers)
    admin.delete_records({TopicPartition(Topics.of(kafka_settings).frames, 0): 100})
    admin.close()
    gone, kept = pictures.load(0, frames[0][20]), pictures.load(0, frames[0][200])
    with pytest.raises(PictureExpired, match="deleted by retention"):
        gone.result(30)
    np.testing.assert_array_equal(kept.result(30), frames[0][200].pixels)


def _frame(partition: int, number: int) -> frame_pb2.Frame:
    picture = np.zeros((SIZE, SIZE, 3), dtype=np.uint8)
    picture[0, 0] = (partition, number // 256, number % 256)
    return frame_pb2.Frame(
        frame_seq=number,
        media_time_ms=number,
        captured_at_us=1,
        width=SIZE,
        height=SIZE,
        format=PixelFormat.PIXEL_FORMAT_RGB24,
        data=picture.tobytes(),
    )
