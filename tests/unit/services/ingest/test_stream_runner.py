"""How a recording is opened again and how a stream's thread ends, with its camera's process and Kafka replaced."""

import random
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from models.vlm.frame_size import FrameBudget
from services.ingest import stream_runner
from services.ingest.frames_tail import Tail
from services.ingest.stream_runner import RunEnd, StreamRunner
from services.shared.control_log import AddedStream
from services.shared.settings import IngestSettings
from streamo.v1 import frame_pb2
from streamo.v1.stream_pb2 import Stream


class Log:
    """In place of a FrameLog and its StreamLog; `on_drain` is told which drain it is, and that went well."""

    settings = telemetry = None

    def __init__(self, on_drain: Callable[[int], None]) -> None:
        self.written: list[str] = []
        self._on_drain = on_drain
        self._num_drains = 0

    def of(self, added: AddedStream, stopping: object) -> "Log":
        return self

    def drain(self, timeout_s: float) -> bool:
        self._num_drains += 1
        self._on_drain(self._num_drains)
        return True

    def write_status(self, state: frame_pb2.SourceState, detail: str, retry_in_s: float) -> None:
        self.written.append(frame_pb2.SourceState.Name(state))

    def write_end(self) -> None:
        self.written.append("end")


@pytest.mark.parametrize(
    ("stopped_in_drain", "written"),
    [(1, []), (2, ["SOURCE_STATE_ENDED"]), (None, ["SOURCE_STATE_ENDED", "end"])],
)
def test_a_recording_that_is_stopped_at_its_end_writes_nothing_more(
    monkeypatch: pytest.MonkeyPatch, stopped_in_drain: int | None, written: list[str]
) -> None:
    def on_drain(which: int) -> None:
        if which == stopped_in_drain:
            runner.stop_soon()  # its partition is taken away while Kafka takes what is left

    monkeypatch.setattr(StreamRunner, "_run_once", lambda *args: RunEnd(frame_pb2.SOURCE_STATE_ENDED, "over"))
    log = Log(on_drain)
    added = AddedStream(Stream(stream_id="gate", source="/videos/a.mp4"), 1)
    budget = FrameBudget(min_pixels=3136, max_pixels=19600)
    runner = StreamRunner(added, False, log, IngestSettings(), budget, random.Random(0))
    runner.start()
    assert runner.join(10.0)
    assert runner.failure is None
    assert log.written == written


@pytest.mark.parametrize("mark", [41, None])
def test_how_far_a_recording_came_is_looked_up_behind_the_mark_of_its_new_epoch(
    monkeypatch: pytest.MonkeyPatch, mark: int | None
) -> None:
    steps: list[object] = []
    log = SimpleNamespace(
        begin_epoch=lambda: steps.append("epoch"),
        mark_epoch=lambda detail, timeout_s: steps.append("mark") or mark,
        settings=None,
        telemetry=None,
    )
    log.of = lambda added, stopping: log
    monkeypatch.setattr(stream_runner, "find_tail", lambda *args: steps.append(args[-1]) or Tail(1500))
    added = AddedStream(Stream(stream_id="gate", source="/videos/a.mp4"), 1)
    budget = FrameBudget(min_pixels=3136, max_pixels=19600)
    runner = StreamRunner(added, True, log, IngestSettings(), budget, random.Random(0))
    # Without a mark nothing is known of what an older worker may still write.
    assert runner._begin_recording() == (None if mark is None else Tail(1500))
    assert steps == ["epoch", "mark"] + ([] if mark is None else [mark])
