"""Packed windows of the sessions of a file, decoded when they are asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from models.data.finding import FieldError, Finding
from models.data.sample import Sample, Truth
from models.data.sessions import Session, SessionFile
from models.data.video_frames import frame_grid
from models.training.collator import Collator
from models.training.dataset import Example, make_example
from models.training.window_plan import Window, cut, pack
from models.vlm.dialogue import Dialogue
from models.vlm.pixels import PixelFormat
from models.vlm.state import State


@dataclass(frozen=True)
class PackPlan:
    """How sessions become sequences of at most `max_tokens`.

    `max_reply_tokens`: what serving cuts replies at. `overlap_rounds`: context of a window that does not begin its
    session. A share `offset_share` of the sessions have tags that begin later than the video, up to `max_offset_s`,
    drawn evenly in order of magnitude: a model has to be at home on streams that have run for days.
    """

    window_rounds: int
    overlap_rounds: int
    max_tokens: int
    max_reply_tokens: int = 128
    offset_share: float = 0.75
    max_offset_s: int = 1_000_000
    seed: int = 0


class PackDataset(Dataset[list[Example]]):
    """Item i is the examples of one packed sequence, and depends on i alone."""

    def __init__(
        self,
        file: SessionFile,
        plan: PackPlan,
        dialogue: Dialogue,
        pixels: PixelFormat,
        *,
        skip_broken: bool = False,
        on_finding: Callable[[Finding], None] = lambda finding: None,
        on_sample: Callable[[int, int], None] = lambda num_read, num_all: None,
    ) -> None:
        """Reads every sample, and its video's header. BrokenSample unless `skip_broken`; told to `on_finding` before,
        as is what a sample holds and nothing teaches.
        """
        self.file = file
        self._plan = plan
        self.dialogue = dialogue
        self.pixels = pixels
        self._grid = cache(lambda path: frame_grid(path, pixels.budget))
        self.num_broken = 0
        self._learnt: Counter[State] = Counter()
        windows: list[Window] = []
        read = file.each(
            lambda index: self._read(index, on_finding), skip_broken=skip_broken, on_finding=on_finding
        )
        for index, of_sample in enumerate(read):
            windows += of_sample or ()
            self.num_broken += of_sample is None
            on_sample(index + 1, len(file))
        self.num_windows = len(windows)
        self.packs = pack(windows, plan.max_tokens, plan.seed)
        if not self.packs:
            raise ValueError(f"{file.path} holds no session to learn from")

    def __len__(self) -> int:
        return len(self.packs)

    def __getitem__(self, index: int) -> list[Example]:
        """BrokenSample for a video whose header promised more than it holds."""
        return [self._example(window) for window in self.packs[index]]

    @property
    def state_counts(self) -> tuple[int, int, int]:
        """Silence, Standby, Response in what is learnt, once over the data."""
        return self._learnt[State.SILENCE], self._learnt[State.STANDBY], self._learnt[State.RESPONSE]

    def _read(self, index: int, on_finding: Callable[[Finding], None]) -> list[Window]:
        """The windows of a sample, whose states are counted. BrokenSample."""
        windows: list[Window] = []
        learnt: Counter[State] = Counter()
        file, most = str(self.file.path), self._plan.max_reply_tokens
        for number, session in enumerate(self._sessions(index, on_finding)):
            longest = max(len(self.dialogue.reply(one.state, one.text)) - 1 for one in session.rounds)
            if longest > most:
                reason = "a reply is longer than max_reply_tokens in the model's streamo.json: it is cut when served"
                on_finding(Finding(file, index, "response", reason, f"{longest} tokens of {most}"))
            try:
                of_session = list(self._windows(index, number, session))
            except FieldError as error:
                raise error.at(file, index) from error
            except ValueError as error:
                raise FieldError("question", str(error)).at(file, index) from error
            windows += of_session
            for window in of_session:
                live = range(window.first + window.num_context, window.first + window.num_rounds)
                learnt.update(session.rounds[at].state for at in live if session.since[at] >= window.first)
        self._learnt += learnt
        return windows

    def _sessions(
        self, index: int, on_finding: Callable[[Finding], None] = lambda finding: None
    ) -> list[Session]:
        """Of a sample, with the times they are learnt at."""
        return [self._moved(index, *pair) for pair in enumerate(self.file.sessions(index, on_finding))]

    def _moved(self, index: int, number: int, session: Session) -> Session:
        plan = self._plan
        rng = np.random.default_rng((plan.seed, index, number))
        if rng.random() >= plan.offset_share or plan.max_offset_s < 1 or not session.can_shift:
            return session
        return session.shifted(1000 * int(plan.max_offset_s ** rng.random()))

    def _windows(self, index: int, number: int, session: Session) -> Iterator[Window]:
        dialogue, (rows, cols) = self.dialogue, self._grid(session.video)
        lengths = [
            len(dialogue.round_head(one.start_ms, one.end_ms, rows * cols))
            + len(dialogue.reply(one.state, one.text))
            + len(dialogue.round_tail)
            for one in session.rounds
        ]
        num_prefix = len(dialogue.pinned_prefix(session.instruction))
        plan = self._plan
        for first, num_rounds, num_context in cut(
            len(session.rounds), session.first_live, plan.window_rounds, plan.overlap_rounds
        ):
            num_tokens = num_prefix + sum(lengths[first : first + num_rounds])
            yield Window(index, number, first, num_rounds, num_context, num_tokens)

    def _example(self, window: Window) -> Example:
        session = self._sessions(window.sample)[window.session]
        kept = slice(window.first, window.first + window.num_rounds)
        sample = Sample(
            task=session.task,
            instruction=session.instruction,
            frames=np.stack([*self.file.frames(window.sample, session, self.pixels.budget, kept)]),
            rounds=session.rounds[kept],
            truth=Truth.none(window.num_rounds),
            source="",
            since=tuple(since - window.first for since in session.since[kept]),
        )
        return make_example(sample, self.dialogue, self.pixels, window.num_context)


@dataclass(frozen=True)
class PackCollator:
    """The one packed sequence of a batch."""

    collator: Collator

    def __call__(self, packs: Sequence[list[Example]]) -> dict[str, Any]:
        return self.collator([example for examples in packs for example in examples])
