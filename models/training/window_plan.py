"""Sessions cut into windows, and windows packed into sequences: what each step of fine-tuning sees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Window:
    """Rounds `first` to `first + num_rounds` of a session; the first `num_context` of them carry no loss."""

    sample: int
    session: int
    first: int
    num_rounds: int
    num_context: int
    num_tokens: int


def cut(
    num_rounds: int, first_live: int, window_rounds: int, overlap_rounds: int
) -> Iterator[tuple[int, int, int]]:
    """(first round, rounds, rounds of context) of the windows of a session, so that each live round is learnt once.

    The first window begins with as many past rounds as the live ones leave room for, and with `overlap_rounds` of them
    where they leave less; each further one begins `overlap_rounds` before what is still to be learnt.
    """
    if not 0 <= overlap_rounds < window_rounds:
        raise ValueError(
            f"overlap_rounds {overlap_rounds}: must be from 0 to below window_rounds {window_rounds}"
        )
    num_past = max(overlap_rounds, window_rounds - (num_rounds - first_live))
    first = max(0, first_live - num_past)
    learnt = first_live
    while learnt < num_rounds:
        end = min(num_rounds, first + window_rounds)
        yield first, end - first, learnt - first
        first, learnt = end - overlap_rounds, end


def pack(windows: Sequence[Window], max_tokens: int, seed: int) -> list[list[Window]]:
    """The windows in sequences of at most `max_tokens`, in random order; the same for the same arguments.

    ValueError for a window that is longer than that.
    """
    if not windows:
        return []
    longest = max(windows, key=lambda window: window.num_tokens)
    if longest.num_tokens > max_tokens:
        raise ValueError(
            f"a window of {longest.num_rounds} rounds has {longest.num_tokens} tokens, max_tokens is {max_tokens}: "
            "raise it, or lower window_rounds or the tokens of a frame in the model's folder"
        )
    rng = np.random.default_rng(seed)
    open_packs: list[tuple[int, list[Window]]] = []
    full: list[list[Window]] = []
    for index in rng.permutation(len(windows)):
        window = windows[int(index)]
        # The fullest that still has room: few tokens are left over, and few packs are open at a time.
        fitting = [one for one in open_packs if one[0] + window.num_tokens <= max_tokens]
        best = max(fitting, key=lambda one: one[0], default=None)
        if best is not None:
            open_packs.remove(best)
        used, members = best if best is not None else (0, [])
        open_packs.append((used + window.num_tokens, [*members, window]))
        if len(open_packs) > _MAX_OPEN:
            fullest = max(open_packs, key=lambda one: one[0])
            open_packs.remove(fullest)
            full.append(fullest[1])
    packs = [*full, *(members for _, members in open_packs)]
    return [packs[int(index)] for index in rng.permutation(len(packs))]


_MAX_OPEN = 64
