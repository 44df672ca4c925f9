"""What a file of samples holds: counts, durations, the weights that its states call for, and what is wrong with it."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.data.finding import FieldError, Finding
from models.data.image_format import ImageSample
from models.data.json_array import read_json_array
from models.data.raw_sample import RawSample
from models.data.stream_format import StreamSample, check_told, frame_rounds
from models.data.video_file import VideoFile, find_video
from models.vlm.state import State

CLASS_BALANCED_BETA = 0.9999
NO_NAME = "(none)"


@dataclass
class DataStatistics:
    """Of one file. Durations are seconds of the videos, or of the tags where a file tells no more; states are those of
    the rounds, and empty where a raw file's videos were not looked at."""

    format: str = ""
    num_samples: int = 0
    num_broken: int = 0
    tasks: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    videos: set[str] = field(default_factory=set)
    states: Counter[State] = field(default_factory=Counter)
    task_states: dict[str, Counter[State]] = field(default_factory=dict)
    durations_s: list[float] = field(default_factory=list)
    questions_per_sample: Counter[int] = field(default_factory=Counter)
    responses_per_sample: Counter[int] = field(default_factory=Counter)
    response_chars: list[int] = field(default_factory=list)
    broken_reasons: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)

    @property
    def state_counts(self) -> tuple[int, ...]:
        """Silence, Standby, Response."""
        return tuple(self.states[state] for state in State)

    def to_element(self) -> dict[str, Any]:
        """For machines: plain JSON values."""
        return {
            "format": self.format,
            "samples": self.num_samples,
            "broken": self.num_broken,
            "videos": len(self.videos),
            "tasks": dict(self.tasks),
            "sources": dict(self.sources),
            "states": {state.name.lower(): self.states[state] for state in State},
            "task_states": {
                task: {state.name.lower(): states[state] for state in State}
                for task, states in sorted(self.task_states.items())
            },
            "frequency_weights": frequency_weights(self.state_counts),
            "class_balanced_weights": class_balanced_weights(self.state_counts),
            "hours": sum(self.durations_s) / 3600,
            "questions_per_sample": dict(sorted(self.questions_per_sample.items())),
            "responses_per_sample": dict(sorted(self.responses_per_sample.items())),
            "broken_reasons": dict(self.broken_reasons),
            "notes": dict(self.notes),
        }


