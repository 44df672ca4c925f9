from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageDraw

from models.data.curation.clip import (
    SCAN_INTERVAL_S,
    Clip,
    UnreadableVideo,
    VideoScan,
    clip_frames,
    cut_clip,
    file_sha256,
    fingerprint,
    prints_of,
    scan_video,
    segments,
)
from models.data.curation.config import ClipConfig, SplitConfig
from models.data.curation.near_duplicates import group_videos
from models.data.curation.split import split_of
from models.data.curation.store import Store

CONFIG = ClipConfig(min_s=4, max_s=10)


def write_video(path: Path, pictures: list[np.ndarray], fps: int = 10, gop: int = 12) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"preset": "ultrafast", "g": str(gop)})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def grey(level: float, size: int = 64) -> np.ndarray:
    return np.full((size, size, 3), round(level), dtype=np.uint8)


def scanned(duration_s: float, *cuts_s: float) -> VideoScan:
    return VideoScan("", duration_s, cuts_s, ())


@pytest.mark.parametrize(
    ("scan", "pieces"),
    [
        (scanned(3), []),
        (scanned(4), [(0, 4)]),
        (scanned(10, 3, 7), [(0, 10)]),
        # At the last change of shot in reach, else as long as can be.
        (scanned(15, 2, 5, 9, 12), [(0, 9), (9, 15)]),
        (scanned(15), [(0, 10), (10, 15)]),
        # What is left is never too short, nor cut at a change that would make it so.
        (scanned(12), [(0, 8), (8, 12)]),
        (scanned(12, 9), [(0, 8), (8, 12)]),
        (scanned(31, 20), [(0, 10), (10, 20), (20, 27), (27, 31)]),
    ],
)
def test_segments(scan: VideoScan, pieces: list[tuple[float, float]]) -> None:
    assert segments(scan, CONFIG) == pieces


