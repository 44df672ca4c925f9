"""Whatever a record holds, reading it gives frames that fit or says why not."""

import io
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from models.vlm.frame_size import FrameBudget
from services.llm.frame import Frame, Status, Unreadable
from services.llm.frame_reader import FrameReader
from streamo.v1 import frame_pb2
from streamo.v1.frame_pb2 import FrameBatch, FrameRecord, PixelFormat, SourceStatus

READER = FrameReader(FrameBudget(min_pixels=784, max_pixels=28 * 56))
PIXELS = np.arange(28 * 56 * 3, dtype=np.uint32).astype(np.uint8).reshape(28, 56, 3)


def jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "jpeg", quality=95)
    return buffer.getvalue()


def frame(**values: object) -> frame_pb2.Frame:
    fields: dict[str, object] = {
        "frame_seq": 3,
        "media_time_ms": 1500,
        "width": 56,
        "height": 28,
        "format": PixelFormat.PIXEL_FORMAT_RGB24,
        "data": PIXELS.tobytes(),
    }
    return frame_pb2.Frame(**{**fields, **values})


def read(
    *frames: frame_pb2.Frame,
    key: bytes = b"gate",
    value: bytes | None = None,
    headers: Sequence[tuple[str, bytes | None]] = (),
) -> list[object]:
    record = FrameRecord(stream_id="gate", epoch=5, frames=FrameBatch(frames=frames))
    encoded = record.SerializeToString() if value is None else value
    return list(READER.read(SimpleNamespace(offset=9, key=key, value=encoded, headers=list(headers))))


def read_status(stream_id: str = "gate", key: bytes = b"gate", **values: object) -> list[object]:
    record = FrameRecord(stream_id=stream_id, epoch=5, status=SourceStatus(**values))
    return read(key=key, value=record.SerializeToString())


def test_frames_come_out_as_they_went_in():
    first, second = read(frame(), frame(frame_seq=4))
    assert isinstance(first, Frame)
    assert isinstance(second, Frame)
    assert (first.id, first.mark.media_time_ms, first.offset, first.grid) == ((5, 3), 1500, 9, (1, 2))
    assert np.array_equal(first.pixels, PIXELS)
    assert (first.is_last, second.is_last) == (False, True)


def test_a_jpeg_is_decoded():
    smooth = np.full((28, 56, 3), 90, dtype=np.uint8)
    (found,) = read(frame(format=PixelFormat.PIXEL_FORMAT_JPEG, data=jpeg(smooth)))
    assert isinstance(found, Frame)
    assert np.abs(found.pixels.astype(int) - smooth).max() < 5


@pytest.mark.parametrize(
    "values",
    [
        {"width": 0},
        {"width": 57},
        {"width": 28 * 1000, "height": 28 * 1000},
        {"data": b"short"},
        {"format": PixelFormat.PIXEL_FORMAT_UNSPECIFIED},
        {"format": PixelFormat.PIXEL_FORMAT_JPEG},
        {"format": PixelFormat.PIXEL_FORMAT_JPEG, "data": jpeg(np.zeros((28, 28, 3), dtype=np.uint8))},
        {"format": PixelFormat.PIXEL_FORMAT_JPEG, "data": jpeg(PIXELS)[:300]},
    ],
)
def test_a_bad_picture_is_unreadable_and_named(values: dict[str, object]):
    (found,) = read(frame(**values))
    assert isinstance(found, Unreadable)
    assert "frame 3" in found.reason
    assert [mark.id for mark in found.frames] == [(5, 3)]


@pytest.mark.parametrize(
    "found",
    [
        read(value=b""),
        read(value=b"\xff\xff"),
        read(frame(), key=b"yard"),
        read(frame(), frame()),
        read(frame(media_time_ms=-1)),
        read(frame(frame_seq=2**64 - 1)),
        read(),
        read_status("", key=b""),
        read_status(num_kept=2**64 - 1),
    ],
)
def test_a_record_that_makes_no_sense_is_unreadable(found: list[object]):
    assert len(found) == 1
    assert isinstance(found[0], Unreadable)
    assert found[0].reason


def test_a_status_comes_out():
    (found,) = read_status(num_kept=7, detail="no answer")
    assert isinstance(found, Status)
    assert (found.epoch, found.status.num_kept, found.status.detail) == (5, 7, "no answer")


def test_a_header_without_a_value_is_no_harm():
    (found,) = read(frame(), headers=[("traceparent", None)])
    assert isinstance(found, Frame)


def test_what_is_told_of_a_record_is_short_however_long_the_record_is():
    (unreadable,) = read_status("x" * 1_000_000)
    assert isinstance(unreadable, Unreadable)
    assert len(unreadable.reason) < 300
    (status,) = read_status(detail="x" * 1_000_000)
    assert isinstance(status, Status)
    assert len(status.status.detail) < 300


@given(st.binary(max_size=300))
def test_no_bytes_harm_the_reader(value: bytes):
    assert all(isinstance(item, Frame | Status | Unreadable) for item in read(value=value))


@given(st.data())
def test_no_damage_harms_the_reader(data: st.DataObject):
    record = FrameRecord(stream_id="gate", epoch=5, frames=FrameBatch(frames=[frame(data=b"x" * 99)]))
    spoilt = bytearray(record.SerializeToString())
    for _ in range(data.draw(st.integers(1, 8))):
        spoilt[data.draw(st.integers(0, len(spoilt) - 1))] = data.draw(st.integers(0, 255))
    assert all(isinstance(item, Frame | Status | Unreadable) for item in read(value=bytes(spoilt)))