class DataCheck:
    """Goes through a file of any of the three formats.

    Videos of a raw or stream file are looked for below `video_root`, by default as they stand or beside the file, and a
    raw file's rounds made at `fps`; an image file's pictures are looked for. With `open_videos` False neither is, and
    of a raw file states and durations stay empty. With `decode` every video of a raw or stream file is read to its end.
    """

    def __init__(
        self,
        video_root: Path | None = None,
        fps: float = 1.0,
        open_videos: bool = True,
        decode: bool = False,
    ) -> None:
        if not 0 < fps < float("inf"):
            raise ValueError(f"fps {fps}: must be above 0")
        if decode and not open_videos:
            raise ValueError("decode: reads the videos that are not to be opened; leave one of the two out")
        self._decode = decode
        self._video_root = video_root
        self._fps = fps
        self._open_videos = open_videos
        self._videos: dict[Path, VideoFile] = {}

    def run(
        self,
        path: Path,
        on_finding: Callable[[Finding], None] = lambda finding: None,
        on_sample: Callable[[], None] = lambda: None,
    ) -> DataStatistics:
        """ValueError where the file is no JSON list; whatever is wrong with a sample goes to `on_finding`."""
        statistics = DataStatistics()
        for index, element in enumerate(read_json_array(path)):
            statistics.format = statistics.format or format_of(element)
            statistics.num_samples += 1
            try:
                findings = self._add(statistics, element, str(path), index)
            except FieldError as error:
                findings = [error.at(str(path), index).finding]
                statistics.num_broken += 1
            for finding in findings:
                (statistics.broken_reasons if finding.broken else statistics.notes)[finding.reason] += 1
                on_finding(finding)
            on_sample()
        return statistics

    def _add(self, statistics: DataStatistics, element: Any, file: str, index: int) -> list[Finding]:
        if statistics.format == "raw":
            return self._add_raw(statistics, element, file, index)
        sample: StreamSample | ImageSample
        if statistics.format == "image":
            sample = ImageSample.parse(element)
            for position, image in enumerate(sample.images):
                if self._open_videos and not Path(image).is_file():
                    raise FieldError(f"images.{position}", "not found", image)
            video = str(Path(sample.images[0]).parent)
        else:
            sample = StreamSample.parse(element)
            video = sample.videos[0]
            if self._open_videos:
                self._video(find_video(video, Path(file), self._video_root))
        rounds = sample.rounds
        check_told(rounds)
        asked = sum(bool(turn.question) for turn in rounds)
        told = [turn.text for turn in rounds if turn.state is State.RESPONSE]
        statistics.durations_s.append(rounds[-1].end_s - rounds[0].start_s)
        _count(statistics, sample.task_type, sample.source, video, asked, told)
        _count_states(statistics, sample.task_type, [turn.state for turn in rounds])
        return []

    def _add_raw(self, statistics: DataStatistics, element: Any, file: str, index: int) -> list[Finding]:
        raw = RawSample.parse(element)
        findings: list[Finding] = []
        if self._open_videos:
            path = find_video(raw.video, Path(file), self._video_root)
            video = self._video(path)
            num_frames = video.num_frames_at(self._fps)
            if num_frames < 1:
                raise FieldError("video_path", f"has no frame at {self._fps:g} fps", str(path))
            rounds, left_out = frame_rounds(raw, num_frames, self._fps)
            findings = [Finding(file, index, one.field, one.reason, one.detail) for one in left_out]
            statistics.durations_s.append(video.duration_s)
            _count_states(statistics, raw.task_type, [turn.state for turn in rounds])
        told = [response.content for response in raw.response if response.content]
        asked = sum(bool(question.content) for question in raw.question)
        _count(statistics, raw.task_type, raw.source, raw.video, asked, told)
        return findings

    def _video(self, path: Path) -> VideoFile:
        """Opened, and with `decode` read, once."""
        if path not in self._videos:
            video = VideoFile.open(path)
            if self._decode:
                video.read_through()
            self._videos[path] = video
        return self._videos[path]


def format_of(element: Any) -> str:
    """raw, stream or image, by the names in an element."""
    if isinstance(element, dict) and "messages" in element:
        return "image" if "images" in element else "stream"
    return "raw"


def frequency_weights(counts: Sequence[int]) -> list[float]:
    """What the paper's loss gives each state on the whole file: sum(n) / (n_k * number present); 0 where n_k is 0."""
    present = sum(count > 0 for count in counts)
    return [sum(counts) / (count * present) if count else 0.0 for count in counts]


def class_balanced_weights(counts: Sequence[int], beta: float = CLASS_BALANCED_BETA) -> list[float]:
    """(1 - beta) / (1 - beta^n_k), scaled to mean 1 over the states present; 0 where n_k is 0.

    With large counts all come close to 1. Source: Cui et al., Class-Balanced Loss (CVPR 2019).
    """
    weights = [(1 - beta) / (1 - beta**count) if count else 0.0 for count in counts]
    total, present = sum(weights), sum(count > 0 for count in counts)
    return [weight * present / total for weight in weights] if present else weights


def _count(
    statistics: DataStatistics, task: str, source: str, video: str, asked: int, told: Sequence[str]
) -> None:
    statistics.tasks[task or NO_NAME] += 1
    statistics.sources[source or NO_NAME] += 1
    statistics.videos.add(video)
    statistics.questions_per_sample[asked] += 1
    statistics.responses_per_sample[len(told)] += 1
    statistics.response_chars.extend(map(len, told))


def _count_states(statistics: DataStatistics, task: str, states: Sequence[State]) -> None:
    statistics.states.update(states)
    statistics.task_states.setdefault(task or NO_NAME, Counter()).update(states)
