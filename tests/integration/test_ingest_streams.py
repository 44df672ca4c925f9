"""Ingest, from a source to Kafka: real RTSP and HTTP, real processes, a real broker."""

import http.server
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import psutil
import pytest

from models.vlm.frame_size import FrameBudget
from services.camera.access import Access
from services.camera.camera import Camera
from services.local.kafka_broker import KafkaBroker
from services.shared.control_log import epoch_key
from services.shared.settings import IngestSettings, KafkaSettings, ModelSettings, Settings
from services.shared.telemetry import Metrics
from services.shared.topics import partition_of
from streamo.v1 import frame_pb2
from streamo.v1.control_pb2 import ControlRecord, EpochBegin
from streamo.v1.frame_pb2 import Frame
from tests.support.camera_host import CameraHost, CountingSource, number_if_whole, number_in
from tests.support.ingest_rig import WAIT_S, Rig, camera_processes, picture_of
from tests.support.waiting import poll_until

FPS = 10
CANARY = "canary-p@ss/w:rd%"

MakeRig = Callable[..., Rig]


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    (tmp_path / "preprocessor_config.json").write_text('{"min_pixels": 3136, "max_pixels": 19600}')
    return tmp_path


@pytest.fixture
def make_rig(kafka_settings: KafkaSettings, model_dir: Path) -> Iterator[MakeRig]:
    """make_rig(max_fps=10, ...) -> a rig with these ingest settings, quick to try again."""
    rigs = []

    def make(**values: object) -> Rig:
        quick = {"backoff_min_s": 0.1, "backoff_max_s": 0.5, "backoff_hopeless_s": 0.3}
        timeouts = {"open_timeout_s": 3.0, "stall_timeout_s": 3.0}
        ingest = IngestSettings.model_validate(
            {**quick, **timeouts, "max_fps": 4.0, "min_fps": 4.0, **values}
        )
        rig = Rig(Settings(kafka=kafka_settings, ingest=ingest, model=ModelSettings(path=model_dir)))
        rigs.append(rig)
        return rig

    yield make
    for rig in rigs:
        rig.close()


def camera(name: str = "gate", fps: int = FPS) -> Camera:
    return Camera(name, CountingSource(fps), height=144, width=176, fps=fps)


@pytest.fixture
def host() -> Iterator[CameraHost]:
    with CameraHost([camera()]) as host:
        yield host


