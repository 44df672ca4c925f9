"""Where in the KV cache a session's tokens lie. Free of torch.

Kept tokens fill the places [0, length) of the session's reservation without a hole, in any order:

    [0, num_pinned)        pinned prefix, never moved
    [num_pinned, length)   tokens of the window's rounds
    [length, end)          tokens of the step under way, in order; they become part of length at commit

Attention over keys already rotated does not depend on their order, save that the tokens of a step come last,
in order, for the causal mask. So rounds are dropped exactly, whatever their lengths, by moving as many tokens
from the end into the places they leave, and any paged kernel can read the rest as a table of blocks and one
length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.engine.piece import PINNED, Piece


@dataclass(frozen=True, eq=False)
class Eviction:
    """How to drop all rounds before `first_kept`: copy the tokens at `sources` to `targets` (slots), then keep
    `length` tokens.
    """

    first_kept: int
    sources: np.ndarray
    targets: np.ndarray
    source_places: np.ndarray
    target_places: np.ndarray
    length: int


class SlotTable:
    """A session's reservation of token slots and what lies in each place of it."""

    def __init__(self, blocks: np.ndarray, block_tokens: int, capacity: int, num_pinned: int) -> None:
        self.blocks = blocks
        self.capacity = capacity
        """Most tokens that are attended to at once."""
        slots = (blocks[:, None] * block_tokens + np.arange(block_tokens)).ravel()
        self._slots = slots[:capacity]
        self.pinned_slots = slots[:num_pinned]
        self._owners = np.full(capacity, PINNED, dtype=np.int64)
        self._is_run = bool(slots[-1] - slots[0] == len(slots) - 1)
        self.length = 0
        self.end = 0

    @property
    def slots(self) -> np.ndarray:
        """Slots of all tokens, those of the step under way last and in order."""
        return self._slots[: self.end]

    @property
    def first_slot(self) -> int | None:
        """Where the slots start if they are one unbroken run, else None."""
        return int(self._slots[0]) if self._is_run else None

    def extend(self, pieces: Sequence[Piece]) -> np.ndarray:
        """Take slots for the tokens of a step; they stay the step's until `commit` or `trim`."""
        start = self.end
        end = start + sum(len(piece) for piece in pieces)
        if end > self.capacity:
            raise ValueError(f"window of {self.capacity} tokens exceeded: {end} wanted")
        for piece in pieces:
            self._owners[self.end : self.end + len(piece)] = piece.owner
            self.end += len(piece)
        return self._slots[start:end]

    def commit(self) -> None:
        self.length = self.end

    def trim(self, length: int | None = None) -> None:
        """Forget the tokens of the step under way, or all but the first `length`."""
        self.length = self.end = self.length if length is None else length

    def plan_eviction(self, first_kept: int) -> Eviction:
        """How to drop all tokens of the rounds before `first_kept`. Changes nothing: if the copying fails, it
        can be tried again.
        """
        owners = self._owners[: self.length]
        is_dropped = (owners < first_kept) & (owners != PINNED)
        length = self.length - int(np.count_nonzero(is_dropped))
        target_places = np.flatnonzero(is_dropped[:length])
        source_places = length + np.flatnonzero(~is_dropped[length:])
        return Eviction(
            first_kept,
            self._slots[source_places],
            self._slots[target_places],
            source_places,
            target_places,
            length,
        )

    def evict(self, eviction: Eviction) -> None:
        """Book an eviction whose tokens have been copied."""
        self._owners[eviction.target_places] = self._owners[eviction.source_places]
        self.length = self.end = eviction.length

    def owners(self) -> set[int]:
        return set(np.unique(self._owners[: self.length]).tolist())

    def is_pinned_in_place(self, num_pinned: int) -> bool:
        """Whether the first `num_pinned` places hold the pinned prefix and no others do."""
        is_pinned = self._owners[: self.length] == PINNED
        return bool(is_pinned[:num_pinned].all()) and not bool(is_pinned[num_pinned:].any())
