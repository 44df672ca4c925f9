"""Videos that are stored on their side, wherever the model or the teacher gets to see them."""

import io
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from models.data.curation.clip import clip_frames, cut_clip, scan_video
from models.data.curation.config import ClipConfig
from models.data.curation.store import Store
from models.data.video_file import VideoFile
from models.data.video_frames import frame_grid, frames_at
from models.evaluation.benchmarks.clip import clip_frames as benchmark_frames
from models.vlm.frame_size import FrameBudget

BUDGET = FrameBudget(28 * 28, 112 * 56)
# Red, green / blue, black: 112 wide and 56 high.
SEEN = np.zeros((56, 112, 3), dtype=np.uint8)
SEEN[:28, :56, 0] = SEEN[:28, 56:, 1] = SEEN[28:, :56, 2] = 255
CONFIG = ClipConfig(min_s=1, max_s=4)


def write_turned_video(path: Path, degrees: int) -> Path:
    """Four seconds of SEEN, stored so that a viewer turns it by so many degrees, counter-clockwise."""
    stored = np.ascontiguousarray(np.rot90(SEEN, -degrees // 90))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "5"})
        stream.height, stream.width = stored.shape[:2]
        stream.pix_fmt = "yuv444p"
        stream.set_display_rotation(degrees)
        for _ in range(40):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(stored, "rgb24")))
        container.mux(stream.encode(None))
    return path


def of_training(path: Path) -> np.ndarray:
    return next(frames_at(path, [0, 1000], BUDGET))


def of_image_format(path: Path) -> np.ndarray:
    files, _ = VideoFile.open(path).frame_files(1.0, path.parent / "frames")
    return np.asarray(Image.open(files[0]))


def of_teacher(path: Path) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(clip_frames(path, 1.0, 448)[0].jpeg)))


def of_curated_clip(path: Path) -> np.ndarray:
    clip = cut_clip(path, "s", "v.mp4", "sha", (0.0, 4.0), path.parent / "clips", CONFIG)
    return of_teacher(clip.path)


def of_benchmark(path: Path) -> np.ndarray:
    return next(benchmark_frames(path, 0.0, 3.0, 1.0, BUDGET))[1]


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("shown", [of_training, of_image_format, of_teacher, of_curated_clip, of_benchmark])
def test_pictures_are_the_right_way_up(
    degrees: int, shown: Callable[[Path], np.ndarray], tmp_path: Path
) -> None:
    picture = shown(write_turned_video(tmp_path / "v.mp4", degrees))
    assert picture.shape == SEEN.shape
    for row, column in ((14, 28), (14, 84), (42, 28), (42, 84)):
        assert np.abs(picture[row, column].astype(int) - SEEN[row, column]).max() < 30


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_sizes_and_fingerprints_are_those_of_what_is_seen(degrees: int, tmp_path: Path) -> None:
    path = write_turned_video(tmp_path / "v.mp4", degrees)
    assert frame_grid(path, BUDGET) == (2, 4)
    plain = write_turned_video(tmp_path / "plain.mp4", 0)
    store = Store(tmp_path / "store")
    mine, its = (scan_video(one, one.name, CONFIG, store).prints for one in (path, plain))
    assert mine == its
