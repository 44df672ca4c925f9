"""A stream's epochs, with what writes to Kafka replaced."""

import threading
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from services.ingest.frame_log import StreamLog
from services.shared.control_log import AddedStream
from services.shared.errors import Unavailable
from services.shared.settings import KafkaSettings
from streamo.v1.control_pb2 import ControlRecord
from streamo.v1.frame_pb2 import SOURCE_STATE_DISCONNECTED
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
