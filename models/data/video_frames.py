"""Pictures of a video at given moments, as the model sees them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from models.data.finding import FieldError
from models.data.upright import upright_picture, upright_size
from models.vlm.frame_size import FrameBudget

if TYPE_CHECKING:  # not needed where nothing is decoded
    import av

# A frame this little before its moment is taken for the one that was meant: time stamps are rounded.
_TOLERANCE_MS = 5


def frames_at(path: Path, times_ms: Sequence[int], budget: FrameBudget) -> Iterator[np.ndarray]:
    """For each moment the first frame at or after it: uint8 [H, W, 3] of the size that `budget` fits.

    `times_ms` rise, and count from the video's first frame. A moment after the last frame gets the last. FieldError
    on `video_path` for a video that cannot be decoded, fits no budget, or ends more than a second before the last
    moment.
    """
    import av

    num_given = 0
    last: av.VideoFrame | None = None
    last_ms = -1.0
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            origin_s = float((stream.start_time or 0) * (stream.time_base or 0))
            if times_ms[0] > 0 and stream.time_base:
                container.seek(int((origin_s + times_ms[0] / 1000) / stream.time_base), stream=stream)
            for frame in container.decode(stream):
                last_ms = 1000 * ((frame.time or 0.0) - origin_s)
                last = frame
                while num_given < len(times_ms) and last_ms >= times_ms[num_given] - _TOLERANCE_MS:
                    yield _fitted(frame, budget)
                    num_given += 1
                if num_given == len(times_ms):
                    return
    except (av.FFmpegError, OSError) as error:
        raise FieldError("video_path", "cannot be decoded", f"{path}: {error}") from error
    if last is None or times_ms[-1] - last_ms > 1000:
        raise FieldError(
            "video_path", "breaks off", f"{last_ms / 1000:.1f} of {times_ms[-1] / 1000:g} s in {path}"
        )
    for _ in range(num_given, len(times_ms)):
        yield _fitted(last, budget)


def frame_grid(path: Path, budget: FrameBudget) -> tuple[int, int]:
    """Rows and columns of visual tokens of the video's frames, from the first of them, which tells which way up it is;
    from its header where that frame cannot be decoded. FieldError on `video_path` where they fit no budget."""
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        size = (stream.codec_context.height, stream.codec_context.width)
        with suppress(av.FFmpegError):  # `frames_at` tells it
            for frame in container.decode(stream):
                size = upright_size(frame)
                break
        return budget.grid(*_fit(size, budget))


def _fitted(frame: av.VideoFrame, budget: FrameBudget) -> np.ndarray:
    return upright_picture(frame, *_fit(upright_size(frame), budget))


def _fit(size: tuple[int, int], budget: FrameBudget) -> tuple[int, int]:
    try:
        return budget.fit(*size)
    except ValueError as error:
        raise FieldError("video_path", str(error)) from error
