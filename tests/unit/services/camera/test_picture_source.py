from pathlib import Path

import av
import numpy as np
import pytest

from models.data.place.director import EndlessPlace
from models.data.place.picture import render
from models.data.place.script import Script
from services.camera.picture_source import FileSource, PlaceSource

FPS = 10
NUM_FRAMES = 20


@pytest.fixture
def counting_video(tmp_path: Path) -> Path:
    """Two seconds; picture n is of brightness 10 n."""
    path = tmp_path / "counting.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(NUM_FRAMES):
            picture = np.full((48, 64, 3), 10 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())
    return path


def number_shown(source: FileSource, time_ms: int) -> int:
    return round(float(source.picture(time_ms, 48, 64).mean()) / 10)


def test_a_file_is_shown_at_its_own_pace_and_begins_again(counting_video: Path):
    source = FileSource(counting_video)
    shown = [number_shown(source, time_ms) for time_ms in range(0, 5000, 100)]
    assert shown == [n % NUM_FRAMES for n in range(50)]


def test_a_camera_of_fewer_frames_skips_and_one_of_more_repeats(counting_video: Path):
    assert [number_shown(FileSource(counting_video), t) for t in (0, 500, 1000)] == [0, 5, 10]
    source = FileSource(counting_video)
    assert [number_shown(source, t) for t in (0, 100, 150, 180, 200)] == [0, 1, 2, 2, 2]


def test_after_a_long_time_unseen_it_goes_on_at_the_right_place(counting_video: Path):
    source = FileSource(counting_video)
    source.picture(0, 48, 64)
    assert number_shown(source, 2000 * 1000 + 700) == 7
    assert number_shown(source, 2000 * 1000 + 800) == 8


def test_pictures_have_the_size_asked_for(counting_video: Path):
    assert FileSource(counting_video).picture(0, 100, 200).shape == (100, 200, 3)


def test_what_is_no_video_is_refused(tmp_path: Path):
    (tmp_path / "text").write_text("no video at all")
    with pytest.raises((OSError, ValueError)):
        FileSource(tmp_path / "text")


def test_a_place_shows_what_its_script_says_across_segments():
    source = PlaceSource(seed=3)
    script = Script.from_json(source.script_json(130_000))
    for time_ms in (0, 100, 59_900, 60_000, 60_100, 119_950, 125_000):
        assert np.array_equal(source.picture(time_ms, 112, 140), render(script, time_ms, 112, 140))


def test_a_script_reaches_past_the_moment_asked_for():
    script = Script.from_json(PlaceSource(seed=3).script_json(130_000))
    assert script.end_ms >= 130_000
    assert script == EndlessPlace(3, "demo").script(130_000)
