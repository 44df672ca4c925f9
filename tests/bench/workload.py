"""What every side of the benchmark is given: one checkpoint, one instruction, the same frames already encoded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from models.data.place.layout import PLACE_HEIGHT, PLACE_WIDTH
from models.data.place.simulated import make_sample
from models.engine.config import EngineConfig
from models.engine.engine import Engine
from models.engine.round import RoundInput
from models.vlm.model import LanguageModel, VisionEncoder
from models.vlm.state import State
from tests.bench.window_copies import open_full

# From here to 99,999 s all time tags are equally long, so that every round has as many tokens as any other.
FIRST_MS = 10_000_000
INTERVAL_MS = 1000
NUM_FRAMES = 32


@dataclass(frozen=True, eq=False)
class Workload:
    """Quiet rounds without end: one a second, each of them silent whatever the model says."""

    model: LanguageModel
    instruction: str
    frames: tuple[torch.Tensor, ...]
    grid: tuple[int, int]

    @classmethod
    def of(cls, model: LanguageModel, encoder: VisionEncoder) -> Workload:
        size = encoder.budget.fit(PLACE_HEIGHT, PLACE_WIDTH)
        sample = make_sample(0, "validation", NUM_FRAMES, size)
        return cls(
            model,
            sample.instruction,
            tuple(encoder.encode(list(sample.frames))),
            encoder.budget.grid(*sample.frames.shape[1:3]),
        )

    @classmethod
    def load(cls, model_dir: str | Path) -> Workload:
        return cls.of(LanguageModel.load(model_dir), VisionEncoder.load(model_dir))

    @property
    def num_pinned(self) -> int:
        return len(self.model.dialogue.pinned_prefix(self.instruction))

    @property
    def round_tokens(self) -> int:
        """Tokens of a quiet round: head, state token, tail."""
        head = self.model.dialogue.round_head(FIRST_MS, FIRST_MS + INTERVAL_MS, len(self.frames[0]))
        return len(head) + 1 + len(self.model.dialogue.round_tail)

    def window_tokens(self, window_rounds: int) -> int:
        """Tokens that the last of that many rounds attends to when its state is decided."""
        return self.num_pinned + window_rounds * self.round_tokens - 1 - len(self.model.dialogue.round_tail)

    def quiet_round(self, index: int) -> RoundInput:
        start_ms = FIRST_MS + index * INTERVAL_MS
        silence = (self.model.dialogue.state_token_ids[State.SILENCE],)
        frame = self.frames[index % len(self.frames)]
        return RoundInput(start_ms, start_ms + INTERVAL_MS, frame, self.grid, silence)


class QuietSessions:
    """An engine with `num_sessions` sessions whose windows are full, and that stay quiet."""

    def __init__(self, workload: Workload, window_rounds: int, num_sessions: int) -> None:
        self._workload = workload
        self._window_rounds = window_rounds
        self._next_round = window_rounds
        self.num_sessions = num_sessions
        max_round_tokens = workload.round_tokens + workload.model.config.max_reply_tokens + 16
        self.engine = Engine(
            workload.model,
            EngineConfig(
                max_sessions=num_sessions,
                max_kv_tokens=num_sessions * ((window_rounds + 1) * max_round_tokens + 1024),
                # A round of every session fits; more would only make the masks of the filling large.
                max_batch_tokens=max(num_sessions * workload.round_tokens, 512),
                window_rounds=window_rounds,
                max_frame_tokens=len(workload.frames[0]),
            ),
        )
        self._open()

    @property
    def num_rounds(self) -> int:
        """Rounds that each session has had."""
        return self._next_round

    def reopen(self) -> None:
        """Begin anew: sessions as young as a full window can be."""
        for session_id in self._session_ids():
            self.engine.close(session_id)
        self._next_round = self._window_rounds
        self._open()

    def one_round(self) -> None:
        """Every session decides one more round, all of them in one step."""
        one = self._workload.quiet_round(self._next_round)
        for session_id in self._session_ids():
            self.engine.append(session_id, one)
        self._next_round += 1
        outputs = self.engine.step()
        if len(outputs) != self.num_sessions or self.engine.has_work:
            raise AssertionError("a round of all sessions took more than one step")

    def _open(self) -> None:
        past = [self._workload.quiet_round(index) for index in range(self._window_rounds)]
        open_full(self.engine, self._session_ids(), self._workload.instruction, past)
        self.one_round()  # the first one that drops a round also saves the pinned keys

    def _session_ids(self) -> list[str]:
        return [f"session-{number}" for number in range(self.num_sessions)]
