"""Instructions alone: what a small model reads many of for the price of one clip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypedDict

import numpy as np
import torch

from models.vlm.dialogue import Dialogue

_MAX_TIME_MS = 1_000_000
# About what a window of the embedded model has.
_MAX_GAP = 1_500


class InstructionMaker(Protocol):
    def __call__(self, rng: np.random.Generator) -> tuple[str, tuple[int, ...]]:
        """An instruction, and what it asks for: a class of each `asked` column of a `Truth`."""
        ...


@dataclass(frozen=True, eq=False)
class Question:
    """A dialogue up to its first decision, without a frame.

    token_ids: int64 [T]; the state of the round would come next. num_pinned: tokens up to the end of the instruction.
    gap: positions that lie between the instruction and the round, as if earlier rounds stood there; without it an
    instruction would be looked for at one distance alone. asked: int64 [Q].
    """

    token_ids: np.ndarray
    num_pinned: int
    gap: int
    asked: np.ndarray

    @classmethod
    def draw(
        cls, make_instruction: InstructionMaker, dialogue: Dialogue, rng: np.random.Generator
    ) -> Question:
        instruction, asked = make_instruction(rng)
        prefix = dialogue.pinned_prefix(instruction)
        begin_ms = int(rng.integers(_MAX_TIME_MS))
        head = dialogue.frameless_round_head(begin_ms, begin_ms + 1000)
        gap = int(rng.integers(_MAX_GAP))
        return cls(np.array(prefix + head, dtype=np.int64), len(prefix), gap, np.array(asked, dtype=np.int64))

    @property
    def positions(self) -> np.ndarray:
        """int64 [3, T]."""
        along = np.arange(len(self.token_ids))
        return np.tile(along + self.gap * (along >= self.num_pinned), (3, 1))


class QuestionBatch(TypedDict):
    """Where questions end in a packed sequence, int64 [n], and what they ask for, int64 [n, Q]."""

    decisions: torch.Tensor
    asked: torch.Tensor


def question_batch(questions: Sequence[Question], starts: Sequence[int]) -> QuestionBatch:
    """`starts`: where each begins in the sequence."""
    ends = [start + len(one.token_ids) - 1 for start, one in zip(starts, questions, strict=True)]
    return QuestionBatch(
        decisions=torch.tensor(ends),
        asked=torch.from_numpy(np.stack([one.asked for one in questions])),
    )
