"""A stream's epochs, with what writes to Kafka replaced."""

import threading
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from kafka.errors import KafkaTimeoutError

from services.ingest.delivery_watch import DeliveryWatch
from services.ingest.frame_log import StreamLog
from services.shared.control_log import AddedStream
from services.shared.errors import Unavailable
from services.shared.settings import KafkaSettings
from streamo.v1.control_pb2 import ControlRecord
from streamo.v1.frame_pb2 import SOURCE_STATE_DISCONNECTED, SOURCE_STATE_NOT_FOUND, FrameRecord, SourceStatus
from streamo.v1.stream_pb2 import Stream


def stream_log(write: Callable[[bytes, ControlRecord], int], stopping: threading.Event | None) -> StreamLog:
    log = SimpleNamespace(
        settings=KafkaSettings(), worker_id="worker", control=SimpleNamespace(write=write), producer=None
    )
    return StreamLog(log, AddedStream(Stream(stream_id="gate"), 1), stopping)


def test_a_stream_that_is_stopped_while_its_epoch_begins_writes_nothing_in_it() -> None:
    stopping = threading.Event()

    def write(key: bytes, record: ControlRecord) -> int:
        stopping.set()  # its partition was taken away; Kafka has the record all the same
        return 7

    with pytest.raises(Unavailable, match="stopped"):
        stream_log(write, stopping).begin_epoch()
    stopping.clear()
    with pytest.raises(Unavailable, match="stopped"):
        stream_log(write, stopping).write_status(SOURCE_STATE_DISCONNECTED, "away", 0.0)


def test_what_is_tried_once_is_not_tried_again() -> None:
    tries: list[bytes] = []

    def write(key: bytes, record: ControlRecord) -> int:
        tries.append(key)
        raise Unavailable("Kafka is away")

    with pytest.raises(Unavailable):
        stream_log(write, None).begin_epoch()
    assert tries == [b"epoch/gate"]


class Partition:
    """In place of the Kafka client: holds the statuses that it is sent, and says that each stands at `offset`."""

    def __init__(self, offset: int = 0, error: KafkaTimeoutError | None = None) -> None:
        self.statuses: list[SourceStatus] = []
        self._offset = offset
        self._error = error

    def send(self, topic: str, *, value: bytes, **_: object) -> SimpleNamespace:
        self.statuses.append(FrameRecord.FromString(value).status)

        def get(timeout: float) -> SimpleNamespace:
            if self._error is not None:
                raise self._error
            return SimpleNamespace(offset=self._offset)

        return SimpleNamespace(get=get, add_callback=lambda call: None, add_errback=lambda call: None)


def opened_again(partition: Partition) -> StreamLog:
    log = SimpleNamespace(
        settings=KafkaSettings(),
        topic="frames",
        worker_id="worker",
        control=SimpleNamespace(write=lambda key, record: 7),
        producer=partition,
        deliveries=DeliveryWatch(),
    )
    stream = StreamLog(log, AddedStream(Stream(stream_id="gate"), 1), None)
    stream.begin_epoch()
    return stream


@pytest.mark.parametrize(
    ("partition", "mark"),
    [(Partition(41), 41), (Partition(-1), None), (Partition(error=KafkaTimeoutError("away")), None)],
)
def test_where_a_mark_stands_is_not_guessed(partition: Partition, mark: int | None) -> None:
    assert opened_again(partition).mark_epoch("opened again", 1.0) == mark


def test_a_mark_that_the_client_has_no_room_for_stands_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def send(*_: object, **__: object) -> None:
        raise KafkaTimeoutError("full")

    partition = Partition()
    monkeypatch.setattr(partition, "send", send)
    assert opened_again(partition).mark_epoch("opened again", 1.0) is None


def test_a_mark_repeats_what_was_told_last_and_says_its_own_where_nothing_was() -> None:
    partition = Partition()
    log = opened_again(partition)
    log.mark_epoch("opened again", 1.0)
    log.write_status(SOURCE_STATE_NOT_FOUND, "no such file", 2.0)
    log.begin_epoch()
    log.mark_epoch("opened again", 1.0)
    assert [(status.state, status.detail) for status in partition.statuses] == [
        (SOURCE_STATE_DISCONNECTED, "opened again"),
        (SOURCE_STATE_NOT_FOUND, "no such file"),
        (SOURCE_STATE_NOT_FOUND, "no such file"),
    ]
