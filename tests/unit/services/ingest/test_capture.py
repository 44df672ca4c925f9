"""What a camera's process says of a source when something goes wrong that nobody thought of."""

import threading
from types import SimpleNamespace

import pytest

from models.vlm.frame_sampler import SamplerConfig
from models.vlm.frame_size import FrameBudget
from services.ingest.capture import NUM_TALLIES, CaptureConfig, _Quit, _Run
from services.ingest.link import Start
from services.ingest.source import Source
from services.ingest.video import Video
from streamo.v1 import frame_pb2
from streamo.v1.stream_pb2 import Stream

CAMERA = Source.of(Stream(source="rtsp://cam/1", username="admin", password="canary"))


def run() -> _Run:
    config = CaptureConfig(
        source=CAMERA,
        added_at_us=0,
        budget=FrameBudget(min_pixels=3136, max_pixels=19600),
        sampler=SamplerConfig(),
        pixel_format="rgb24",
        open_timeout_s=5.0,
        stall_timeout_s=5.0,
    )
    link = SimpleNamespace(send_bytes=lambda message: None)
    return _Run(config, [0] * NUM_TALLIES, link, SimpleNamespace(), threading.Event())


def fail_to_open(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*args: object) -> Video:
        raise error

    monkeypatch.setattr(Video, "open", fail)


def test_an_error_that_nobody_thought_of_is_told_by_its_type_and_logged_without_credentials(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    fail_to_open(monkeypatch, LookupError(f"nothing known of {CAMERA.address}"))
    status = run().status_after(lambda: Start(-1))
    assert status.state == frame_pb2.SOURCE_STATE_DISCONNECTED
    assert "LookupError" in status.detail
    assert "nothing known" not in status.detail
    assert "nothing known of rtsp://cam/1" in caplog.text
    assert "canary" not in caplog.text


def test_to_be_told_to_quit_is_no_failure(monkeypatch: pytest.MonkeyPatch):
    fail_to_open(monkeypatch, _Quit())
    with pytest.raises(_Quit):
        run().status_after(lambda: Start(-1))
