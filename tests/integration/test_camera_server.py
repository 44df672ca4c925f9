"""The simulated cameras, seen by FFmpeg."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from itertools import chain, pairwise
from pathlib import Path
from urllib.parse import quote

import av
import pytest

from models.data.place.script import Script
from services.camera.access import Access
from services.camera.camera import Camera
from services.camera.picture_source import PlaceSource
from tests.support.camera_host import CameraHost, CountingSource, number_in
from tests.support.waiting import poll_until

FPS = 25
OPTIONS = {"rtsp_transport": "tcp", "timeout": "2000000", "analyzeduration": "100000", "probesize": "65536"}


def camera(name: str = "gate") -> Camera:
    return Camera(name, CountingSource(FPS), height=144, width=176, fps=FPS)


@pytest.fixture
def host() -> Iterator[CameraHost]:
    with CameraHost([camera()]) as host:
        yield host


def look(url: str, count: int, options: dict[str, str] | None = None) -> list[av.VideoFrame]:
    """`count` pictures, fewer where the camera ends before."""
    frames: list[av.VideoFrame] = []
    with av.open(url, options=options or OPTIONS) as container:
        for frame in container.decode(video=0):
            frames.append(frame)
            if len(frames) == count:
                break
    return frames


def numbers(frames: list[av.VideoFrame]) -> list[int]:
    return [number_in(frame.to_ndarray(format="rgb24")) for frame in frames]


def test_a_viewer_sees_each_picture_once_and_in_order_from_the_first(host: CameraHost):
    seen = numbers(look(host.url("gate"), 3 * FPS))
    assert all(later > earlier for earlier, later in pairwise(seen))  # a busy machine may make it skip


def test_rtp_time_is_the_time_of_the_picture(host: CameraHost):
    frames = [frame for frame in look(host.url("gate"), 2 * FPS) if frame.pts is not None]
    starts = {
        round(float(frame.pts * frame.time_base) * FPS) - number
        for frame, number in zip(frames, numbers(frames), strict=True)
    }
    assert len(starts) == 1


def test_two_viewers_see_the_same_camera(host: CameraHost):
    with (
        av.open(host.url("gate"), options=OPTIONS) as first,
        av.open(host.url("gate"), options=OPTIONS) as second,
    ):
        seen = [
            number_in(next(viewer.decode(video=0)).to_ndarray(format="rgb24")) for viewer in (first, second)
        ]
        assert host.cameras["gate"].num_viewers == 2
    assert seen[0] < seen[1]
    poll_until(lambda: host.cameras["gate"].num_viewers == 0, what="viewers that left")


def test_udp_is_refused(host: CameraHost):
    with pytest.raises(av.error.FFmpegError):
        look(host.url("gate"), 1, {**OPTIONS, "rtsp_transport": "udp"})


@pytest.mark.parametrize("scheme", ["digest", "basic"])
def test_only_the_right_user_is_let_in(scheme: str):
    user, password = "us@er", "p/ss:w@rd%#"
    with CameraHost([camera()], Access(user, password, "nonce", scheme)) as host:
        address = host.url("gate").replace("rtsp://", "rtsp://{}:{}@")
        assert look(address.format(quote(user, safe=""), quote(password, safe="")), 1)
        for url in (host.url("gate"), address.format("user", "wrong")):
            with pytest.raises(av.error.HTTPUnauthorizedError):
                look(url, 1)


def test_an_unknown_name_is_not_found(host: CameraHost):
    with pytest.raises(av.error.HTTPNotFoundError):
        look(host.url("gate") + "way", 1)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("refuse", av.error.InvalidDataError),
        ("unauthorized", av.error.HTTPUnauthorizedError),
        ("not_found", av.error.HTTPNotFoundError),
        ("no_play", av.error.HTTPOtherClientError),
        ("mute", (av.error.InvalidDataError, TimeoutError)),
    ],
)
def test_faults_that_keep_viewers_out(host: CameraHost, fault: str, error: type[Exception]):
    host.set_fault("gate", fault)
    with pytest.raises(error):
        look(host.url("gate"), 1)
    host.set_fault("gate", "none")
    assert look(host.url("gate"), 1)


def test_an_audio_only_camera_has_no_video(host: CameraHost):
    host.set_fault("gate", "audio_only")
    with av.open(host.url("gate"), options=OPTIONS) as container:
        assert not container.streams.video


def test_a_stalled_camera_goes_silent(host: CameraHost):
    host.set_fault("gate", "stall:30")
    with pytest.raises(TimeoutError):
        look(host.url("gate"), 100)


def test_a_camera_that_closes_ends_the_stream_after_its_frames(host: CameraHost):
    host.set_fault("gate", "close:30")
    assert len(look(host.url("gate"), 100)) == 30


def test_a_camera_may_change_its_size(host: CameraHost):
    host.set_fault("gate", "resize:30")
    frames = look(host.url("gate"), 60)
    assert {(frame.width, frame.height) for frame in frames} == {(176, 144), (88, 72)}
    assert all(later > earlier for earlier, later in pairwise(numbers(frames)))


def test_corrupt_packets_damage_pictures_and_the_stream_goes_on(host: CameraHost):
    host.set_fault("gate", "corrupt:5")
    frames = look(host.url("gate"), 6 * FPS)
    assert len(frames) == 6 * FPS
    assert any(frame.is_corrupt for frame in frames)


def test_nonsense_does_not_harm_the_server(host: CameraHost):
    port = int(host.url("gate").split(":")[2].split("/")[0])
    for nonsense in (
        b"\x00" * 100,
        b"GET / HTTP/1.0\r\n\r\n",
        b"$\x00\xff\xff",
        b"A" * 100_000,
        b"OPTIONS\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", port), 5) as connection:
            connection.sendall(nonsense)
    assert look(host.url("gate"), 1)


def test_the_command_tells_where_its_cameras_are_and_what_they_show(tmp_path: Path):
    command = [sys.executable, "-m", "services.camera", "--streams", "gate=4", "yard=5", "--port", "0"]
    command += ["--truth", str(tmp_path), "--control-port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        lines = [json.loads(process.stdout.readline()) for _ in range(2)]
        assert [(line["name"], line["seed"]) for line in lines] == [("gate", 4), ("yard", 5)]
        for line in lines:
            truth = json.loads((tmp_path / f"{line['name']}.json").read_text())
            assert truth["started_at_us"] == line["started_at_us"]
            script = Script.from_json(json.dumps(truth["script"]))
            assert script == Script.from_json(PlaceSource(line["seed"]).script_json(60_000))
            assert look(line["url"], 1)
        with socket.create_connection(("127.0.0.1", lines[0]["control_port"]), 5) as control:
            for line, answer in (
                (b"gate not_found\n", b"ok"),
                (b"gate what\n", b"fault"),
                (b"x y\n", b"say"),
            ):
                control.sendall(line)
                assert control.recv(1000).startswith(answer)
        with pytest.raises(av.error.HTTPNotFoundError):
            look(lines[0]["url"], 1)
        process.terminate()
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_the_command_refuses_what_it_cannot_do():
    for arguments in (
        [],
        ["--streams", "gate=x"],
        ["--streams", "Gate=1"],
        ["--streams", "gate=1", "--fault", "x=mute"],
    ):
        command = [sys.executable, "-m", "services.camera", "--port", "0", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2
        assert "error:" in done.stderr


@pytest.mark.parametrize("option", ["--port", "--control-port"])
def test_the_command_names_a_port_that_is_taken(option: str):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ports = {"--port": "0", "--control-port": "0", option: port}
        command = [sys.executable, "-m", "services.camera", "--streams", "gate=4", *chain(*ports.items())]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert f"{option} {port} cannot be listened on" in done.stderr
    assert "0 takes any free one" in done.stderr
    assert "Traceback" not in done.stderr
