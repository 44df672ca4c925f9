"""What training and evaluation consume: kept frames with their rounds."""

from dataclasses import dataclass

import numpy as np

from models.vlm.state import State

# Between the parts of a reply that tells several things at once.
SEPARATOR = "; "


@dataclass(frozen=True)
class Round:
    """One kept frame's time tag and the reply that is right for it. `text` is empty unless RESPONSE."""

    start_ms: int
    end_ms: int
    state: State
    text: str = ""


@dataclass(frozen=True)
class Sample:
    """A dialogue over consecutive kept frames of one stream under one instruction.

    frames: uint8 [T, H, W, 3] at the budget size; rounds: T of them, in time order.
    truth: int64 [T, K], what is to be seen in each frame, for the auxiliary head; truth_sizes: number of
    classes of each of the K columns.
    first_live: the first round after the instruction was given; the ones before are past, silent and not learnt.
    since: per round the index of the earliest round that its reply names (the beginning of a span); empty where
    every reply rests on its own round. held_out: what the training set never shows of this: layout, combination,
    instruction.
    """

    task: str
    instruction: str
    frames: np.ndarray
    rounds: tuple[Round, ...]
    truth: np.ndarray
    truth_sizes: tuple[int, ...]
    source: str
    first_live: int = 0
    since: tuple[int, ...] = ()
    held_out: tuple[str, ...] = ()
