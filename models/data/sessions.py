"""The sessions that a file of samples comes to: what is asked of a video, and what is right to say at its frames.

Raw samples follow our own recipe: frames at a steady rate, tags in media seconds, a question asked when it is asked,
Response at the first frame at or after the end of a thing, so never early. Samples in the stream format stay as they
are, tags and all.
"""

from __future__ import annotations

import bisect
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from models.data.finding import BrokenSample, FieldError, Finding
from models.data.json_array import read_json_array
from models.data.raw_sample import RawResponse, RawSample, RawTime, raw_time
from models.data.sample import SEPARATOR, Round
from models.data.span import shift_spans, without_spans
from models.data.stream_format import DEFAULT_QUESTION, StreamSample, TaggedRound, check_told
from models.data.video_file import VideoFile, find_video
from models.data.video_frames import frames_at
from models.vlm.frame_size import FrameBudget
from models.vlm.state import State

T = TypeVar("T")
_NOMINAL_INTERVAL_MS = 1000


@dataclass(frozen=True)
class Session:
    """One instruction on one video.

    frame_times_ms: of each round's frame, in the video. first_live: the first round after the instruction was given;
    the ones before are silent. since: per round the earliest round that its reply names.
    """

    task: str
    instruction: str
    video: Path
    frame_times_ms: tuple[int, ...]
    rounds: tuple[Round, ...]
    first_live: int
    since: tuple[int, ...]

    def shifted(self, offset_ms: int) -> Session:
        """The same on a stream that began `offset_ms` earlier: tags move, and spans that are told move with them."""
        rounds = tuple(
            replace(
                one,
                start_ms=one.start_ms + offset_ms,
                end_ms=one.end_ms + offset_ms,
                text=shift_spans(one.text, offset_ms),
            )
            for one in self.rounds
        )
        return replace(self, rounds=rounds)

    @property
    def can_shift(self) -> bool:
        """No text holds a number that might be a time that `shifted` would not move."""
        return not any(re.search(r"\d", without_spans(one.text)) for one in self.rounds)


class SessionFile:
    """Samples of a file in the raw or the stream format, made to sessions when asked for.

    Holds the samples as JSON text, so that workers share it and nothing is held twice.
    """

    def __init__(self, path: Path, video_root: Path | None, fps: float) -> None:
        """`fps`: frames a second; of samples in the stream format those that they were converted at. ValueError.

        `video_root`: video paths are below it; None: they are as they stand, or below the file's own folder.
        """
        if not 0 < fps <= 60:
            raise ValueError(f"fps {fps}: must be above 0 and at most 60")
        if not path.is_file():
            raise ValueError(f"{path} is missing")
        self.path = path
        self._video_root = video_root
        self.fps = fps
        self._elements = [json.dumps(element).encode() for element in read_json_array(path)]

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._elements)

    def sessions(
        self, index: int, on_finding: Callable[[Finding], None] = lambda finding: None
    ) -> list[Session]:
        """Those of one sample: each of its questions begins one, which lasts until the next. BrokenSample.

        `on_finding` is told what the sample holds and no session of it teaches.
        """

        def left_out(field: str, reason: str, detail: str = "") -> None:
            on_finding(Finding(str(self.path), index, field, reason, detail))

        element = json.loads(self._elements[index])
        try:
            if isinstance(element, dict) and "messages" in element:
                stream = StreamSample.parse(element)
                return list(_stream_sessions(stream, self._video(stream.videos[0]), self.fps, left_out))
            raw = RawSample.parse(element)
            return list(_raw_sessions(raw, self._video(raw.video), self.fps, left_out))
        except FieldError as error:
            raise error.at(str(self.path), index) from error

    def each(
        self,
        read: Callable[[int], T],
        *,
        skip_broken: bool,
        on_finding: Callable[[Finding], None],
    ) -> Iterator[T | None]:
        """What `read` makes of each sample, by its index; None for a broken one, or BrokenSample unless `skip_broken`.

        `on_finding` is told of what is broken, in either case.
        """
        for index in range(len(self)):
            try:
                made = read(index)
            except BrokenSample as broken:
                on_finding(broken.finding)
                if not skip_broken:
                    raise
                yield None
            else:
                yield made

    def frames(
        self, index: int, session: Session, budget: FrameBudget, kept: slice = slice(None)
    ) -> Iterator[np.ndarray]:
        """Of a session of this sample, those of the rounds `kept`: see `frames_at`. BrokenSample for a video whose
        header promised more than it holds."""
        try:
            yield from frames_at(session.video, session.frame_times_ms[kept], budget)
        except FieldError as error:
            raise error.at(str(self.path), index) from error

    def _video(self, name: str) -> VideoFile:
        return VideoFile.open(find_video(name, self.path, self._video_root))


