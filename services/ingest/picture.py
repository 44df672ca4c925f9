"""Pictures as the sampler and the model want them."""

from fractions import Fraction
from typing import Literal

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import Interpolation, VideoReformatter

from models.vlm.frame_sampler import SamplerConfig
from models.vlm.frame_size import FrameBudget
from streamo.v1 import frame_pb2

# Pixels of the small picture that the sampler averages into one of its blocks, each way.
_PIXELS_A_BLOCK = 4
# mjpeg's scale of 2 (best) to 31.
_JPEG_QUANTIZER = 3


class PictureFormer:
    """Forms decoded pictures. Keeps scaler and encoder from one to the next; not thread-safe."""

    def __init__(
        self, budget: FrameBudget, pixel_format: Literal["rgb24", "jpeg"], sampler: SamplerConfig
    ) -> None:
        self._budget = budget
        self._pixel_format = pixel_format
        self._small_height = sampler.grid_rows * _PIXELS_A_BLOCK
        self._small_width = sampler.grid_cols * _PIXELS_A_BLOCK
        # A scaler keeps the tables of the last size it had: one for each of the two sizes.
        self._small_scaler = VideoReformatter()
        self._scaler = VideoReformatter()
        self._jpeg: VideoCodecContext | None = None

    def small(self, frame: av.VideoFrame) -> np.ndarray:
        """For the sampler: uint8 [rows, cols, 3], one size whatever the source's; every pixel an average."""
        reformatted = self._small_scaler.reformat(
            frame, self._small_width, self._small_height, "rgb24", interpolation=Interpolation.AREA
        )
        return reformatted.to_ndarray()

    def form(self, frame: av.VideoFrame) -> frame_pb2.Frame:
        """For the model: size by the budget, pixels by the format. ValueError for a shape it cannot hold."""
        turns = (frame.rotation // 90) % 4
        tall = turns % 2 == 1
        height, width = self._budget.fit(
            *((frame.width, frame.height) if tall else (frame.height, frame.width))
        )
        scaled = self._scaler.reformat(
            frame,
            width=height if tall else width,
            height=width if tall else height,
            format="rgb24",
            interpolation=Interpolation.BICUBIC,
        )
        picture = np.rot90(scaled.to_ndarray(), turns) if turns else scaled.to_ndarray()
        if self._pixel_format == "jpeg":
            return frame_pb2.Frame(
                width=width, height=height, format=frame_pb2.PIXEL_FORMAT_JPEG, data=self._as_jpeg(picture)
            )
        return frame_pb2.Frame(
            width=width, height=height, format=frame_pb2.PIXEL_FORMAT_RGB24, data=picture.tobytes()
        )

    def _as_jpeg(self, picture: np.ndarray) -> bytes:
        height, width = picture.shape[:2]
        if self._jpeg is None or (self._jpeg.height, self._jpeg.width) != (height, width):
            context = av.CodecContext.create("mjpeg", "w")
            context.width, context.height, context.pix_fmt = width, height, "yuvj420p"
            context.time_base = Fraction(1, 1000)
            context.thread_count = 1
            context.flags |= av.codec.context.Flags.qscale
            context.global_quality = _JPEG_QUANTIZER * 118  # FF_QP2LAMBDA
            self._jpeg = context
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24").reformat(format="yuvj420p")
        frame.pts = None
        (packet,) = self._jpeg.encode(frame)
        return bytes(packet)
