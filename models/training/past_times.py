"""Times that stand in the history, as replies look them up: what a small model is asked so that it learns to."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import torch

from models.data.sample import Round
from models.data.span import span_numbers
from models.training.loss import IGNORED
from models.vlm.dialogue import Dialogue
from models.vlm.state import State
from models.vlm.time_tag import format_seconds

_LETTERS = "0123456789."
NUM_CLASSES = len(_LETTERS) + 1
"""The last one: the time is over."""


@dataclass(frozen=True, eq=False)
class PastTimes:
    """Asked wherever a letter of the end time in a round's tag comes next: the letter in the same place of the time at
    which what is under way began. There is a reply's way of telling a time, letter after letter, without a reply.

    places: int64 [n], positions in the dialogue. letters: int64 [n]; IGNORED where nothing is under way.

    looks: where to look, from one token to another, int64 [2, k] each. "time": from such a place, or from the token
    before a letter of a span in a reply, to where that letter stands. The time that a round ended is what the next
    round's tag begins with, and only there a model can know what was decided; the round's own time is looked up in its
    own tag. What comes after the last letter is looked up likewise. "state": from the letters with which a tag begins
    to the state before it. "change": from each state to the state before it, since only the first Standby begins
    something.
    """

    places: np.ndarray
    letters: np.ndarray
    looks: dict[str, np.ndarray]

    @classmethod
    def of(
        cls,
        dialogue: Dialogue,
        rounds: Sequence[Round],
        starts: Sequence[int],
        decisions: Sequence[int],
        window_rounds: int | None = None,
    ) -> PastTimes:
        """`rounds` as they stand in the dialogue, whose tokens begin at `starts`, and whose states are decided at
        `decisions`. A time is the end of its round, and is forgotten when the next round, whose tag shows it, has left
        a window of `window_rounds`. Nothing is looked up where the history stands silent."""
        places: list[int] = []
        letters: list[np.ndarray] = []
        looks: list[tuple[int, int]] = []
        state_looks: list[tuple[int, int]] = []
        began: int | None = None
        place_of_time: dict[str, int] = {}
        for index, (round_, start) in enumerate(zip(rounds, starts, strict=True)):
            first_kept = 0 if window_rounds is None else max(0, index - window_rounds + 1)
            own = format_seconds(round_.end_ms)
            own_place = start + dialogue.num_tokens_before_end(round_.start_ms)
            if began is None or began + 1 < first_kept:
                letters.append(_letters("", len(own)))
            else:
                since = format_seconds(rounds[began].end_ms)
                letters.append(_letters(since, len(own)))
                # One token, "<", is before the time that a tag begins with.
                since_place = starts[began + 1] + 1
                looks += [
                    (own_place - 1 + nth, since_place + nth) for nth in range(min(len(own), len(since) + 1))
                ]
            if index:
                state = decisions[index - 1] + 1
                state_looks += [(place, state) for place in range(start + 1, own_place)]
            places += range(own_place - 1, own_place - 1 + len(own))
            place_of_time[own] = own_place
            for before, time in _span_times(dialogue, round_.text):
                place = place_of_time.get(time)
                if place is not None and place >= starts[first_kept]:
                    first = decisions[index] + 1 + before
                    looks += [(first + nth, place + nth) for nth in range(len(time) + 1)]
            del place_of_time[own]
            if round_.state is not State.SILENCE and index + 1 < len(starts):
                place_of_time[own] = starts[index + 1] + 1
            if round_.state is State.STANDBY:
                began = index if began is None else began
            else:
                began = None
        return cls(
            places=np.asarray(places, dtype=np.int64),
            letters=np.concatenate(letters),
            looks={
                "time": _pairs(looks),
                "state": _pairs(state_looks),
                "change": _pairs(
                    [(after + 1, before + 1) for before, after in itertools.pairwise(decisions)]
                ),
            },
        )


def _span_times(dialogue: Dialogue, text: str) -> list[tuple[int, str]]:
    """The times of a text's spans, and how many tokens after the state token the one before their first letter is."""
    return [
        (len(dialogue.reply(State.RESPONSE, f"{text[: number.start]}0")) - 2, text[number])
        for number in span_numbers(text)
    ]


def _pairs(pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    return np.asarray(pairs, dtype=np.int64).reshape(-1, 2).T


def _letters(time: str, num_letters: int) -> np.ndarray:
    """int64 [num_letters]: of a longer time its first letters, of a shorter one its letters, its end and IGNORED."""
    found = np.full(num_letters, IGNORED, dtype=np.int64)
    if time:
        classes = [*map(_LETTERS.index, time), NUM_CLASSES - 1][:num_letters]
        found[: len(classes)] = classes
    return found


class PastTimesBatch(TypedDict):
    """As in `PastTimes`, places in a packed sequence."""

    places: torch.Tensor
    letters: torch.Tensor
