"""From a record of `frames` to checked frames. Nothing is allocated on the word of a record before it is checked."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from google.protobuf.message import DecodeError
from kafka.consumer.fetcher import ConsumerRecord
from PIL import Image, UnidentifiedImageError

from models.vlm.frame_size import FrameBudget
from services.llm.frame import Frame, FrameId, FrameMark, Item, Status, Unreadable
from services.shared.kafka import trace_context
from services.shared.topics import MAX_RECORD_BYTES
from streamo.v1 import frame_pb2
from streamo.v1.frame_pb2 import FrameRecord, PixelFormat

_MAX_MEDIA_TIME_MS = 9_999_999_999_000
_MAX_FRAMES = 256
# Of a frame in its epoch: no stream comes so far, and what is worked out of it still fits into what we write.
_MAX_FRAME_SEQ = 2**48
_MAX_STREAM_ID_BYTES = 1024
# What is told of a record to subscribers and in `state`, however long the record is.
_MAX_TEXT_CHARS = 200


class FrameReader:
    """Reads records for one model: a frame must have a size that the model's pixel budget allows. Never raises for
    what a record holds."""

    def __init__(self, budget: FrameBudget) -> None:
        self._budget = budget

    def read(self, record: ConsumerRecord) -> list[Item]:
        """The record's frames in order, its source status, or the one Unreadable that stands for all of it."""
        try:
            return self._read(record)
        except _Unreadable as error:
            return [
                Unreadable(
                    record.offset,
                    str(error)[:_MAX_TEXT_CHARS],
                    record.key,
                    record.value,
                    tuple(record.headers or ()),
                    error.frames,
                )
            ]

    def _read(self, record: ConsumerRecord) -> list[Item]:
        if record.value is None:
            raise _Unreadable("the record is empty")
        if len(record.value) > MAX_RECORD_BYTES:
            raise _Unreadable(f"the record has {len(record.value)} bytes")
        try:
            parsed = FrameRecord.FromString(record.value)
        except DecodeError as error:
            raise _Unreadable(f"the record does not parse: {error}") from error
        if stream_id_of(record.key) is None:
            raise _Unreadable(f"the record's key {record.key!r} is no stream's id")
        if parsed.stream_id.encode() != record.key:
            raise _Unreadable(f"the record's key {record.key!r} is not its stream {parsed.stream_id!r}")
        match parsed.WhichOneof("body"):
            case "status":
                return [self._status(record, parsed)]
            case "frames":
                return self._frames(record, parsed)
        raise _Unreadable("the record holds neither frames nor a status")

    def _status(self, record: ConsumerRecord, parsed: FrameRecord) -> Status:
        status = parsed.status
        if status.num_kept > _MAX_FRAME_SEQ:
            raise _Unreadable(f"num_kept {status.num_kept} is out of range")
        status.detail = status.detail[:_MAX_TEXT_CHARS]
        return Status(record.offset, parsed.epoch, status)

    def _frames(self, record: ConsumerRecord, parsed: FrameRecord) -> list[Item]:
        batch = parsed.frames.frames
        if not 1 <= len(batch) <= _MAX_FRAMES:
            raise _Unreadable(f"the record holds {len(batch)} frames")
        marks = tuple(
            FrameMark(FrameId(parsed.epoch, frame.frame_seq), frame.media_time_ms) for frame in batch
        )
        for before, after in pairwise(marks):
            if after.id <= before.id:
                raise _Unreadable(f"frame {after.id.frame_seq} stands after frame {before.id.frame_seq}")
        for mark in marks:
            if mark.id.frame_seq >= _MAX_FRAME_SEQ:
                raise _Unreadable(f"frame_seq {mark.id.frame_seq} is out of range")
            if not 0 <= mark.media_time_ms <= _MAX_MEDIA_TIME_MS:
                raise _Unreadable(f"media_time_ms {mark.media_time_ms} is out of range")
        context = trace_context(record.headers or ())
        frames: list[Item] = []
        for mark, frame in zip(marks, batch, strict=True):
            try:
                pixels, grid = self._pixels(frame)
            except ValueError as error:
                raise _Unreadable(f"frame {mark.id.frame_seq}: {error}", marks) from error
            is_last = mark is marks[-1]
            frames.append(
                Frame(
                    mark,
                    record.offset,
                    is_last,
                    frame.captured_at_us,
                    frame.num_seen,
                    pixels,
                    grid,
                    context,
                    parsed.is_recording,
                )
            )
        return frames

    def _pixels(self, frame: frame_pb2.Frame) -> tuple[np.ndarray, tuple[int, int]]:
        """Raises ValueError for a picture that is not what the record says, or not of a size the model takes."""
        grid = self._budget.grid(frame.height, frame.width)
        if frame.height * frame.width > self._budget.max_pixels:
            raise ValueError(
                f"{frame.width}x{frame.height} px is more than max_pixels {self._budget.max_pixels}"
            )
        shape = (frame.height, frame.width, 3)
        if frame.format == PixelFormat.PIXEL_FORMAT_RGB24:
            if len(frame.data) != frame.height * frame.width * 3:
                raise ValueError(
                    f"{len(frame.data)} bytes are no RGB picture of {frame.width}x{frame.height} px"
                )
            return np.frombuffer(frame.data, dtype=np.uint8).reshape(shape), grid
        if frame.format == PixelFormat.PIXEL_FORMAT_JPEG:
            return _decode_jpeg(frame.data, shape), grid
        raise ValueError(f"pixel format {frame.format} is unknown")


def stream_id_of(key: bytes | None) -> str | None:
    """Of a record's key; None where it is no stream's id."""
    if not key or len(key) > _MAX_STREAM_ID_BYTES:
        return None
    try:
        return key.decode()
    except UnicodeDecodeError:
        return None


class _Unreadable(Exception):
    def __init__(self, reason: str, frames: Sequence[FrameMark] = ()) -> None:
        super().__init__(reason)
        self.frames = tuple(frames)


def _decode_jpeg(data: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            # Known from the header; nothing has been decoded yet.
            if (image.height, image.width) != shape[:2]:
                raise ValueError(f"the JPEG is {image.width}x{image.height} px, not {shape[1]}x{shape[0]}")
            return np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"the JPEG cannot be decoded: {error}") from error
