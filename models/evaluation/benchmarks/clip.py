"""A stretch of a video file as frames the model can see."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from models.data.upright import upright_picture, upright_size
from models.vlm.frame_sampler import FrameSampler, SamplerConfig
from models.vlm.frame_size import FrameBudget


class ClipError(ValueError):
    """The video cannot be shown: not there, not a video, or nothing in that stretch of it."""


def clip_frames(
    path: Path, start_s: float, end_s: float, fps: float, budget: FrameBudget
) -> Iterator[tuple[int, np.ndarray]]:
    """(milliseconds since `start_s`, picture of a fitted size) of the frames from `start_s` to `end_s`.

    The frame sampler keeps them at `fps`, the first one first; seconds count from the video's first frame. Raises
    ClipError.
    """
    try:
        import av
    except ModuleNotFoundError as error:
        raise ClipError("videos need PyAV: install streamo[simulator]") from error

    if not path.is_file():
        raise ClipError(f"{path} is missing")
    sampler = FrameSampler(SamplerConfig(min_fps=fps, max_fps=fps))
    last_ms = -1
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ClipError(f"{path} holds no video")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            origin_s = float((stream.start_time or 0) * stream.time_base)
            if start_s > 0:
                container.seek(int((origin_s + start_s) / stream.time_base), stream=stream)
            for frame in container.decode(stream):
                at_s = 0.0 if frame.time is None else frame.time - origin_s
                if at_s > end_s:
                    break
                at_ms = round((at_s - start_s) * 1000)
                # Before the stretch (a seek lands on a key frame), or of a clock that does not rise.
                if at_ms <= last_ms or not sampler.due(at_ms):
                    continue
                last_ms = at_ms
                fitted = upright_picture(frame, *budget.fit(*upright_size(frame)))
                if sampler.keep(at_ms, fitted):
                    yield at_ms, fitted
    except av.FFmpegError as error:
        raise ClipError(f"{path} cannot be decoded: {error}") from error
    if last_ms < 0:
        raise ClipError(f"{path} has no frame from {start_s:g} s to {end_s:g} s")
