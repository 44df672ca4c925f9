"""Videos looked at, and cut into clips."""

import hashlib
import io
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from models.data import h264
from models.data.curation.config import ClipConfig
from models.data.curation.store import Store, content_key
from models.data.curation.teacher import Picture
from models.data.upright import upright_image

SCAN_INTERVAL_S = 0.5
_THUMB_SIDE = 9
_JPEG_QUALITY = 85
_READ_BYTES = 1 << 20
# Part of the keys of what is kept: raise it with any change of what a scan or a clip holds.
_VERSION = 2


class UnreadableVideo(ValueError):
    """A file that cannot be decoded as a video."""


@dataclass(frozen=True)
class VideoScan:
    """What one pass over a video tells. cuts_s: changes of shot. prints: 128-bit fingerprints of its pictures, one for
    every SCAN_INTERVAL_S, as hexadecimal."""

    sha256: str
    duration_s: float
    cuts_s: tuple[float, ...]
    prints: tuple[str, ...]


@dataclass(frozen=True)
class Clip:
    """A piece of a source video as a file of its own. `key`: a hash of what it is cut from."""

    key: str
    source: str
    video: str
    video_sha256: str
    start_s: float
    end_s: float
    path: Path

    @property
    def duration_s(self) -> float:
        return round(self.end_s - self.start_s, 3)


def file_sha256(path: Path, store: Store) -> str:
    """Of the file's content; kept by path, size and time of change, so that a large set is not read again."""
    stat = path.stat()
    key = content_key("sha256", _VERSION, str(path.resolve()), stat.st_size, stat.st_mtime_ns)
    kept = store.get(key)
    if kept is not None:
        return str(kept)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
    store.put(key, digest.hexdigest())
    return digest.hexdigest()


def scan_video(path: Path, sha256: str, config: ClipConfig, store: Store) -> VideoScan:
    """UnreadableVideo where no picture can be had of it."""
    key = content_key("scan", _VERSION, sha256, config.cut_difference)
    kept = store.get(key)
    if kept is not None:
        return VideoScan(kept["sha256"], kept["duration_s"], tuple(kept["cuts_s"]), tuple(kept["prints"]))
    cuts: list[float] = []
    prints: list[str] = []
    last: np.ndarray | None = None
    end_s = 0.0
    for time_s, frame in _frames(path):
        end_s = time_s + frame.duration_s
        if time_s < len(prints) * SCAN_INTERVAL_S:
            continue
        thumb = frame.grey(_THUMB_SIDE)
        if last is not None and float(np.abs(thumb - last).mean()) >= config.cut_difference:
            cuts.append(round(time_s, 3))
        last = thumb
        prints.append(fingerprint(thumb))
    if not prints:
        raise UnreadableVideo(f"{path}: no picture can be decoded")
    scan = VideoScan(sha256, round(end_s, 3), tuple(cuts), tuple(prints))
    store.put(key, asdict(scan))
    return scan


def fingerprint(thumb: np.ndarray) -> str:
    """128 bits of a grey picture [9, 9]: is each of 8 x 8 places brighter than its right, than its lower neighbour?"""
    right = thumb[:8, :8] > thumb[:8, 1:]
    below = thumb[:8, :8] > thumb[1:, :8]
    return np.packbits(np.concatenate([right.ravel(), below.ravel()])).tobytes().hex()


def segments(scan: VideoScan, config: ClipConfig) -> list[tuple[float, float]]:
    """Pieces of `min_s` to `max_s`, as long as can be, cut at a change of shot where there is one in reach. None where
    the whole is shorter than `min_s`."""
    pieces = []
    begin_s = 0.0
    while scan.duration_s - begin_s > config.max_s:
        # What is left must stay long enough to be a piece of its own.
        latest_s = min(begin_s + config.max_s, scan.duration_s - config.min_s)
        cuts = [cut_s for cut_s in scan.cuts_s if begin_s + config.min_s <= cut_s <= latest_s]
        end_s = cuts[-1] if cuts else latest_s
        pieces.append((round(begin_s, 3), round(end_s, 3)))
        begin_s = end_s
    if scan.duration_s - begin_s >= config.min_s:
        pieces.append((round(begin_s, 3), round(scan.duration_s, 3)))
    return pieces


def cut_clip(
    path: Path,
    source: str,
    video: str,
    sha256: str,
    span_s: tuple[float, float],
    folder: Path,
    config: ClipConfig,
) -> Clip:
    """Writes the piece as H.264 unless it is there. Frame times in it begin at 0 and are even: 1 / fps apart."""
    start_s, end_s = span_s
    key = content_key("clip", _VERSION, sha256, start_s, end_s, config.fps, config.max_side)[:24]
    clip = Clip(key, source, video, sha256, start_s, end_s, folder / f"{key}.mp4")
    if not clip.path.exists():
        _write_clip(path, clip, config)
    return clip


