"""Opened sources, as files with one thing wrong."""

import re
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from services.ingest.source import Source
from services.ingest.source_failure import SourceFailure
from services.ingest.video import Video
from streamo.v1 import frame_pb2
from streamo.v1.stream_pb2 import Stream

NUM_PICTURES = 12
START_OF_FRAME = b"\xff\xc0\x00\x11"


def recording(path: Path, title: str = "", codec: str = "mjpeg") -> Path:
    """Of motion JPEG each picture stands alone."""
    with av.open(str(path), "w") as container:
        container.metadata["title"] = title
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height = 128, 96
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for shade in range(NUM_PICTURES):
            picture = np.full((96, 128, 3), 20 * shade, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())
    return path


def opened(path: Path) -> Video:
    return Video.open(Source.of(Stream(source=str(path))), 5.0, 5.0, lambda: None)


def num_pictures(path: Path) -> int:
    return sum(1 for _ in opened(path).pictures())


def test_a_picture_that_ffmpeg_cannot_decode_costs_only_itself(tmp_path: Path):
    path = recording(tmp_path / "a.avi")
    media = bytearray(path.read_bytes())
    at = [found.start() for found in re.finditer(START_OF_FRAME, media)][NUM_PICTURES // 2]
    media[at + len(START_OF_FRAME) + 7] = 0x44  # the first component's sampling
    path.write_bytes(media)
    assert num_pictures(path) == NUM_PICTURES - 1


def test_a_title_in_another_encoding_does_not_matter(tmp_path: Path):
    path = recording(tmp_path / "a.avi", title="Caf# Wien")
    path.write_bytes(path.read_bytes().replace(b"Caf# ", b"Caf\xe9 "))
    assert num_pictures(path) == NUM_PICTURES


def test_a_codec_that_ffmpeg_does_not_know_is_unsupported(tmp_path: Path):
    path = recording(tmp_path / "a.avi")
    path.write_bytes(path.read_bytes().replace(b"MJPG", b"ZZZZ"))
    with pytest.raises(SourceFailure, match="codec") as failure:
        opened(path)
    assert failure.value.state == frame_pb2.SOURCE_STATE_UNSUPPORTED


@pytest.mark.parametrize(
    ("name", "playlist"),
    [
        (
            "list.m3u8",
            "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:3\n#EXTINF:2.0,\n{}\n#EXT-X-ENDLIST\n",
        ),
        ("list.txt", "ffconcat version 1.0\nfile '{}'\n"),
        (
            "list.sdp",
            "v=0\no=- 0 0 IN IP4 127.0.0.1\ns={}\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 26\n",
        ),
    ],
)
def test_a_file_cannot_lead_to_another(tmp_path: Path, name: str, playlist: str):
    media = recording(tmp_path / "a.ts", codec="mpeg2video")
    (tmp_path / name).write_text(playlist.format(media))
    with pytest.raises(SourceFailure, match="playlist") as failure:
        opened(tmp_path / name)
    assert failure.value.state == frame_pb2.SOURCE_STATE_UNSUPPORTED


def test_a_recording_in_which_streams_show_up_late_ends_like_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class Container:
        """What PyAV does at the end, after it has given all there is."""

        def demux(self, stream: av.VideoStream) -> Iterator[av.Packet]:
            yield from container.demux(stream)
            raise IndexError("list index out of range")

    video = opened(recording(tmp_path / "a.avi"))
    container = video._container
    monkeypatch.setattr(video, "_container", Container())
    assert sum(1 for _ in video.pictures()) == NUM_PICTURES