LeaveOut = Callable[[str, str, str], None]


def _raw_sessions(raw: RawSample, video: VideoFile, fps: float, leave_out: LeaveOut) -> Iterator[Session]:
    num_rounds = int(video.duration_s * fps)
    if num_rounds < 1:
        raise FieldError("video_path", f"has no frame at {fps:g} fps", str(video.path))
    times_ms = tuple(round(1000 * index / fps) for index in range(num_rounds))
    asked = []
    for index, question in enumerate(raw.question):
        at_ms = _seconds_ms(question.time)
        if not question.content.strip():
            leave_out(f"question.{index}.content", "empty", "")
            continue
        if at_ms is None:
            leave_out(f"question.{index}.time", "no time that can be read: asked at 0", repr(question.time))
        asked.append((at_ms or 0, question.content, f"question.{index}"))
    asked.sort(key=lambda one: one[0])
    if not asked:
        leave_out("question", "no question: the default one is asked", "")
        asked.append((0, DEFAULT_QUESTION, "question"))
    _tell_untold(raw, video, times_ms, [asked_ms for asked_ms, _, _ in asked], leave_out)
    for number, (asked_ms, instruction, field) in enumerate(asked):
        until_ms = asked[number + 1][0] if number + 1 < len(asked) else times_ms[-1] + 1
        first_live = bisect.bisect_left(times_ms, asked_ms)
        num_kept = bisect.bisect_left(times_ms, until_ms)
        if first_live >= num_kept:
            shown = f"{asked_ms / 1000:g} s of {video.duration_s:g} s"
            leave_out(field, "no frame between it and the next question or the end of the video", shown)
            continue
        rounds, since = _label(raw, times_ms[:num_kept], first_live, asked_ms)
        yield Session(raw.task_type, instruction, video.path, times_ms[:num_kept], rounds, first_live, since)


def _tell_untold(
    raw: RawSample, video: VideoFile, times_ms: Sequence[int], asked_ms: Sequence[int], leave_out: LeaveOut
) -> None:
    """Which responses no round can have: without words or time, over before anything is asked or after the video, or
    with no frame between their end and the next question. `asked_ms`: of the questions, rising."""
    for index, response in enumerate(raw.response):
        field = f"response.{index}"
        start_ms, at_ms = _span_ms(response)
        if at_ms is None:
            leave_out(field, "no time that can be read", "")
            continue
        shown = f"{at_ms / 1000:g} s"
        num_asked = bisect.bisect_right(asked_ms, at_ms)
        if not response.content.strip():
            leave_out(f"{field}.content", "empty", "")
        elif at_ms > times_ms[-1]:
            leave_out(field, "no frame left for the Response", f"{shown} of {video.duration_s:g} s")
        elif num_asked == 0:
            leave_out(field, "over before anything is asked", shown)
        elif times_ms[bisect.bisect_left(times_ms, at_ms)] >= min(asked_ms[num_asked:], default=math.inf):
            leave_out(field, "no frame between its end and the next question", shown)
        elif start_ms is not None and start_ms > at_ms:
            leave_out(field, "its end is before its start: no Standby", f"{start_ms / 1000:g} s")


def _span_ms(response: RawResponse) -> tuple[int | None, int | None]:
    """(start, end) of a response with a span; (None, time) of another; the latter None where it tells neither."""
    start_ms, end_ms = _seconds_ms(response.st_time), _seconds_ms(response.end_time)
    if start_ms is not None and end_ms is not None:
        return start_ms, end_ms
    return None, _seconds_ms(response.time)


