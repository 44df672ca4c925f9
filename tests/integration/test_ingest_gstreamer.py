"""Ingest from an RTSP server that is not ours: GStreamer's, as Debian ships it."""

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.shared.settings import IngestSettings, KafkaSettings, ModelSettings, Settings
from streamo.v1 import frame_pb2
from tests.support.ingest_rig import WAIT_S, Rig
from tests.support.waiting import poll_until

PYTHON = "/usr/bin/python3"
SCRIPT = Path(__file__).with_name("gst_camera.py")
PROBE = """
import gi
gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gst, GstRtspServer
Gst.init(None)
assert Gst.ElementFactory.find("x264enc") and Gst.ElementFactory.find("rtph264pay")
"""


def gstreamer_is_there() -> bool:
    try:
        return subprocess.run([PYTHON, "-c", PROBE], capture_output=True, timeout=30).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


@pytest.fixture
def gst_camera() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The server's process and its address."""
    if not gstreamer_is_there():
        pytest.skip(
            "GStreamer's RTSP server is missing: apt-get install gir1.2-gst-rtsp-server-1.0 python3-gi "
            "gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly"
        )
    process = subprocess.Popen([PYTHON, str(SCRIPT)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process, f"rtsp://127.0.0.1:{int(process.stdout.readline())}/ball"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def rig(kafka_settings: KafkaSettings, tmp_path: Path) -> Iterator[Rig]:
    (tmp_path / "preprocessor_config.json").write_text('{"min_pixels": 3136, "max_pixels": 19600}')
    ingest = IngestSettings(
        stall_timeout_s=2.0,
        open_timeout_s=5.0,
        backoff_min_s=0.1,
        backoff_max_s=0.5,
        min_fps=4.0,
        max_fps=4.0,
    )
    rig = Rig(Settings(kafka=kafka_settings, ingest=ingest, model=ModelSettings(path=tmp_path)))
    yield rig
    rig.close()


def test_a_foreign_camera_is_read_and_its_freezing_and_dying_survived(
    rig: Rig, gst_camera: tuple[subprocess.Popen[str], str]
):
    server, url = gst_camera
    rig.start_worker()
    rig.add("ball", url)
    frames = rig.wait_frames("ball", 6)
    assert [frame.frame_seq for frame in frames] == list(range(len(frames)))
    assert {(frame.height, frame.width) for frame in frames} == {(112, 140)}
    assert len({frame.data for frame in frames}) == len(frames)  # the ball moves

    server.send_signal(signal.SIGSTOP)
    assert "sent nothing" in rig.wait_status("ball", frame_pb2.SOURCE_STATE_DISCONNECTED).detail
    server.send_signal(signal.SIGCONT)
    poll_until(lambda: len(rig.epochs("ball")) == 2, WAIT_S, "frames after the freeze")

    server.kill()
    poll_until(lambda: len(rig.statuses("ball")) >= 2, WAIT_S, "the end of the server being told")
    second = rig.epochs("ball")[1]
    frames = rig.frames("ball", second)
    assert [frame.frame_seq for frame in frames] == list(range(len(frames)))
    assert rig.statuses("ball")[-1].num_kept == len(frames)
