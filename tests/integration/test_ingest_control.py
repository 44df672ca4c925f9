"""Writing to `control` over an outage of Kafka."""

import threading

import pytest

from services.local.kafka_broker import KafkaBroker
from services.shared.control_log import ControlWriter, stream_key
from services.shared.errors import Unavailable
from services.shared.settings import KafkaSettings
from streamo.v1.control_pb2 import ControlRecord
from streamo.v1.stream_pb2 import Stream
from tests.support.waiting import poll_until


def test_a_writer_that_timed_out_writes_again_once_kafka_is_back(
    kafka_settings: KafkaSettings, broker: KafkaBroker
):
    writer = ControlWriter(kafka_settings, timeout_s=2.0)
    record = ControlRecord(stream=Stream(stream_id="s"))
    last = writer.write(stream_key("s"), record)
    stopping = threading.Event()
    failures = []

    def keep_writing() -> None:
        # So that a record is under way when Kafka dies: that is what the client does not get over by itself.
        while not stopping.is_set():
            try:
                writer.write(stream_key("s"), record)
            except Unavailable as error:
                failures.append(error)

    thread = threading.Thread(target=keep_writing)
    thread.start()
    try:
        broker.kill()
        with pytest.raises(Unavailable):
            writer.write(stream_key("s"), record)
        poll_until(lambda: failures, what="the other thread's failure")
        broker.start()
    finally:
        stopping.set()
        thread.join()

    def written() -> int | None:
        try:
            return writer.write(stream_key("s"), record)
        except Unavailable:
            return None

    assert poll_until(written, 60.0) > last
    writer.close()
