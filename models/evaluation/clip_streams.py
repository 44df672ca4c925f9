"""Evaluation streams from labelled clips of one's own: the sessions of a file in the raw or the stream format."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from models.data.finding import BrokenSample, FieldError, Finding
from models.data.place.query import TASKS
from models.data.sessions import Session, SessionFile
from models.data.video_frames import frame_grid
from models.evaluation.caption import Caption, CaptionReader
from models.evaluation.stream import EvaluationStream
from models.vlm.dialogue import Dialogue
from models.vlm.frame_size import FrameBudget
from models.vlm.state import State

SOURCE = "clips"


class ClipStreams:
    """Each question of each sample is a stream. Those of one video are one group: they are not independent."""

    def __init__(
        self,
        file: SessionFile,
        budget: FrameBudget,
        dialogue: Dialogue,
        reader: CaptionReader,
        *,
        skip_broken: bool = False,
        on_finding: Callable[[Finding], None] = lambda finding: None,
    ) -> None:
        """Reads every sample, and its video's header. BrokenSample unless `skip_broken`; told to `on_finding`
        before, as is what a sample holds and no stream asks for. ValueError where nothing is left. `dialogue` and
        `budget`: of the model, for what it cannot be asked and shown.
        """
        self._file = file
        self._budget = budget
        self._dialogue = dialogue
        self._skip_broken = skip_broken
        self._on_finding = on_finding
        self._reader = reader
        self._streams = [
            stream
            for streams in file.each(
                lambda index: self._read(index, on_finding), skip_broken=skip_broken, on_finding=on_finding
            )
            for stream in streams or ()
        ]
        if not self._streams:
            raise ValueError(f"{file.path} holds no sample to score")

    @property
    def settings(self) -> dict[str, Any]:
        """Videos are told apart by their sizes."""
        return {
            "source": SOURCE,
            "file": self._file.path.name,
            "sha256": hashlib.sha256(self._file.path.read_bytes()).hexdigest(),
            "video_bytes": sum(Path(video).stat().st_size for video in {one.group for one in self._streams}),
            "fps": self._file.fps,
            "frame_size": [self._budget.min_pixels, self._budget.max_pixels],
            "min_word_f1": self._reader.min_word_f1,
        }

    @property
    def num_streams(self) -> int:
        return len(self._streams)

    def parse(self, task: str, text: str) -> tuple[Caption | None, ...]:
        return self._reader.parse(task, text)

    def streams(self) -> Iterator[EvaluationStream]:
        """BrokenSample, while its frames are asked for, for a video that holds less than its header promised."""
        yield from self._streams

    def leave_out(self, broken: BrokenSample) -> None:
        """Tells it; raises it unless broken samples are skipped."""
        if not self._skip_broken:
            raise broken
        self._on_finding(broken.finding)

    def _read(self, index: int, on_finding: Callable[[Finding], None]) -> list[EvaluationStream]:
        """Of one sample. BrokenSample."""
        sessions = self._file.sessions(index, on_finding)
        try:
            for video in {session.video for session in sessions}:
                frame_grid(video, self._budget)
            return [self._stream(index, number, session) for number, session in enumerate(sessions)]
        except FieldError as error:
            raise error.at(str(self._file.path), index) from error

    def _stream(self, index: int, number: int, session: Session) -> EvaluationStream:
        """FieldError for what cannot be asked or scored."""
        if session.task not in TASKS:
            reason = f"must be one of {', '.join(TASKS)} to be scored"
            raise FieldError("task_type", reason, repr(session.task))
        try:
            self._dialogue.check_instruction(session.instruction)
        except ValueError as error:
            raise FieldError("question", str(error)) from error
        for one in session.rounds:
            if one.state is State.RESPONSE and None in self._reader.parse(session.task, one.text):
                raise FieldError("response", "no words that could be compared", repr(one.text))
        return EvaluationStream(
            stream_id=f"sample-{index}-{number}",
            group=str(session.video),
            kind="clip",
            task=session.task,
            instruction=session.instruction,
            rounds=session.rounds,
            start_offset_s=0,
            num_past_rounds=session.first_live,
            frames=partial(self._file.frames, index, session, self._budget),
        )