def clip_frames(path: Path, fps: float, max_side: int) -> tuple[Picture, ...]:
    """The frames of a clip at 0, 1/fps, 2/fps ... seconds."""
    pictures: list[Picture] = []
    for time_s, frame in _frames(path):
        if time_s >= len(pictures) / fps - 1e-6:
            pictures.append(Picture(round(time_s, 3), frame.jpeg(max_side)))
    return tuple(pictures)


class _Frame:
    """A decoded picture in the few shapes that are needed of it."""

    def __init__(self, frame: Any, duration_s: float) -> None:
        self._frame = frame
        self.duration_s = duration_s

    @cached_property
    def _image(self) -> Any:
        return upright_image(self._frame)

    def grey(self, side: int) -> np.ndarray:
        from PIL import Image

        small = self._image.convert("L").resize((side, side), Image.Resampling.BOX)
        return np.asarray(small, dtype=np.float32)

    def rgb(self, width: int, height: int) -> np.ndarray:
        from PIL import Image

        return np.asarray(self._image.resize((width, height), Image.Resampling.BOX))

    def size_within(self, max_side: int) -> tuple[int, int]:
        """Width and height, even, the longer at most `max_side`."""
        width, height = self._image.size
        scale = min(1.0, max_side / max(width, height))
        return max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2)

    def jpeg(self, max_side: int) -> bytes:
        from PIL import Image

        image = self._image.resize(self.size_within(max_side), Image.Resampling.BOX)
        buffer = io.BytesIO()
        image.save(buffer, "jpeg", quality=_JPEG_QUALITY)
        return buffer.getvalue()


def _frames(path: Path, start_s: float = 0.0) -> Iterator[tuple[float, "_Frame"]]:
    """(seconds from the first picture, frame) in order. UnreadableVideo where it is no video."""
    import av

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise UnreadableVideo(f"{path}: holds no video")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            if not stream.time_base:
                raise UnreadableVideo(f"{path}: has no times")
            base = float(stream.time_base)
            first_s = float((stream.start_time or 0) * base)
            if start_s > 0:
                container.seek(int((start_s + first_s) / base), stream=stream)
            duration_s = float(1 / stream.average_rate) if stream.average_rate else 0.0
            for frame in container.decode(stream):
                if frame.pts is not None:
                    yield float(frame.pts * base) - first_s, _Frame(frame, duration_s)
    except (av.FFmpegError, OSError) as error:
        raise UnreadableVideo(f"{path}: {error}") from error


def _write_clip(path: Path, clip: Clip, config: ClipConfig) -> None:
    import av

    clip.path.parent.mkdir(parents=True, exist_ok=True)
    partial = clip.path.with_name(f".{clip.key}.{os.getpid()}.partial.mp4")
    num_wanted = max(1, int(clip.duration_s * config.fps))
    num_written = 0
    try:
        with av.open(str(partial), "w", format="mp4") as container:
            stream = None
            held: _Frame | None = None
            at_s = 0.0
            for time_s, frame in _frames(path, clip.start_s):
                at_s = time_s - clip.start_s
                if stream is None:
                    width, height = frame.size_within(config.max_side)
                    stream = h264.add_stream(container, config.fps, width, height)
                held = held or frame
                # A picture stands until the next one comes, so the one before serves all times up to this one.
                while num_written < num_wanted and num_written / config.fps < at_s - 1e-6:
                    num_written += _encode(container, stream, held, num_written)
                if num_written == num_wanted:
                    break
                held = frame
            if stream is None or held is None or at_s + held.duration_s <= 0:
                raise UnreadableVideo(f"{path}: no picture at {clip.start_s} s")
            while num_written < num_wanted:
                num_written += _encode(container, stream, held, num_written)
            container.mux(stream.encode(None))
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, clip.path)
    finally:
        partial.unlink(missing_ok=True)


def _encode(container: Any, stream: Any, picture: _Frame, index: int) -> int:
    import av

    frame = av.VideoFrame.from_ndarray(picture.rgb(stream.width, stream.height), format="rgb24")
    frame.pts = index
    container.mux(stream.encode(frame))
    return 1


def prints_of(scan: VideoScan) -> np.ndarray:
    """Fingerprints [n, 16] of bytes."""
    return np.frombuffer(bytes.fromhex("".join(scan.prints)), dtype=np.uint8).reshape(-1, 16)