def _label(
    raw: RawSample, times_ms: Sequence[int], first_live: int, asked_ms: int
) -> tuple[tuple[Round, ...], tuple[int, ...]]:
    """Standby while a span lasts, Response at the first frame after its end or at a time; what ends together is told
    together, in the order of the sample. What was over before `asked_ms` is not told, though the first frame after it
    be live: it answers no question that had been asked.
    """
    texts: list[list[str]] = [[] for _ in times_ms]
    since = list(range(len(times_ms)))
    waits = [False] * len(times_ms)
    for response in raw.response:
        start_ms, at_ms = _span_ms(response)
        if at_ms is None or at_ms < asked_ms or not response.content.strip():
            continue
        close = bisect.bisect_left(times_ms, at_ms)
        begin = close if start_ms is None else bisect.bisect_left(times_ms, start_ms)
        for index in range(max(begin, first_live), min(close, len(times_ms))):
            waits[index] = True
        if first_live <= close < len(times_ms):
            texts[close].append(response.content.strip())
            since[close] = min(since[close], begin)
    rounds = []
    for index, (time_ms, told, waiting) in enumerate(zip(times_ms, texts, waits, strict=True)):
        begin_ms = times_ms[index - 1] if index else max(0, time_ms - _NOMINAL_INTERVAL_MS)
        state = State.RESPONSE if told else State.STANDBY if waiting else State.SILENCE
        rounds.append(Round(begin_ms, time_ms, state, SEPARATOR.join(told)))
    return tuple(rounds), tuple(since)


def _seconds_ms(value: RawTime) -> int | None:
    """A raw time in milliseconds: numbers are seconds, whatever they are frames of elsewhere, fractions included."""
    text = str(value) if isinstance(value, float) else value
    if isinstance(text, str) and not text.strip().lstrip("+-").isdigit():
        time_ms = raw_time(text, 1000.0)
    else:
        seconds = raw_time(text, 1.0)
        time_ms = None if seconds is None else 1000 * seconds
    return None if time_ms is None else max(0, time_ms)


def _stream_sessions(
    sample: StreamSample, video: VideoFile, fps: float, leave_out: LeaveOut
) -> Iterator[Session]:
    rounds = sample.rounds
    if len(rounds) > video.num_frames_at(fps):
        raise FieldError(
            "videos", f"has fewer frames at {fps:g} fps than there are rounds", f"{len(rounds)}: {video.path}"
        )
    times_ms = tuple(round(1000 * index * video.step(fps) / video.fps) for index in range(len(rounds)))
    check_told(rounds)
    asked = _asked(rounds) or [(0, DEFAULT_QUESTION)]
    for index, one in enumerate(rounds[: asked[0][0]]):
        if one.state is State.RESPONSE:
            leave_out(
                f"messages.{2 * index + 2}.content", "told before anything is asked", repr(one.text[:60])
            )
    for number, (first_live, instruction) in enumerate(asked):
        end = asked[number + 1][0] if number + 1 < len(asked) else len(rounds)
        kept = tuple(
            Round(
                round(1000 * one.start_s),
                round(1000 * one.end_s),
                one.state if index >= first_live else State.SILENCE,
                one.text if index >= first_live else "",
            )
            for index, one in enumerate(rounds[:end])
        )
        yield Session(
            sample.task_type, instruction, video.path, times_ms[:end], kept, first_live, tuple(range(end))
        )


def _asked(rounds: Sequence[TaggedRound]) -> list[tuple[int, str]]:
    """(round, question). The converter asks a late question at the first frame too: that copy is none, unless something
    is told while it stands."""
    asked = [(index, one.question) for index, one in enumerate(rounds) if one.question.strip()]
    if len(asked) > 1 and asked[0][0] == 0 and asked[0][1] in {question for _, question in asked[1:]}:
        until = asked[1][0]
        if all(one.state is not State.RESPONSE for one in rounds[:until]):
            return asked[1:]
    return asked
