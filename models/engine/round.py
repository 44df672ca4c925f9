"""What goes into a session and what comes out of it, round by round. Free of torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from models.vlm.state import State

if TYPE_CHECKING:
    import numpy as np
    import torch


@dataclass(frozen=True, eq=False)
class RoundInput:
    """One frame and its time: what a round begins with.

    `frame` holds the visual tokens [rows * cols, visual_size]; the engine reads it until the round is in the
    KV cache, and never writes to it. `forced_reply` is the whole reply, state token first, of a round decided
    before: the model is then not asked. `deadline_ms` is by when the caller wants the decision, on any clock
    of its own: only the order of deadlines counts. `kept`, bool [rows * cols], tells which places of the grid
    have a token in `frame` (see `TokenDropper`), None that all have; positions are those of the whole grid.
    """

    start_ms: int
    end_ms: int
    frame: torch.Tensor
    grid: tuple[int, int]
    forced_reply: tuple[int, ...] | None = None
    deadline_ms: float = math.inf
    kept: np.ndarray | None = None


@dataclass(frozen=True)
class Decision:
    """The state of a round, told in the step that read its frame.

    `state_logits` are the model's for the three state tokens, in the order of `State`; for a round appended
    with a forced reply they are the model's own, and `state` is the forced one. A session's sensitivity is not
    in them. `full_softmax_agrees` tells whether the best state token by these logits is also the best of all
    tokens.
    """

    session_id: str
    round_index: int
    state: State
    state_logits: tuple[float, float, float]
    full_softmax_agrees: bool


@dataclass(frozen=True)
class Reply:
    """The finished text of a Response round: neither the state token nor the end token is in `token_ids`."""

    session_id: str
    round_index: int
    token_ids: tuple[int, ...]
    text: str
    truncated: bool


@dataclass(frozen=True)
class WindowView:
    """The finished rounds that a session keeps, oldest first; `replies` can be forced as they are."""

    first_round: int
    states: tuple[State, ...]
    replies: tuple[tuple[int, ...], ...]
    num_tokens: int
    """Tokens in the KV cache, pinned prefix and unfinished round included."""


@dataclass
class Round:
    """A round of the window, from when its head is known."""

    index: int
    first_position: int
    is_past: bool
    """Handed over at open: fed with its reply, never decided."""
    forced_reply: tuple[int, ...] | None
    num_tokens: int = 0
    """Its tokens so far, in the KV cache or on their way."""
    state: State | None = None
    reply: list[int] = field(default_factory=list)
    is_closed: bool = False
    """The reply is whole, so that the next round can begin."""
