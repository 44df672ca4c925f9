"""Raw samples to the stream or the image format, a sample at a time."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from models.data.finding import BrokenSample, FieldError, Finding
from models.data.image_format import ImageSample
from models.data.json_array import JsonArrayWriter, read_json_array
from models.data.raw_sample import RawSample
from models.data.stream_format import (
    DEFAULT_QUESTION,
    DEFAULT_SYSTEM_PROMPT,
    StreamSample,
    frame_rounds,
)
from models.data.video_file import VideoFile, find_video, frames_folder
from models.vlm.state import State

TargetFormat = Literal["stream", "image"]


@dataclass(frozen=True)
class ConvertConfig:
    """fps: frames a second that the rounds stand for. frames_dir: where the image format's pictures go (needed for it
    alone, and made there unless they are there). video_root: videos are below it; None: they are as they stand, or
    beside the file. default_question: asked where a sample has no question."""

    to: TargetFormat
    fps: float = 1.0
    frames_dir: Path | None = None
    video_root: Path | None = None
    system_prompt: str = DEFAULT_SYSTEM_PROMPT
    default_question: str = DEFAULT_QUESTION

    def __post_init__(self) -> None:
        if not 0 < self.fps < float("inf"):
            raise ValueError(f"fps {self.fps}: must be above 0")
        if self.to == "image" and self.frames_dir is None:
            raise ValueError("frames_dir: the image format needs a folder for the frames")
        if self.to == "stream" and self.frames_dir is not None:
            raise ValueError(
                "frames_dir: the stream format has no pictures; leave it out, or convert to image"
            )
        if not self.system_prompt.strip():
            raise ValueError("system_prompt: is empty")


@dataclass
class ConvertSummary:
    """What a conversion came to. `notes` counts, by reason, what rounds do not show as their sample gives it."""

    num_converted: int = 0
    num_broken: int = 0
    num_rounds: int = 0
    states: Counter[State] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)


class Converter:
    """Converts samples under one config. Videos that several samples share are opened once."""

    def __init__(self, config: ConvertConfig) -> None:
        self.config = config
        self._videos: dict[Path, VideoFile] = {}

    def convert_file(
        self,
        source: Path,
        target: Path,
        *,
        skip_broken: bool = False,
        on_finding: Callable[[Finding], None] = lambda finding: None,
        on_sample: Callable[[], None] = lambda: None,
    ) -> ConvertSummary:
        """Writes `target` whole or, where an error ends it, not at all.

        Everything that is wrong or left out is told to `on_finding` at once. A broken sample is left out with
        `skip_broken`, else it raises BrokenSample. ValueError where `source` is no JSON list.
        """
        summary = ConvertSummary()
        with JsonArrayWriter(target) as writer:
            for index, element in enumerate(read_json_array(source)):
                try:
                    sample, findings = self.convert(element, str(source), index)
                except BrokenSample as broken:
                    on_finding(broken.finding)
                    if not skip_broken:
                        raise
                    summary.num_broken += 1
                else:
                    for finding in findings:
                        on_finding(finding)
                        summary.notes[finding.reason] += 1
                    rounds = sample.rounds
                    summary.num_converted += 1
                    summary.num_rounds += len(rounds)
                    summary.states.update(turn.state for turn in rounds)
                    writer.write(sample.to_element())
                on_sample()
        return summary

    def convert(
        self, element: Any, file: str = "", index: int = 0
    ) -> tuple[StreamSample | ImageSample, list[Finding]]:
        """One sample, and what its rounds leave out. BrokenSample where it cannot be converted."""
        try:
            raw = RawSample.parse(element)
            video = self._video(find_video(raw.video, Path(file), self.config.video_root))
            num_frames = video.num_frames_at(self.config.fps)
            if num_frames < 1:
                raise FieldError("video_path", f"has no frame at {self.config.fps:g} fps", str(video.path))
            rounds, left_out = frame_rounds(raw, num_frames, self.config.fps, self.config.default_question)
            findings = [Finding(file, index, one.field, one.reason, one.detail) for one in left_out]
            if self.config.frames_dir is None:
                return StreamSample.make(raw, rounds, str(video.path), self.config.system_prompt), findings
            folder = frames_folder(self.config.frames_dir, raw.video, self.config.fps)
            files, ends_early = video.frame_files(self.config.fps, folder)
            if ends_early:
                reason = "ends a frame early: its last frame stands twice"
                findings.append(Finding(file, index, "video_path", reason, str(video.path)))
            images = [str(path) for path in files]
            return ImageSample.make(raw, rounds, images, self.config.system_prompt), findings
        except FieldError as error:
            raise error.at(file, index) from error

    def _video(self, path: Path) -> VideoFile:
        if path not in self._videos:
            self._videos[path] = VideoFile.open(path)
        return self._videos[path]
