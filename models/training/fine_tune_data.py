"""Packed windows of the sessions of a file, decoded when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from models.data.finding import BrokenSample, Finding
from models.data.sample import Sample
from models.training.dataset import Collator, Example, make_example
from models.training.sessions import Session, SessionFile
from models.training.video_frames import frame_grid, frames_at
from models.training.window_plan import Window, cut, pack
from models.vlm.dialogue import Dialogue
from models.vlm.pixels import PixelFormat


@dataclass(frozen=True)
class PackPlan:
    """How sessions become sequences of at most `max_tokens`.

    `overlap_rounds`: context of a window that does not begin its session. A share `offset_share` of the sessions have
    tags that begin later than the video, up to `max_offset_s`, drawn evenly in order of magnitude: a model has to be
    at home on streams that have run for days.
    """

    window_rounds: int
    overlap_rounds: int
    max_tokens: int
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
        on_sample: Callable[[], None] = lambda: None,
    ) -> None:
        """Reads every sample, and its video's header. BrokenSample, told before, unless `skip_broken`."""
        self.file = file
        self._plan = plan
        self.dialogue = dialogue
        self.pixels = pixels
        self._grid = cache(lambda path: frame_grid(path, pixels.budget))
        self.num_broken = 0
        windows: list[Window] = []
        for index in range(len(file)):
            try:
                for number, session in enumerate(self._sessions(index)):
                    windows += self._windows(index, number, session)
            except BrokenSample as broken:
                on_finding(broken.finding)
                if not skip_broken:
                    raise
                self.num_broken += 1
            on_sample()
        self.num_windows = len(windows)
        self.packs = pack(windows, plan.max_tokens, plan.seed)
        if not self.packs:
            raise ValueError(f"{file.path} holds no session to learn from")

    def __len__(self) -> int:
        return len(self.packs)

    def __getitem__(self, index: int) -> list[Example]:
        return [self._example(window) for window in self.packs[index]]

    def _sessions(self, index: int) -> list[Session]:
        """Of a sample, with the times they are learnt at."""
        return [self._moved(index, *pair) for pair in enumerate(self.file.sessions(index))]

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
        frames = np.stack(frames_at(session.video, session.frame_times_ms[kept], self.pixels.budget))
        sample = Sample(
            task=session.task,
            instruction=session.instruction,
            frames=frames,
            rounds=session.rounds[kept],
            truth=np.zeros((window.num_rounds, 0), dtype=np.int64),
            truth_sizes=(),
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
