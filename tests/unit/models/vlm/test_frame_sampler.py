import itertools

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.data.place.director import EndlessPlace
from models.data.place.picture import render
from models.vlm.frame_sampler import FrameSampler, SamplerConfig


def still(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size=(84, 112, 3), dtype=np.uint8)


def kept_times(pictures: list[np.ndarray], times_ms: list[int], config: SamplerConfig) -> list[int]:
    sampler = FrameSampler(config)
    return [t for t, picture in zip(times_ms, pictures, strict=True) if sampler.keep(t, picture)]


@given(
    steps=st.lists(st.integers(1, 700), min_size=2, max_size=60),
    changes=st.data(),
    min_fps=st.floats(0.2, 1.0),
    max_fps=st.floats(1.0, 5.0),
)
def test_floor_and_ceiling_hold_for_any_pictures(steps, changes, min_fps, max_fps):
    config = SamplerConfig(min_fps=min_fps, max_fps=max_fps)
    times = list(np.cumsum(steps))
    shades = changes.draw(st.lists(st.integers(0, 255), min_size=len(times), max_size=len(times)))
    pictures = [np.full((24, 32, 3), shade, dtype=np.uint8) for shade in shades]
    kept = kept_times(pictures, times, config)
    assert kept[0] == times[0]
    for earlier, later in itertools.pairwise(kept):
        assert later - earlier >= config.min_interval_ms
    # The floor: no frame is skipped that comes a whole interval after the last kept one.
    for time_ms in times:
        last = max(t for t in kept if t <= time_ms)
        assert time_ms - last < config.max_interval_ms


@given(time_ms=st.integers(1, 3000), shade=st.integers(0, 255))
def test_not_due_means_never_kept(time_ms, shade):
    sampler = FrameSampler()
    sampler.keep(0, np.zeros((24, 32, 3), dtype=np.uint8))
    due = sampler.due(time_ms)
    kept = sampler.keep(time_ms, np.full((24, 32, 3), shade, dtype=np.uint8))
    assert due or not kept


def test_still_scene_with_noise_is_kept_at_the_floor():
    rng = np.random.default_rng(1)
    base = rng.integers(30, 220, size=(84, 112, 3)).astype(np.int16)
    times = list(range(0, 10_000, 100))
    pictures = [(base + rng.integers(-8, 9, size=base.shape)).astype(np.uint8) for _ in times]
    assert kept_times(pictures, times, SamplerConfig()) == list(range(0, 10_000, 1000))


def test_one_small_moving_thing_is_kept_at_the_ceiling():
    times = list(range(0, 5_000, 100))
    pictures = []
    for index in range(len(times)):
        picture = np.full((84, 112, 3), 120, dtype=np.uint8)
        picture[40:50, index * 2 : index * 2 + 10] = 220
        pictures.append(picture)
    assert kept_times(pictures, times, SamplerConfig()) == list(range(0, 5_000, 500))


def test_slow_drift_adds_up_until_it_is_seen():
    config = SamplerConfig(min_fps=0.01, max_fps=2.0, change_threshold=14)
    times = list(range(0, 40_000, 500))
    pictures = [np.full((24, 32, 3), 50 + index, dtype=np.uint8) for index in range(len(times))]
    kept = kept_times(pictures, times, config)
    assert np.diff(kept).tolist() == [7000] * (len(kept) - 1)
    assert len(kept) > 3


def test_change_too_soon_is_kept_when_the_ceiling_allows():
    black, white = np.zeros((24, 32, 3), np.uint8), np.full((24, 32, 3), 255, np.uint8)
    assert kept_times([black, white, white], [0, 100, 500], SamplerConfig()) == [0, 500]


def test_any_picture_size_gives_block_means():
    sampler = FrameSampler()
    picture = np.full((101, 67, 3), 77, dtype=np.uint8)
    assert sampler.keep(0, picture)
    assert not sampler.keep(600, picture)
    changed = picture.copy()
    changed[-9:, -9:] = 200
    assert sampler.keep(700, changed)


def test_caller_mistakes_are_told():
    sampler = FrameSampler()
    sampler.keep(5, still())
    with pytest.raises(ValueError, match="media_time_ms"):
        sampler.keep(5, still())
    for height, width in ((10, 10), (168, 224)):
        with pytest.raises(ValueError, match="size changed"):
            sampler.keep(2000, np.zeros((height, width, 3), np.uint8))
    with pytest.raises(ValueError, match="picture"):
        sampler.keep(3000, np.zeros((84, 112), np.uint8))
    with pytest.raises(ValueError, match="min_fps"):
        SamplerConfig(min_fps=3, max_fps=2)
    with pytest.raises(ValueError, match="change_threshold"):
        SamplerConfig(change_threshold=0)


def decoded_from_h264(pictures: list[np.ndarray], fps: int) -> list[np.ndarray]:
    height, width = pictures[0].shape[:2]
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
    encoder.framerate, encoder.options = fps, {"preset": "veryfast", "crf": "28"}
    packets = [
        packet
        for index, picture in enumerate(pictures)
        for packet in encoder.encode(_frame(picture, index, fps))
    ]
    packets += encoder.encode(None)
    decoder = av.CodecContext.create("h264", "r")
    frames = [frame for packet in packets for frame in decoder.decode(packet)]
    frames += decoder.decode(None)
    return [frame.to_ndarray(format="rgb24") for frame in sorted(frames, key=lambda f: f.pts)]


def _frame(picture: np.ndarray, index: int, fps: int) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
    frame.pts = index
    return frame


def test_keeps_the_same_frames_of_rendered_and_of_decoded_pictures():
    script = EndlessPlace(15).segment(0)
    times = list(range(0, 30_000, 100))
    rendered = [render(script, t, 448, 560) for t in times]
    decoded = decoded_from_h264(rendered, fps=10)
    assert len(decoded) == len(rendered)
    kept = kept_times(rendered, times, SamplerConfig())
    kept_decoded = kept_times(decoded, times, SamplerConfig())
    # Compression may move a keep by one camera frame where a movement just begins; the rhythm is the same.
    assert abs(len(kept) - len(kept_decoded)) <= 1
    assert np.mean([t in kept_decoded for t in kept]) > 0.6
    # Quiet before the first act, full rate within the acts.
    first = script.acts[0].start_ms
    quiet = [t for t in kept_decoded if t <= first]
    assert quiet == list(range(0, first, 1000))
    for act in script.told_acts:
        inside = [t for t in kept_decoded if act.telling_ms <= t <= act.end_ms]
        assert all(b - a <= 700 for a, b in itertools.pairwise(inside))
