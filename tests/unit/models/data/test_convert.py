import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from models.data.convert import ConvertConfig, Converter
from models.data.finding import BrokenSample, FieldError, Finding
from models.data.image_format import ImageSample
from models.data.json_array import read_json_array
from models.data.stream_format import StreamSample
from models.data.video_file import VideoFile, frames_folder


def write_grey_video(path: Path, num_frames: int, fps: int, first_shown: int = 0) -> None:
    """Frame i is of the grey 4 (first_shown + i), so that a picture tells which frame it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"preset": "ultrafast", "crf": "0"})
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv444p"
        for index in range(num_frames):
            picture = np.full((32, 32, 3), 4 * (first_shown + index), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def frame_shown(path: str) -> int:
    return round(float(np.asarray(Image.open(path)).mean()) / 4)


def raw(path: str, **more: Any) -> dict[str, Any]:
    return {"video_path": path, "question": [{"content": "Q?", "time": 0}], **more}


def write_raw(path: Path, *elements: Any) -> Path:
    path.write_text(json.dumps(elements))
    return path


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("videos")
    write_grey_video(root / "day" / "a.mp4", 50, 10)
    write_grey_video(root / "b.mp4", 25, 10)
    return root


@pytest.mark.parametrize(
    ("fps", "num_frames"),
    # 50 frames at 10 a second; steps of 10, 5, 3 (cut from 3.3), 1 (from 1.7), 1 and 20 frames.
    [(1.0, 5), (2.0, 10), (3.0, 16), (6.0, 50), (30.0, 50), (0.5, 2)],
)
def test_frames_by_whole_steps(fps: float, num_frames: int, root: Path) -> None:
    video = VideoFile.open(root / "day" / "a.mp4")
    assert (video.num_frames, video.fps, video.duration_s) == (50, 10.0, 5.0)
    assert video.num_frames_at(fps) == num_frames


def test_a_container_without_a_frame_count_goes_by_its_duration(tmp_path: Path) -> None:
    path = tmp_path / "c.mkv"
    write_grey_video(path, 30, 10)
    assert VideoFile.open(path).num_frames == 30


def test_image_format_has_the_first_frame_of_every_step(root: Path, tmp_path: Path) -> None:
    config = ConvertConfig("image", fps=2.0, frames_dir=tmp_path / "frames", video_root=root)
    sample, _ = Converter(config).convert(raw("day/a.mp4", response=[{"content": "A", "time": 3}]))
    assert isinstance(sample, ImageSample)
    assert [frame_shown(path) for path in sample.images] == [0, 5, 10, 15, 20, 25, 30, 35, 40, 45]
    assert [turn.state.name for turn in sample.rounds] == ["SILENCE"] * 2 + ["RESPONSE"] + ["SILENCE"] * 7
    element = sample.to_element()
    assert "videos" not in element
    assert element["messages"][1]["content"] == "Q?\n<0s-1s>\n<image>"
    # The same rounds as the stream format, and the pictures are not made twice.
    before = {path: Path(path).stat().st_mtime_ns for path in sample.images}
    stream, _ = Converter(ConvertConfig("stream", fps=2.0, video_root=root)).convert(
        raw("day/a.mp4", response=[{"content": "A", "time": 3}])
    )
    assert stream.rounds == sample.rounds
    again, _ = Converter(config).convert(raw("day/a.mp4"))
    assert isinstance(again, ImageSample)
    assert {path: Path(path).stat().st_mtime_ns for path in again.images} == before


def test_videos_do_not_share_folders(tmp_path: Path) -> None:
    folders = {
        frames_folder(tmp_path, video, fps)
        for video in ("a.mp4", "b/a.mp4", "a.avi", "/x/a.mp4", "/y/a.mp4", "../a.mp4")
        for fps in (1.0, 2.0, 0.5)
    }
    assert len(folders) == 18
    assert all(tmp_path in folder.resolve().parents for folder in folders)


def test_frames_of_another_video_are_not_taken_nor_replaced(tmp_path: Path) -> None:
    for name, first_shown in (("one", 0), ("other", 20)):
        write_grey_video(tmp_path / name / "clip.mp4", 10, 10, first_shown)

    def shown(root: Path) -> list[int]:
        config = ConvertConfig("image", fps=5.0, frames_dir=tmp_path / "frames", video_root=root)
        sample, _ = Converter(config).convert(raw("clip.mp4"))
        assert isinstance(sample, ImageSample)
        return [frame_shown(path) for path in sample.images]

    assert shown(tmp_path / "one") == [0, 2, 4, 6, 8]
    with pytest.raises(BrokenSample, match=r"holds another video's: give another frames_dir.*one/clip\.mp4"):
        shown(tmp_path / "other")
    # A folder that was moved holds the same videos.
    (tmp_path / "one").rename(tmp_path / "moved")
    assert shown(tmp_path / "moved") == [0, 2, 4, 6, 8]


def test_a_video_that_was_changed_has_its_frames_made_anew(tmp_path: Path) -> None:
    config = ConvertConfig("image", fps=5.0, frames_dir=tmp_path / "frames", video_root=tmp_path)
    for first_shown in (0, 20):
        write_grey_video(tmp_path / "clip.mp4", 10, 10, first_shown)
        sample, _ = Converter(config).convert(raw("clip.mp4"))
        assert isinstance(sample, ImageSample)
        assert [frame_shown(path) for path in sample.images] == [first_shown + at for at in (0, 2, 4, 6, 8)]


def test_frames_that_others_made_are_taken_as_they_are(root: Path, tmp_path: Path) -> None:
    folder = frames_folder(tmp_path, "b.mp4", 10.0)
    folder.mkdir(parents=True)
    for index in range(25):
        Image.new("RGB", (8, 8), (40, 40, 40)).save(folder / f"frame_{index:06d}.jpg")
    config = ConvertConfig("image", fps=10.0, frames_dir=tmp_path, video_root=root)
    sample, _ = Converter(config).convert(raw("b.mp4"))
    assert isinstance(sample, ImageSample)
    assert {frame_shown(path) for path in sample.images} == {10}


def test_a_video_that_ends_a_frame_early_repeats_its_last(root: Path, tmp_path: Path) -> None:
    folder = frames_folder(tmp_path, "b.mp4", 10.0)
    converter = Converter(ConvertConfig("image", fps=10.0, frames_dir=tmp_path, video_root=root))
    converter.convert(raw("b.mp4"))
    (folder / "frame_000024.jpg").unlink()
    sample, findings = converter.convert(raw("b.mp4"))
    assert isinstance(sample, ImageSample)
    assert [frame_shown(path) for path in sample.images[-2:]] == [23, 23]
    assert [finding.field for finding in findings] == ["video_path"]
    (folder / "frame_000023.jpg").unlink()
    with pytest.raises(BrokenSample, match="23 of 25"):
        converter.convert(raw("b.mp4"))


def test_a_broken_sample_is_told_and_left_out_or_ends_the_conversion(root: Path, tmp_path: Path) -> None:
    (root / "text.mp4").write_text("no video")
    source = write_raw(
        tmp_path / "raw.json",
        raw("b.mp4"),
        raw("gone.mp4"),
        {"question": []},
        raw("text.mp4"),
        raw("b.mp4", response=[{"content": "A", "time": 99}], task_type="qa"),
        raw("b.mp4", response=[{"content": 3}]),
    )
    converter = Converter(ConvertConfig("stream", fps=5.0, video_root=root))
    findings: list[Finding] = []
    target = tmp_path / "out.json"
    summary = converter.convert_file(source, target, skip_broken=True, on_finding=findings.append)
    assert [(one.index, one.field, one.broken) for one in findings] == [
        (1, "video_path", True),
        (2, "video_path", True),
        (3, "video_path", True),
        (4, "response.0", False),
        (5, "response.0.content", True),
    ]
    assert str(source) in str(findings[0]) and "sample 1: video_path: not found" in str(findings[0])
    assert (summary.num_converted, summary.num_broken, summary.num_rounds) == (2, 4, 24)
    assert summary.notes == {"no frame left for the Response": 1}
    written = [StreamSample.parse(element) for element in read_json_array(target)]
    assert [len(sample.rounds) for sample in written] == [12, 12]
    assert written[0].videos == (str(root / "b.mp4"),)
    assert [sample.task_type for sample in written] == ["", "qa"]

    target.unlink()
    with pytest.raises(BrokenSample) as told:
        converter.convert_file(source, target)
    assert told.value.finding.index == 1
    assert list(tmp_path.glob("*out.json*")) == []


HALF = "half of \ud83d"


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"response": [{"content": "A", "time": 1}, {"content": HALF, "time": 2}]}, "response.1.content"),
        ({"question": [{"content": HALF, "time": 0}]}, "question.0.content"),
        ({"video_name": HALF}, "video_name"),
        ({"task_type": HALF}, "task_type"),
        ({"source": HALF}, "source"),
        ({"video_path": f"{HALF}.mp4"}, "video_path"),
        ({"video_path": "", "videos": [f"{HALF}.mp4"]}, "videos.0"),
    ],
)
def test_half_a_character_is_named_and_left_out(
    more: dict[str, Any], field: str, root: Path, tmp_path: Path
) -> None:
    source = write_raw(tmp_path / "raw.json", raw("b.mp4") | more, raw("b.mp4"))
    converter = Converter(ConvertConfig("stream", fps=5.0, video_root=root))
    findings: list[Finding] = []
    converter.convert_file(source, tmp_path / "out.json", skip_broken=True, on_finding=findings.append)
    assert [str(one) for one in findings] == [
        f"{source}: sample 0: {field}: holds half a character (lone surrogate)"
    ]
    (kept,) = read_json_array(tmp_path / "out.json")
    # The other formats hold no more of it.
    kept["messages"][2]["content"] = f"</Response> {HALF}"
    with pytest.raises(FieldError, match=r"messages\.2\.content: holds half a character"):
        StreamSample.parse(kept)
    with pytest.raises(FieldError, match=r"images\.0: holds half a character"):
        ImageSample.parse({"messages": [], "images": [HALF]})


def test_too_short_for_one_frame_is_broken(root: Path) -> None:
    with pytest.raises(BrokenSample, match=r"no frame at 0\.2 fps"):
        Converter(ConvertConfig("stream", fps=0.2, video_root=root)).convert(raw("b.mp4"))


def test_callers_mistakes_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="frames_dir: the image format needs"):
        ConvertConfig("image")
    with pytest.raises(ValueError, match="frames_dir: the stream format has no pictures"):
        ConvertConfig("stream", frames_dir=tmp_path)
    with pytest.raises(ValueError, match="fps"):
        ConvertConfig("stream", fps=0.0)
    with pytest.raises(ValueError, match="system_prompt"):
        ConvertConfig("stream", system_prompt=" ")