def test_a_scan_finds_changes_of_shot_and_is_kept(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", [grey(20)] * 30 + [grey(25)] * 20 + [grey(200)] * 30)
    store = Store(tmp_path / "store")
    digest = file_sha256(path, store)
    scan = scan_video(path, digest, CONFIG, store)
    assert (scan.duration_s, scan.cuts_s, len(scan.prints)) == (8.0, (5.0,), 16)
    path.unlink()
    assert scan_video(path, digest, CONFIG, store) == scan
    with pytest.raises(UnreadableVideo):
        scan_video(path, "another", CONFIG, store)


def test_a_file_that_changes_is_another(tmp_path: Path) -> None:
    store, path = Store(tmp_path / "store"), tmp_path / "v.mp4"
    path.write_bytes(b"one")
    first = file_sha256(path, store)
    assert file_sha256(path, store) == first
    path.write_bytes(b"other")
    assert file_sha256(path, store) != first


@pytest.mark.parametrize("start_s", [0.0, 2.0, 3.7])
def test_a_clip_shows_what_its_video_shows_then(start_s: float, tmp_path: Path) -> None:
    """Frame i of the video is of the grey 2 i, so a picture tells its time."""
    path = write_video(tmp_path / "v.mp4", [grey(2 * index) for index in range(90)])
    clip = cut_clip(path, "s", "v.mp4", "sha", (start_s, start_s + 5), tmp_path / "clips", CONFIG)
    assert clip.path.parent == tmp_path / "clips" and clip.duration_s == 5
    frames = clip_frames(clip.path, 1.0, 448)
    assert [frame.time_s for frame in frames] == [0, 1, 2, 3, 4]
    for frame in frames:
        (tmp_path / "frame.jpg").write_bytes(frame.jpeg)
        level = float(np.asarray(Image.open(tmp_path / "frame.jpg")).mean())
        assert level == pytest.approx(20 * (start_s + frame.time_s), abs=3)
    with av.open(str(clip.path)) as container:
        assert container.streams.video[0].frames == 40


def test_a_clip_is_cut_once_and_whole(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", [grey(2 * index) for index in range(60)])
    folder = tmp_path / "clips"

    def cut(span_s: tuple[float, float] = (0.0, 5.0), config: ClipConfig = CONFIG) -> Clip:
        return cut_clip(path, "s", "v.mp4", "sha", span_s, folder, config)

    first = cut()
    changed_ns = first.path.stat().st_mtime_ns
    assert cut() == first and first.path.stat().st_mtime_ns == changed_ns
    others = {cut((1.0, 6.0)).key, cut(config=ClipConfig(min_s=4, max_s=10, fps=4)).key}
    assert len(others | {first.key}) == 3
    with pytest.raises(UnreadableVideo):
        cut((500.0, 505.0))
    assert len(list(folder.iterdir())) == 3


def test_large_pictures_are_made_smaller_even_and_in_proportion(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", [np.zeros((202, 402, 3), dtype=np.uint8)] * 50)
    config = ClipConfig(min_s=4, max_s=10, max_side=100)
    clip = cut_clip(path, "s", "v.mp4", "sha", (0.0, 5.0), tmp_path, config)
    with av.open(str(clip.path)) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height) == (100, 50)


def scene(seed: int, size: int = 128) -> list[np.ndarray]:
    """Two seconds of boxes that move over boxes that do not."""
    rng = np.random.default_rng(seed)
    still = [tuple(rng.integers(0, 100, 4)) for _ in range(12)]
    pictures = []
    for index in range(20):
        image = Image.new("RGB", (128, 128))
        draw = ImageDraw.Draw(image)
        for place, (x, y, shade, width) in enumerate(still):
            draw.rectangle(
                (x, y, x + 10 + width // 3, y + 28), fill=(60 + shade,) * 3 if place % 2 else (shade,) * 3
            )
        draw.rectangle((4 * index, 60, 4 * index + 20, 90), fill=(255, 255, 255))
        pictures.append(np.asarray(image.resize((size, size))))
    return pictures


def test_the_same_footage_is_one_group_whatever_its_size_and_codec(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    files = [
        write_video(tmp_path / "a.mp4", scene(1)),
        write_video(tmp_path / "b.mp4", scene(2)),
        write_video(tmp_path / "c.mp4", scene(1, size=96), gop=5),
        write_video(tmp_path / "d.mp4", scene(3)),
        write_video(tmp_path / "black.mp4", [grey(0)] * 20),
        write_video(tmp_path / "dark.mp4", [grey(3)] * 20),
    ]
    prints = [prints_of(scan_video(path, path.name, CONFIG, store)) for path in files]
    # Pictures that show nothing link nothing.
    assert group_videos(prints, 7, 0.8) == [0, 1, 0, 3, 4, 5]
    with pytest.raises(ValueError, match="max_bits"):
        group_videos(prints, 8, 0.8)


def test_groups_reach_as_far_as_links_do() -> None:
    rng = np.random.default_rng(0)
    a, b, c = (rng.integers(0, 256, (4, 16), dtype=np.uint8) for _ in range(3))
    near = a.copy()
    near[:, ::3] ^= 1
    far = a.copy()
    far[:, :8] ^= 1
    # Videos 0 and 4 share nothing but what both share with 2.
    videos = [a, c, np.concatenate([near, b]), far, b]
    assert group_videos(videos, 7, 0.8) == [0, 1, 0, 3, 0]
    assert group_videos(videos, 2, 0.8) == [0, 1, 2, 3, 2]
    assert group_videos([], 7, 0.8) == []


def long_scan(seed: int, duration_s: float, start_s: float = 0.0) -> np.ndarray:
    """Fingerprints of minutes of footage from `start_s` on: a new place every 3 s, in which something moves."""
    prints = []
    for index in range(int(duration_s / SCAN_INTERVAL_S)):
        time_s = start_s + index * SCAN_INTERVAL_S
        place = np.random.default_rng((seed, int(time_s / 3))).uniform(20, 200, (9, 9))
        place[4, int(time_s) % 9] += 40 * (time_s % 1)
        noise = np.random.default_rng((seed, index, int(10 * start_s))).uniform(-1, 1, (9, 9))
        prints.append(fingerprint(place + noise))
    return prints_of(VideoScan("", duration_s, (), tuple(prints)))


@pytest.mark.parametrize(
    ("start_s", "duration_s"),
    [(0.0, 600.0), (0.0, 420.0), (61.2, 480.0), (300.0, 60.0), (177.7, 60.0), (12.3, 20.0)],
)
@pytest.mark.parametrize("copy_is_first", [False, True])
def test_a_piece_of_a_long_video_is_of_its_group(
    start_s: float, duration_s: float, copy_is_first: bool
) -> None:
    """However long either is and wherever the piece begins."""
    videos = [long_scan(1, 600), long_scan(2, 600), long_scan(3, 60), long_scan(1, duration_s, start_s)]
    if copy_is_first:
        videos.reverse()
    assert group_videos(videos, 7, 0.8) == [0, 1, 2, 0]


def test_fingerprints_tell_brightness_apart_by_place_not_by_level() -> None:
    rng = np.random.default_rng(1)
    thumb = rng.uniform(20, 200, (9, 9))
    assert fingerprint(thumb) == fingerprint(thumb * 1.1 + 5)
    assert fingerprint(thumb) != fingerprint(thumb[::-1])
    assert len(fingerprint(thumb)) == 32


def test_splits_keep_their_shares_and_do_not_move() -> None:
    config = SplitConfig(validation=0.2, test=0.1)
    drawn = [split_of(f"video {index}", 0, config) for index in range(3000)]
    assert drawn.count("test") == pytest.approx(300, rel=0.2)
    assert drawn.count("validation") == pytest.approx(600, rel=0.2)
    assert drawn == [split_of(f"video {index}", 0, config) for index in range(3000)]
    assert drawn != [split_of(f"video {index}", 1, config) for index in range(3000)]