@pytest.fixture
def make_video(tmp_path: Path) -> Callable[[float], Path]:
    """make_video(seconds) -> a file of counting pictures, ten a second."""

    def make(seconds: float) -> Path:
        path = tmp_path / f"counting {seconds:g}s.mp4"
        source = CountingSource(FPS)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=FPS)
            stream.width, stream.height, stream.pix_fmt = 176, 144, "yuv420p"
            stream.codec_context.gop_size = FPS
            for number in range(round(seconds * FPS)):
                picture = source.picture(number * 1000 // FPS, 144, 176)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
            container.mux(stream.encode())
        return path

    return make


def media_times(frames: list[Frame]) -> list[int]:
    return [frame.media_time_ms for frame in frames]


def seqs(frames: list[Frame]) -> list[int]:
    return [frame.frame_seq for frame in frames]


def rises(values: list[int]) -> bool:
    return all(later > earlier for earlier, later in pairwise(values))


# Live cameras


def test_kept_frames_of_a_camera_are_in_kafka_as_the_protocol_says(make_rig: MakeRig, host: CameraHost):
    rig = make_rig()
    rig.start_worker()
    version = rig.add("gate", host.url("gate"))
    frames = rig.wait_frames("gate", 12)
    (epoch,) = rig.epochs("gate")
    assert epoch > version
    assert rig.view.epochs["gate"] == epoch
    assert seqs(frames) == list(range(len(frames)))
    assert rises(media_times(frames))
    budget = FrameBudget.load(rig.settings.model.path)
    for frame in frames:
        assert (frame.height, frame.width) == budget.fit(144, 176)
        assert frame.format == frame_pb2.PIXEL_FORMAT_RGB24
        assert len(frame.data) == frame.height * frame.width * 3
    shown = [number_in(picture_of(frame)) for frame in frames]
    assert rises(shown)
    # What is seen on the way from one kept frame to the next, this one included, is told.
    assert [frame.num_seen for frame in frames[1:]] == list(np.diff(shown))
    for partition, key, record in rig.records:
        assert (key, partition) == (b"gate", partition_of("gate", 2))
        assert record.stream_id == "gate"
        assert len(record.frames.frames) == 1


def test_a_frame_is_stamped_with_media_time_since_the_stream_was_added_and_the_moment_it_was_there(
    make_rig: MakeRig, host: CameraHost
):
    rig = make_rig()
    rig.start_worker()
    rig.add("gate", host.url("gate"))
    frames = rig.wait_frames("gate", 8)
    added_at_us = rig.view.streams["gate"].stream.added_at_us
    started_at_us = host.cameras["gate"].started_at_us
    for frame in frames:
        shown_at_us = started_at_us + number_in(picture_of(frame)) * 1_000_000 // FPS
        assert frame.captured_at_us >= shown_at_us
        # Both are the same wall clock; the camera's delay is all that lies between them.
        since_added_ms = (frame.captured_at_us - added_at_us) / 1000
        assert -1 <= since_added_ms - frame.media_time_ms < 1000


def test_frames_may_travel_as_jpeg(make_rig: MakeRig, host: CameraHost):
    rig = make_rig(pixel_format="jpeg")
    rig.start_worker()
    rig.add("gate", host.url("gate"))
    shown = []
    for frame in rig.wait_frames("gate", 4):
        assert frame.format == frame_pb2.PIXEL_FORMAT_JPEG
        (decoded,) = av.CodecContext.create("mjpeg", "r").decode(av.Packet(frame.data))
        assert (decoded.height, decoded.width) == (frame.height, frame.width)
        shown.append(number_in(decoded.to_ndarray(format="rgb24")))
    assert rises(shown)


def test_a_lost_camera_is_told_once_and_comes_back_in_a_new_epoch(make_rig: MakeRig, host: CameraHost):
    rig = make_rig()
    rig.start_worker()
    rig.add("gate", host.url("gate"))
    rig.wait_frames("gate", 3)
    host.set_fault("gate", "refuse")
    host.set_fault("gate", "close")
    status = rig.wait_status("gate", frame_pb2.SOURCE_STATE_DISCONNECTED)
    (first,) = rig.epochs("gate")
    before = rig.frames("gate", first)
    assert status.num_kept == len(before)
    assert "closed the connection" in status.detail
    host.set_fault("gate", "none")
    second = poll_until(lambda: [*rig.epochs("gate"), 0][1], WAIT_S, "a second epoch")
    assert second > first
    after = rig.wait_frames("gate", 3, second)
    assert seqs(after) == list(range(len(after)))
    assert rises(media_times(before + after))


def test_a_camera_that_stalls_is_opened_again(make_rig: MakeRig, host: CameraHost):
    rig = make_rig(stall_timeout_s=1.0)
    rig.start_worker()
    rig.add("gate", host.url("gate"))
    rig.wait_frames("gate", 2)
    host.set_fault("gate", "stall")
    assert "sent nothing for 1 s" in rig.wait_status("gate", frame_pb2.SOURCE_STATE_DISCONNECTED).detail
    host.set_fault("gate", "none")
    poll_until(lambda: len(rig.epochs("gate")) == 2, WAIT_S, "a second epoch")


def test_a_camera_that_changes_its_size_goes_on_in_the_same_epoch(make_rig: MakeRig, host: CameraHost):
    rig = make_rig()
    rig.start_worker()
    rig.add("gate", host.url("gate"))
    rig.wait_frames("gate", 2)
    host.set_fault("gate", "resize")
    frames = rig.wait_frames("gate", 8)
    assert len(rig.epochs("gate")) == 1
    assert rises([number_in(picture_of(frame)) for frame in frames])


def test_each_way_of_failing_has_its_state_and_one_bad_camera_does_not_disturb_another(make_rig: MakeRig):
    expected = {
        "refuse": frame_pb2.SOURCE_STATE_DISCONNECTED,
        "mute": frame_pb2.SOURCE_STATE_DISCONNECTED,
        "no_play": frame_pb2.SOURCE_STATE_DISCONNECTED,
        "unauthorized": frame_pb2.SOURCE_STATE_AUTH_FAILED,
        "not_found": frame_pb2.SOURCE_STATE_NOT_FOUND,
        "audio_only": frame_pb2.SOURCE_STATE_UNSUPPORTED,
    }
    rig = make_rig(max_fps=2.0, min_fps=2.0, stall_timeout_s=2.0)
    with CameraHost([camera(name) for name in (*expected, "good")]) as host:
        for name in expected:
            host.set_fault(name, name)
        rig.start_worker()
        for name in (*expected, "good"):
            rig.add(name, host.url(name))
        for name, state in expected.items():
            status = rig.wait_status(name, state)
            assert status.num_kept == 0
            assert status.retry_in_ms > 0
            # A status stands in an epoch, which its stream has in `control`.
            assert rig.read(name)[0].epoch == rig.view.epochs[name]
        good = rig.wait_frames("good", 6)
        assert seqs(good) == list(range(len(good)))
        # Told when it changes, and not with each of the tries there have been.
        host.set_fault("unauthorized", "not_found")
        rig.wait_status("unauthorized", frame_pb2.SOURCE_STATE_NOT_FOUND)
        host.set_fault("unauthorized", "none")
        rig.wait_frames("unauthorized", 1)
        assert [status.state for status in rig.statuses("unauthorized")] == [
            frame_pb2.SOURCE_STATE_AUTH_FAILED,
            frame_pb2.SOURCE_STATE_NOT_FOUND,
        ]


def test_sources_that_ingest_does_not_open_are_unsupported(make_rig: MakeRig, tmp_path: Path):
    rig = make_rig(file_roots=(tmp_path / "videos",))
    rig.start_worker()
    (tmp_path / "no-video").write_text("text")
    for name, source in {"scheme": "gopher://x", "root": "/etc/passwd"}.items():
        rig.add(name, source)
        status = rig.wait_status(name, frame_pb2.SOURCE_STATE_UNSUPPORTED)
        assert status.retry_in_ms == 0
    assert "file_roots" in status.detail


def test_corrupt_packets_cost_pictures_and_not_the_stream(make_rig: MakeRig, host: CameraHost):
    rig = make_rig(max_fps=10.0, min_fps=10.0)
    rig.start_worker()
    host.set_fault("gate", "corrupt:5")
    rig.add("gate", host.url("gate"))
    frames = rig.wait_frames("gate", 30)
    assert len(rig.epochs("gate")) == 1
    # FFmpeg fills some holes with what stood there before, and some badly; nothing is ever shown out of order.
    numbers = [number_if_whole(picture_of(frame)) for frame in frames]
    shown = [number for number in numbers if number is not None]
    assert len(shown) > len(numbers) // 2
    assert shown == sorted(shown)
    assert shown[-1] > shown[0] + 20


def test_a_removed_stream_is_left_and_its_process_ends(make_rig: MakeRig, host: CameraHost):
    rig = make_rig()
    rig.start_worker()
    rig.add("gate", host.url("gate"))
    rig.wait_frames("gate", 2)
    rig.remove("gate")
    poll_until(lambda: host.cameras["gate"].num_viewers == 0, WAIT_S, "the camera without a viewer")
    poll_until(lambda: not camera_processes(psutil.Process()), WAIT_S, "no process of a camera")


def test_the_same_id_added_again_with_another_source_runs_that_one(make_rig: MakeRig):
    rig = make_rig()
    with CameraHost([camera("old"), camera("new")]) as host:
        rig.start_worker()
        rig.add("gate", host.url("old"))
        rig.wait_frames("gate", 2)
        rig.remove("gate")
        version = rig.add("gate", host.url("new"))
        poll_until(lambda: host.cameras["old"].num_viewers == 0, WAIT_S, "the old camera without a viewer")
        poll_until(lambda: rig.epochs("gate")[-1] > version, WAIT_S, "frames of the new source")
        assert host.cameras["new"].num_viewers == 1


def test_a_camera_process_that_dies_is_told_and_replaced(make_rig: MakeRig, host: CameraHost):
    rig = make_rig()
    rig.start_worker()
    rig.add("gate", host.url("gate"))
    rig.wait_frames("gate", 2)
    (process,) = camera_processes(psutil.Process())
    os.kill(process.pid, signal.SIGSEGV)
    assert "signal 11" in rig.wait_status("gate", frame_pb2.SOURCE_STATE_DISCONNECTED).detail
    second = poll_until(lambda: [*rig.epochs("gate"), 0][1], WAIT_S, "a second epoch")
    assert seqs(rig.wait_frames("gate", 2, second))[:2] == [0, 1]


def test_a_camera_process_that_hangs_is_ended_and_replaced(make_rig: MakeRig, host: CameraHost):
    rig = make_rig(open_timeout_s=1.0, stall_timeout_s=1.0)
    rig.start_worker()
    rig.add("gate", host.url("gate"))
    rig.wait_frames("gate", 2)
    (process,) = camera_processes(psutil.Process())
    os.kill(process.pid, signal.SIGSTOP)
    assert "no picture" in rig.wait_status("gate", frame_pb2.SOURCE_STATE_DISCONNECTED).detail
    poll_until(lambda: len(rig.epochs("gate")) == 2, WAIT_S, "a second epoch")
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


# Workers


def test_streams_are_shared_among_workers_and_move_when_one_leaves(make_rig: MakeRig):
    rig = make_rig(max_fps=2.0, min_fps=2.0)
    names = [
        "cam-0",
        next(f"cam-{n}" for n in range(1, 99) if partition_of(f"cam-{n}", 2) != partition_of("cam-0", 2)),
    ]
    with CameraHost([camera(name) for name in names]) as host:
        first = rig.start_worker()
        for name in names:
            rig.add(name, host.url(name))
        for name in names:
            rig.wait_frames(name, 1)
        rig.start_worker()
        moved = (
            [name for name in names if partition_of(name, 2) == 0],
            [name for name in names if partition_of(name, 2) == 1],
        )
        # One of the two partitions goes to the second worker, the other stays where it is.
        poll_until(
            lambda: (
                sorted(all(len(rig.epochs(name)) == 2 for name in part) for part in moved) == [False, True]
            ),
            WAIT_S,
            "one partition moved",
        )
        for name in names:
            assert host.cameras[name].num_viewers <= 1
        first.stop()
        poll_until(
            lambda: all(len(rig.epochs(name)) >= 2 for name in names), WAIT_S, "all streams taken over"
        )
        for name in names:
            last = rig.epochs(name)[-1]
            rig.wait_frames(name, 2, last)
            assert rises(rig.epochs(name))
            assert rises(media_times(rig.frames(name)))


def test_a_worker_that_was_overtaken_by_one_that_lost_the_stream_begins_anew(
    make_rig: MakeRig, host: CameraHost, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("services.ingest.worker._OVERTAKEN_S", 0.5)
    rig = make_rig()
    rig.start_worker()
    rig.add("gate", host.url("gate"))
    rig.wait_frames("gate", 2)
    late = rig.control.write(epoch_key("gate"), ControlRecord(epoch=EpochBegin(stream_id="gate")))
    poll_until(lambda: rig.epochs("gate")[-1] > late, WAIT_S, "a newer epoch than that of the other")
    newest = rig.epochs("gate")[-1]
    assert seqs(rig.wait_frames("gate", 8, newest)) == list(range(8)), "no hole"
    assert rig.epochs("gate")[-1] == newest, "once"


def test_more_streams_than_a_worker_may_run_are_told_and_run_when_there_is_room(make_rig: MakeRig):
    rig = make_rig(max_streams=1)
    with CameraHost([camera("first"), camera("second")]) as host:
        rig.start_worker()
        rig.add("first", host.url("first"))
        rig.add("second", host.url("second"))
        assert "max_streams" in rig.wait_status("second", frame_pb2.SOURCE_STATE_DISCONNECTED).detail
        rig.wait_frames("first", 1)
        assert host.cameras["second"].num_viewers == 0
        rig.remove("first")
        rig.wait_frames("second", 1)


def test_a_worker_told_to_end_leaves_its_cameras_and_ends(
    make_rig: MakeRig, host: CameraHost, tmp_path: Path
):
    rig = make_rig()
    worker = rig.start_worker_process(tmp_path / "worker.log")
    rig.add("gate", host.url("gate"))
    rig.wait_frames("gate", 2)
    children = worker.children()
    assert len(children) == 1
    assert worker.terminate() == 0
    assert host.cameras["gate"].num_viewers == 0
    assert not any(child.is_running() for child in children)


def test_a_worker_ends_while_kafka_is_away(
    make_rig: MakeRig, host: CameraHost, broker: KafkaBroker, tmp_path: Path
):
    rig = make_rig()
    worker = rig.start_worker_process(tmp_path / "worker.log")
    rig.add("gate", host.url("gate"))
    rig.wait_frames("gate", 2)
    children = worker.children()
    broker.kill()
    try:
        began_s = time.monotonic()
        worker.terminate()
        print(f"ended after {time.monotonic() - began_s:.1f} s")
    finally:
        broker.start()
    assert host.cameras["gate"].num_viewers == 0
    assert not any(child.is_running() for child in children)


def test_the_cameras_of_a_killed_worker_end_too(make_rig: MakeRig, host: CameraHost, tmp_path: Path):
    rig = make_rig()
    worker = rig.start_worker_process(tmp_path / "worker.log")
    rig.add("gate", host.url("gate"))
    rig.wait_frames("gate", 2)
    children = worker.children()
    worker.kill()
    poll_until(lambda: not any(child.is_running() for child in children), WAIT_S, "no process left")


def test_credentials_are_nowhere_but_in_control(make_rig: MakeRig, tmp_path: Path):
    rig = make_rig()
    log_path = tmp_path / "worker.log"
    access = Access("canary-user", CANARY, "nonce")
    with CameraHost([camera("gate"), camera("shut")], access) as host:
        worker = rig.start_worker_process(log_path)
        rig.add("gate", host.url("gate"), "canary-user", CANARY)
        rig.add("shut", host.url("shut"), "canary-user", CANARY + "x")
        rig.add("gone", "rtsp://127.0.0.1:1/x?password=canary-in-query", "canary-user", CANARY)
        rig.wait_frames("gate", 2)
        rig.wait_status("shut", frame_pb2.SOURCE_STATE_AUTH_FAILED)
        rig.wait_status("gone", frame_pb2.SOURCE_STATE_DISCONNECTED)
        host.set_fault("gate", "close")
        rig.wait_status("gate", frame_pb2.SOURCE_STATE_DISCONNECTED)
        children = worker.children()
        assert len(children) == 3
        told = [word for child in children for word in child.cmdline()]
        environments = [child.environ() for child in children]
        assert not any(name.startswith("STREAMO_") for one in environments for name in one)
        told += [value for one in environments for value in one.values()]
        assert worker.terminate() == 0
    told.append(log_path.read_text())
    told += [str(record) for name in ("gate", "shut", "gone") for record in rig.read(name)]
    assert "auth_failed" in log_path.read_text()
    assert not [text for text in told if "canary" in text.replace("canary-user", "")]


def test_while_kafka_is_away_the_newest_frames_are_kept_and_the_lost_ones_show(
    make_rig: MakeRig, host: CameraHost, broker: KafkaBroker
):
    rig = make_rig(max_fps=10.0, min_fps=10.0)
    worker = rig.start_worker()
    rig.add("gate", host.url("gate"))
    rig.wait_frames("gate", 5)
    dropped = (Metrics.FRAMES_DROPPED[0], "worker_busy")
    broker.kill()
    try:
        poll_until(lambda: worker.telemetry.counts[dropped] >= 10, WAIT_S, "dropped frames")
    finally:
        broker.start()
    last = rig.frames("gate")[-1].frame_seq
    poll_until(lambda: rig.frames("gate")[-1].frame_seq > last + 30, WAIT_S, "frames after the outage")
    frames = rig.frames("gate", rig.epochs("gate")[0])
    assert rises(seqs(frames))
    assert rises(media_times(frames))
    assert rises([number_in(picture_of(frame)) for frame in frames])
    lost = frames[-1].frame_seq + 1 - len(frames)
    assert (
        0
        < lost
        <= sum(worker.telemetry.counts[Metrics.FRAMES_DROPPED[0], why] for why in ("worker_busy", "kafka"))
    )


# Recordings


def test_a_file_is_read_once_from_end_to_end(
    make_rig: MakeRig, make_video: Callable[[float], Path], host: CameraHost
):
    rig = make_rig()
    worker = rig.start_worker()
    version = rig.add("film", str(make_video(3.0)))
    began_s = time.monotonic()
    ended = rig.wait_status("film", frame_pb2.SOURCE_STATE_ENDED)
    frames = rig.frames("film")
    assert ended.num_kept == len(frames)
    assert ended.retry_in_ms == 0
    assert rig.read("film")[-1].HasField("status")
    # A recording behaves like a camera: it takes as long as it is.
    assert time.monotonic() - began_s >= 2.5
    assert media_times(frames) == [100 * number_in(picture_of(frame)) for frame in frames]
    assert media_times(frames)[0] == 0
    assert media_times(frames)[-1] >= 2600
    poll_until(lambda: rig.view.ended.get("film") == version, WAIT_S, "the end in control")
    # Another worker that takes over does not read it again.
    worker.stop()
    num_records = len(rig.read("film"))
    rig.start_worker()
    rig.add("gate", host.url("gate"))
    rig.wait_frames("gate", 2)
    assert len(rig.read("film")) == num_records


def test_a_file_cut_short_goes_on_after_its_last_kept_frame(
    make_rig: MakeRig, make_video: Callable[[float], Path], tmp_path: Path
):
    rig = make_rig(max_fps=10.0, min_fps=10.0)
    path = make_video(8.0)
    worker = rig.start_worker_process(tmp_path / "worker.log")
    rig.add("film", f"file://{path.as_posix().replace(' ', '%20')}")
    rig.wait_frames("film", 20)
    worker.kill()
    rig.start_worker()
    ended = rig.wait_status("film", frame_pb2.SOURCE_STATE_ENDED)
    frames = rig.frames("film")
    first, second = rig.epochs("film")
    assert second > first
    assert ended.num_kept == len(rig.frames("film", second))
    # Every picture once, none twice: read to the end as if nothing had happened.
    assert [number_in(picture_of(frame)) for frame in frames] == list(range(80))
    assert media_times(frames) == list(range(0, 8000, 100))


def test_a_recording_loses_no_frame_while_kafka_is_away(
    make_rig: MakeRig, make_video: Callable[[float], Path], broker: KafkaBroker
):
    rig = make_rig(max_fps=10.0, min_fps=10.0)
    rig.start_worker()
    rig.add("film", str(make_video(8.0)))
    rig.wait_frames("film", 10)
    broker.kill()
    # Longer than all that is bounded can hold: frames in flight, in the pipe, in the outbox.
    began_s = time.monotonic()
    poll_until(lambda: time.monotonic() - began_s > 4.0)
    broker.start()
    rig.wait_status("film", frame_pb2.SOURCE_STATE_ENDED)
    shown = [number_in(picture_of(frame)) for frame in rig.frames("film")]
    assert list(dict.fromkeys(shown)) == list(range(80))


def test_a_file_that_is_not_there_is_told_and_read_once_it_is(
    make_rig: MakeRig, make_video: Callable[[float], Path], tmp_path: Path
):
    rig = make_rig()
    rig.start_worker()
    rig.add("film", str(tmp_path / "later.mp4"))
    rig.wait_status("film", frame_pb2.SOURCE_STATE_NOT_FOUND)
    make_video(1.0).rename(tmp_path / "later.mp4")
    rig.wait_status("film", frame_pb2.SOURCE_STATE_ENDED)
    assert rig.frames("film")


def test_a_file_without_video_is_unsupported(make_rig: MakeRig, tmp_path: Path):
    rig = make_rig()
    (tmp_path / "text.mp4").write_text("no video at all")
    rig.start_worker()
    rig.add("film", str(tmp_path / "text.mp4"))
    rig.wait_status("film", frame_pb2.SOURCE_STATE_UNSUPPORTED)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """The address of a web server of the test's directory."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_recording_on_the_web_is_a_file_and_a_missing_one_is_not_found(
    make_rig: MakeRig, make_video: Callable[[float], Path], web: str
):
    rig = make_rig()
    rig.start_worker()
    rig.add("film", f"{web}/{make_video(2.0).name.replace(' ', '%20')}")
    rig.add("gone", f"{web}/gone.mp4")
    ended = rig.wait_status("film", frame_pb2.SOURCE_STATE_ENDED)
    frames = rig.frames("film")
    assert ended.num_kept == len(frames) > 0
    assert media_times(frames) == [100 * number_in(picture_of(frame)) for frame in frames]
    assert all(record.is_recording for record in rig.read("film") if record.HasField("frames"))
    rig.wait_status("gone", frame_pb2.SOURCE_STATE_NOT_FOUND)
