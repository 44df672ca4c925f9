"""What training and evaluation consume: kept frames with their rounds."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from models.vlm.state import State

# Between the parts of a reply that tells several things at once.
SEPARATOR = "; "
NO_ANSWER = -100
"""Of a frame under what is no question, or has no class for its answer: what a cross entropy leaves out."""


@dataclass(frozen=True)
class Round:
    """One kept frame's time tag and the reply that is right for it. `text` is empty unless RESPONSE."""

    start_ms: int
    end_ms: int
    state: State
    text: str = ""


class TruthSizes(NamedTuple):
    """Number of classes of each column of a `Truth`, and of its answers; of each of its coordinates the share of frames
    that have it."""

    seen: tuple[int, ...] = ()
    acts: tuple[int, ...] = ()
    asked: tuple[int, ...] = ()
    answers: int = 1
    coordinates: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class Truth:
    """What a simulator knows of T frames besides the replies, as classes and numbers that a reading head can be trained
    on.

    seen: int64 [T, K], what is to be seen in each frame. coordinates: float32 [T, C], where in it those are that move;
    NaN for who is not there. acts: int64 [T, A], what is under way in it or just over, asked for or not; class 0 is
    nothing. asked: int64 [Q], what the instruction asks for. answers: int64 [T], what each frame answers to the
    instruction, told or not; NO_ANSWER where it is no question.
    """

    seen: np.ndarray
    coordinates: np.ndarray
    acts: np.ndarray
    asked: np.ndarray
    answers: np.ndarray
    sizes: TruthSizes

    @classmethod
    def none(cls, num_frames: int) -> "Truth":
        """Of frames of which nothing is known."""
        empty = np.zeros((num_frames, 0), dtype=np.int64)
        nowhere = np.zeros((num_frames, 0), dtype=np.float32)
        no_answers = np.full(num_frames, NO_ANSWER, dtype=np.int64)
        asked = empty[0] if num_frames else empty.ravel()
        return cls(empty, nowhere, empty, asked, no_answers, TruthSizes())

    def since(self, first: int) -> "Truth":
        """Without the frames before `first`."""
        return replace(
            self,
            seen=self.seen[first:],
            coordinates=self.coordinates[first:],
            acts=self.acts[first:],
            answers=self.answers[first:],
        )


@dataclass(frozen=True, eq=False)
class OtherInstruction:
    """What the same T frames could have been watched under besides. asked: int64 [Q] and answers: int64 [T] as in
    `Truth`. states: int64 [T], the state that would be right in each round."""

    instruction: str
    asked: np.ndarray
    answers: np.ndarray
    states: np.ndarray

    def since(self, first: int) -> "OtherInstruction":
        """Without the frames before `first`."""
        return replace(self, answers=self.answers[first:], states=self.states[first:])


@dataclass(frozen=True)
class Sample:
    """A dialogue over consecutive kept frames of one stream under one instruction.

    frames: uint8 [T, H, W, 3] at the budget size; rounds: T of them, in time order.
    first_live: the first round after the instruction was given; the ones before are past, silent and not learnt.
    since: per round the index of the earliest round that its reply names (the beginning of a span); empty where
    every reply rests on its own round. held_out: what the training set never shows of this: layout, combination,
    instruction. others: given at the same moment as its own instruction.
    """

    task: str
    instruction: str
    frames: np.ndarray
    rounds: tuple[Round, ...]
    truth: Truth
    source: str
    first_live: int = 0
    since: tuple[int, ...] = ()
    held_out: tuple[str, ...] = ()
    others: tuple[OtherInstruction, ...] = ()
