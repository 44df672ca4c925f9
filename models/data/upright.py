"""Decoded frames as they are meant to be seen: a phone held upright stores its pictures on their side and says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # not needed where nothing is decoded
    import av
    from PIL import Image


def upright_size(frame: av.VideoFrame) -> tuple[int, int]:
    """Height and width."""
    return (frame.width, frame.height) if _turns(frame) % 2 else (frame.height, frame.width)


def upright_picture(frame: av.VideoFrame, height: int, width: int) -> np.ndarray:
    """Scaled to this size: uint8 [height, width, 3]."""
    turns = _turns(frame)
    if turns % 2:
        height, width = width, height
    picture = frame.reformat(width=width, height=height, format="rgb24", interpolation="BICUBIC").to_ndarray()
    return np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture


def upright_image(frame: av.VideoFrame) -> Image.Image:
    """In its own size."""
    from PIL import Image

    turns = _turns(frame)
    image: Image.Image = frame.to_image()
    if not turns:
        return image
    counter_clockwise = (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)
    return image.transpose(counter_clockwise[turns - 1])


def _turns(frame: av.VideoFrame) -> int:
    """Quarter turns, counter-clockwise."""
    return int(frame.rotation // 90) % 4
