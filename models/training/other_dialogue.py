"""Other instructions that a clip could have been watched under: read beside it, and put at each of its decisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import torch

from models.data.sample import NO_ANSWER, OtherInstruction
from models.training.loss import IGNORED
from models.vlm.dialogue import Dialogue
from models.vlm.state import State

_MAX_TIME_MS = 1_000_000
# About what a window of the embedded model has.
_MAX_GAP = 1_500


@dataclass(frozen=True, eq=False)
class OtherDialogue:
    """A dialogue up to its first decision, without a frame, that belongs to an example.

    token_ids: int64 [T]; the state of the round would come next. num_pinned: tokens up to the end of the instruction.
    gap: positions that lie between the instruction and the round, as if earlier rounds stood there; without it an
    instruction would be looked for at one distance alone. asked: int64 [Q]. states: int64 [rounds], what would be right
    in the rounds of the example; IGNORED where it is not learnt. answers: int64 [rounds], NO_ANSWER where it
    is no question.
    """

    token_ids: np.ndarray
    num_pinned: int
    gap: int
    asked: np.ndarray
    states: np.ndarray
    answers: np.ndarray

    @classmethod
    def draw(
        cls,
        other: OtherInstruction,
        first_learnt: int,
        full_rounds: int,
        dialogue: Dialogue,
        rng: np.random.Generator,
    ) -> OtherDialogue:
        """`first_learnt`: of the rounds. Nothing in the dialogue answers another question: before the `full_rounds`-th
        round its answer is owed, and that it has been told is learnt from there on only.
        """
        prefix = dialogue.pinned_prefix(other.instruction)
        begin_ms = int(rng.integers(_MAX_TIME_MS))
        head = dialogue.frameless_round_head(begin_ms, begin_ms + 1000)
        nth = np.arange(len(other.states))
        is_learnt = nth >= first_learnt
        if (other.answers != NO_ANSWER).any():
            is_learnt &= (other.states != State.SILENCE) | (nth >= full_rounds)
        return cls(
            np.array(prefix + head, dtype=np.int64),
            len(prefix),
            int(rng.integers(_MAX_GAP)),
            other.asked,
            np.where(is_learnt, other.states, IGNORED),
            other.answers,
        )

    @property
    def positions(self) -> np.ndarray:
        """int64 [3, T]."""
        along = np.arange(len(self.token_ids))
        return np.tile(along + self.gap * (along >= self.num_pinned), (3, 1))


class OtherDialogueBatch(TypedDict):
    """Of n dialogues: where each is decided alone, int64 [n], and what it asks for, int64 [n, Q]. Of m rounds of
    examples, int64 [m] each: where they are decided, rising; where the instruction ends that they stand under, and the
    one that is put in its place; the state that then is right, and the answer, NO_ANSWER where that is no question."""

    decisions: torch.Tensor
    asked: torch.Tensor
    places: torch.Tensor
    own_ends: torch.Tensor
    other_ends: torch.Tensor
    states: torch.Tensor
    answers: torch.Tensor


def other_dialogue_batch(
    dialogues: Sequence[OtherDialogue],
    starts: Sequence[int],
    decisions: Sequence[np.ndarray],
    own_ends: Sequence[int],
) -> OtherDialogueBatch:
    """`starts`: where each one begins in the packed sequence. Of the example that it belongs to: where its rounds
    are `decisions`, int64 [rounds], and where its instruction ends."""
    rounds = []
    for one, start, places, own_end in zip(dialogues, starts, decisions, own_ends, strict=True):
        learnt = one.states != IGNORED
        other_end = start + one.num_pinned - 1
        ends = np.broadcast_to([[own_end], [other_end]], (2, int(learnt.sum())))
        rounds.append(np.stack((places[learnt], *ends, one.states[learnt], one.answers[learnt])))
    of_rounds = torch.from_numpy(np.concatenate(rounds, axis=1))
    at, own, other, states, answers = of_rounds[:, of_rounds[0].argsort(stable=True)]
    ends_alone = [start + len(one.token_ids) - 1 for start, one in zip(starts, dialogues, strict=True)]
    return OtherDialogueBatch(
        decisions=torch.tensor(ends_alone),
        asked=torch.from_numpy(np.stack([one.asked for one in dialogues])),
        places=at,
        own_ends=own,
        other_ends=other,
        states=states,
        answers=answers,
    )
