"""Clips of the watched place as a data set: samples in the raw format, their videos, and a manifest.

The same settings give the same files, byte for byte, wherever the packages that the manifest names are the same.
"""

import hashlib
import json
import math
import platform
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from models.data import h264
from models.data.place.clip import Clip, draw_clip
from models.data.place.label import Gold
from models.data.place.picture import render
from models.data.place.query import TASKS
from models.data.place.simulated import SOURCE
from models.data.place.split import check_split
from models.data.raw_sample import RawQuestion, RawResponse, RawSample

LICENCE = "Apache-2.0"
# To be raised whenever equal settings give other clips than before.
SIMULATOR_VERSION = 3
_STILL_S = 2
_PACKAGES = ("streamo", "numpy", "pillow", "av")


@dataclass(frozen=True)
class DataSetConfig:
    """Sample i is the clip of seed `first_seed` + i, `num_frames` kept frames long; tasks take turns.

    width and height are of the videos, in pixels; fps is their frame rate.
    """

    split: str
    num_samples: int
    first_seed: int = 0
    num_frames: int = 40
    fps: int = 10
    width: int = 560
    height: int = 448
    with_videos: bool = True

    def __post_init__(self) -> None:
        check_split(self.split)
        if self.num_samples < 1:
            raise ValueError(f"num_samples {self.num_samples}: must be at least 1")
        if self.num_frames < 1:
            raise ValueError(f"num_frames {self.num_frames}: must be at least 1")
        if not 1 <= self.fps <= 60:
            raise ValueError(f"fps {self.fps}: must lie between 1 and 60")
        # The encoder fills up other sizes with whatever is in memory, and the files would not be the same again.
        if self.width % 16 or self.height % 16 or self.width < 144 or self.height < 112:
            raise ValueError(
                f"size {self.width}x{self.height}: must be multiples of 16, and at least 144x112"
            )


def write_data_set(
    config: DataSetConfig, folder: Path, on_sample: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Write raw.json, truth.jsonl, videos/*.mp4 and manifest.json, the last of which is written last; returns it.

    truth.jsonl has a line for each sample: its script, its hold-outs and the frames it was labelled on. ValueError
    if the folder exists and is not empty.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty; name a new folder")
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    samples, truths = [], []
    for index in range(config.num_samples):
        seed, task = config.first_seed + index, TASKS[index % len(TASKS)]
        clip = draw_clip(seed, config.split, config.num_frames, task, start_ms=0)
        name = f"{config.split}-{seed:06d}"
        samples.append(raw_sample(clip, name).to_element())
        truths.append(json.dumps(_truth(clip, name, seed)) + "\n")
        if config.with_videos:
            write_video(clip, folder / "videos" / f"{name}.mp4", config.fps, config.height, config.width)
        on_sample()
    (folder / "raw.json").write_text(json.dumps(samples, indent=1) + "\n", encoding="utf-8")
    (folder / "truth.jsonl").write_text("".join(truths), encoding="utf-8")
    manifest = _manifest(config, folder)
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return manifest


def raw_sample(clip: Clip, name: str) -> RawSample:
    """A clip that begins at media time 0; times are seconds of its video, as strings with one decimal."""
    asked_ms = clip.times_ms[clip.first_live] if clip.first_live else 0
    return RawSample(
        video_name=name,
        video_path=f"videos/{name}.mp4",
        task_type=clip.task,
        source=SOURCE,
        question=(RawQuestion(content=clip.instruction, time=_seconds(asked_ms)),),
        response=tuple(_response(gold, clip.task) for gold in clip.golds),
    )


def write_video(clip: Clip, path: Path, fps: int, height: int, width: int) -> None:
    """H.264 in MP4, from the clip's first kept frame to its last, which then stands still for two seconds: what it
    tells must not be past the last frame of whoever takes one a second.
    """
    import av

    begin_ms, end_ms = clip.times_ms[0], clip.times_ms[-1]
    with av.open(str(path), "w", format="mp4") as container:
        stream = h264.add_stream(container, fps, width, height)
        for index in range((end_ms - begin_ms) * fps // 1000 + 1 + _STILL_S * fps):
            picture = render(clip.script, min(begin_ms + index * 1000 // fps, end_ms), height, width)
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _response(gold: Gold, task: str) -> RawResponse:
    # A span that is told ends with the frame that tells it: at another frame rate none may come before that.
    end_ms = gold.frame_ms if task == "grounding" else gold.end_ms
    if gold.open_ms is None or gold.open_ms >= end_ms:
        return RawResponse(content=gold.text, time=_seconds(gold.frame_ms))
    return RawResponse(content=gold.text, st_time=_seconds(gold.open_ms), end_time=_seconds(end_ms))


def _seconds(time_ms: int) -> str:
    """Never earlier than it is, and always with a decimal: the raw format reads a whole number as frames."""
    return f"{math.ceil(time_ms / 100) / 10:.1f}"


def _truth(clip: Clip, name: str, seed: int) -> dict[str, Any]:
    return {
        "video_name": name,
        "seed": seed,
        "held_out": clip.held_out,
        "first_live": clip.first_live,
        "times_ms": clip.times_ms,
        "script": json.loads(clip.script.to_json()),
    }


def _manifest(config: DataSetConfig, folder: Path) -> dict[str, Any]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        "source": SOURCE,
        "licence": LICENCE,
        "simulator_version": SIMULATOR_VERSION,
        "settings": asdict(config),
        "seeds": [config.first_seed, config.first_seed + config.num_samples - 1],
        "python": re.sub(r"\.\d+$", "", platform.python_version()),
        "packages": {name: version(name) for name in _PACKAGES},
        "files": {
            path.relative_to(folder).as_posix(): {
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "bytes": path.stat().st_size,
            }
            for path in files
        },
    }
