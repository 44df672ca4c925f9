import av
import numpy as np
import pytest

from models.vlm.frame_sampler import SamplerConfig
from models.vlm.frame_size import FrameBudget
from services.ingest.picture import PictureFormer
from streamo.v1 import frame_pb2

BUDGET = FrameBudget(min_pixels=3136, max_pixels=19600)


def two_halves(height: int, width: int) -> np.ndarray:
    """Red on the left, blue on the right."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[:, : width // 2] = (200, 0, 0)
    picture[:, width // 2 :] = (0, 0, 200)
    return picture


def camera_frame(picture: np.ndarray) -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format="yuv420p")


def former(pixel_format: str) -> PictureFormer:
    return PictureFormer(BUDGET, pixel_format, SamplerConfig())


def test_raw_frames_have_the_budgets_size_and_the_right_colours_in_the_right_place():
    frame = former("rgb24").form(camera_frame(two_halves(336, 448)))
    assert (frame.height, frame.width) == BUDGET.fit(336, 448)
    picture = np.frombuffer(frame.data, np.uint8).reshape(frame.height, frame.width, 3).astype(int)
    expected = two_halves(frame.height, frame.width).astype(int)
    far_from_the_edge = np.abs(np.arange(frame.width) - frame.width / 2) > 4
    assert np.abs(picture - expected)[:, far_from_the_edge].max() < 12


def test_jpeg_frames_decode_to_the_same_picture_in_fewer_bytes():
    picture = two_halves(336, 448)
    raw, jpeg = former("rgb24").form(camera_frame(picture)), former("jpeg").form(camera_frame(picture))
    assert jpeg.format == frame_pb2.PIXEL_FORMAT_JPEG
    assert (jpeg.width, jpeg.height) == (raw.width, raw.height)
    assert len(jpeg.data) < len(raw.data) / 4
    decoder = av.CodecContext.create("mjpeg", "r")
    (decoded,) = decoder.decode(av.Packet(jpeg.data))
    expected = np.frombuffer(raw.data, np.uint8).reshape(raw.height, raw.width, 3).astype(int)
    assert np.abs(decoded.to_ndarray(format="rgb24").astype(int) - expected).mean() < 3


def test_sizes_and_formats_may_change_from_frame_to_frame():
    forming = former("jpeg")
    for height, width in ((336, 448), (480, 270), (336, 448)):
        frame = forming.form(camera_frame(two_halves(height, width)))
        assert (frame.height, frame.width) == BUDGET.fit(height, width)


def test_the_small_picture_has_one_size_and_keeps_what_fills_a_block():
    forming = former("rgb24")
    picture = np.zeros((1080, 1920, 3), np.uint8)
    before = forming.small(camera_frame(picture))
    picture[:90, :120] = 255  # one block of 12 x 16
    after = forming.small(camera_frame(picture))
    assert before.shape == after.shape == forming.small(camera_frame(picture[:200, :300])).shape
    assert after[:4, :4].mean() > 200
    assert np.abs(after.astype(int) - before)[8:, 8:].max() < 12


def test_a_picture_that_no_frame_size_fits_is_refused():
    with pytest.raises(ValueError, match="thinner"):
        former("rgb24").form(camera_frame(np.zeros((2, 2000, 3), np.uint8)))
