"""Videos that come out the same to the byte, however often they are made."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # av, which not all who import this have need of
    import av


def add_stream(container: av.container.OutputContainer, fps: int, width: int, height: int) -> av.VideoStream:
    """A stream of H.264 whose time base is one picture."""
    stream = container.add_stream("libx264", rate=fps)
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    stream.time_base = Fraction(1, fps)
    # One thread, and no look-ahead, whose B-frames x264 does not choose alike from run to run.
    stream.codec_context.thread_count = 1
    stream.options = {"preset": "veryfast", "tune": "zerolatency", "crf": "23"}
    return stream
