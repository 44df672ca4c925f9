"""Which streams a worker has room for, and what ends it, with Kafka and what it says replaced."""

import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from kafka import TopicPartition

from models.vlm.frame_size import FrameBudget
from services.ingest import worker
from services.ingest.delivery_watch import FORGOTTEN_AFTER_S, DeliveryWatch
from services.shared.control_log import AddedStream, ControlView
from services.shared.errors import Unavailable
from services.shared.settings import IngestSettings, KafkaSettings, Settings
from services.shared.telemetry import Metrics
from streamo.v1.frame_pb2 import SOURCE_STATE_UNSUPPORTED, SourceState
from streamo.v1.stream_pb2 import Stream

TIMEOUT_S = 10.0


class Log:
    """In place of a FrameLog and its StreamLogs; `unsupported` has the ids of the streams that were told so."""

    def __init__(self, *args: object) -> None:
        self.settings = KafkaSettings()
        self.telemetry = None
        self.now_s = 0.0
        self.deliveries = DeliveryWatch(lambda: self.now_s)
        self.unsupported: set[str] = set()

    def of(self, added: AddedStream, stopping: object = None) -> SimpleNamespace:
        def write_status(state: SourceState, detail: str, retry_in_s: float) -> None:
            if state == SOURCE_STATE_UNSUPPORTED:
                self.unsupported.add(added.stream.stream_id)

        return SimpleNamespace(epoch=None, write_status=write_status)

    def close(self, timeout_s: float) -> None:
        pass


def make_worker(
    monkeypatch: pytest.MonkeyPatch, log: Log, view: ControlView, gauges: dict[str, Callable[[], float]]
) -> worker.Worker:
    settings = Settings(kafka=KafkaSettings(partitions=1), ingest=IngestSettings(max_streams=1))
    control = SimpleNamespace(start=lambda: None, stop=lambda timeout_s: None, view=view)
    consumer = SimpleNamespace(
        poll=lambda timeout_ms: time.sleep(0.01),
        assignment=lambda: {TopicPartition("frames", 0)},
        close=lambda timeout_ms: None,
    )
    monkeypatch.setattr(worker, "FrameLog", lambda *args: log)
    monkeypatch.setattr(worker, "ControlReader", lambda *args, **options: control)
    monkeypatch.setattr(worker, "member", lambda *args: consumer)
    monkeypatch.setattr(worker, "frame_budget", lambda settings: FrameBudget(3136, 19600))
    return worker.Worker(settings, SimpleNamespace(gauge=gauges.__setitem__))


def test_a_stream_that_has_nothing_to_run_takes_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    view = ControlView(
        streams={
            name: AddedStream(Stream(stream_id=name, source="ftp://cam"), 1) for name in ("gate", "yard")
        }
    )
    log = Log()
    gauges: dict[str, Callable[[], float]] = {}
    made = make_worker(monkeypatch, log, view, gauges)
    deadline_s = time.monotonic() + TIMEOUT_S
    num_running = -1.0

    def is_over() -> bool:
        nonlocal num_running
        num_running = gauges[Metrics.STREAMS_RUNNING]()
        return (len(log.unsupported) == 2 and num_running == 0) or time.monotonic() > deadline_s

    made.run(SimpleNamespace(is_set=is_over))
    assert log.unsupported == {"gate", "yard"}
    assert num_running == 0


def test_a_kafka_client_that_stands_still_ends_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log()
    made = make_worker(monkeypatch, log, ControlView(), {})
    log.deliveries.sent()
    rounds = 0

    def is_over() -> bool:
        nonlocal rounds
        rounds += 1
        log.now_s += FORGOTTEN_AFTER_S / 2
        return rounds > 10

    with pytest.raises(Unavailable, match="neither delivered nor given up"):
        made.run(SimpleNamespace(is_set=is_over))
    assert rounds == 3
