"""Times that stand in the history, as replies look them up: what a small model is asked so that it learns to."""

from __future__ import annotations

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
STAMP_LETTERS = 8
"""Of a longer time the first ones: "999999.9" is the latest of the simulator."""


@dataclass(frozen=True, eq=False)
class PastTimes:
    """Two steps that lead from a round in the history to its time. Its state token knows the letters of its tag's end
    time (the stamp); whatever names the time, letter by letter, looks at that token.

    stamps: int64 [rounds], where the state tokens stand. stamp_letters: int64 [rounds, STAMP_LETTERS]. stamp_looks:
    int64 [2, n]: a state token, and a letter of the tag before it.

    places: int64 [m], wherever a letter of a tag's end time comes next. letters: int64 [m], the letter in the same
    place of the time at which what is under way began; IGNORED where nothing is. There is a reply's way of telling a
    time, without a reply. looks: int64 [2, k]: such a place, or the token before a letter of a span in a reply, and the
    state token of the round whose time it is.

    All are positions in the dialogue.
    """

    stamps: np.ndarray
    stamp_letters: np.ndarray
    stamp_looks: np.ndarray
    places: np.ndarray
    letters: np.ndarray
    looks: np.ndarray

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
        `decisions`. A time is the end of its round, and is forgotten when that has left a window of `window_rounds`.
        Nothing is looked up where the history stands silent."""
        stamps = [decision + 1 for decision in decisions]
        stamp_letters, stamp_looks = [], []
        places, letters, looks = [], [], []
        round_of_time: dict[str, int] = {}
        began: int | None = None
        for index, (round_, start) in enumerate(zip(rounds, starts, strict=True)):
            first_kept = 0 if window_rounds is None else max(0, index - window_rounds + 1)
            own = format_seconds(round_.end_ms)
            first_letter = start + dialogue.num_tokens_before_end(round_.start_ms)
            own_places = range(first_letter, first_letter + len(own))
            stamp_letters.append(_letters(own, STAMP_LETTERS))
            stamp_looks += [(stamps[index], place) for place in own_places]

            before = [place - 1 for place in own_places]
            places += before
            if began is not None and began >= first_kept:
                letters.append(_letters(format_seconds(rounds[began].end_ms), len(own)))
                looks += [(place, stamps[began]) for place in before]
            else:
                letters.append(_letters("", len(own)))

            if round_.state is not State.SILENCE:
                round_of_time[own] = index
            for letter, time in _span_letters(dialogue, round_.text):
                named = round_of_time.get(time)
                if named is not None and named >= first_kept:
                    looks.append((stamps[index] + letter, stamps[named]))
            if round_.state is State.STANDBY:
                began = index if began is None else began
            else:
                began = None
        return cls(
            stamps=np.asarray(stamps, dtype=np.int64),
            stamp_letters=np.stack(stamp_letters),
            stamp_looks=_pairs(stamp_looks),
            places=np.asarray(places, dtype=np.int64),
            letters=np.concatenate(letters),
            looks=_pairs(sorted(looks)),
        )


def _span_letters(dialogue: Dialogue, text: str) -> list[tuple[int, str]]:
    """The tokens before each letter of a text's times and before what ends them, counted from the state token, and the
    time."""
    found = []
    for number in span_numbers(text):
        before = len(dialogue.reply(State.RESPONSE, f"{text[: number.start]}0")) - 2
        time = text[number]
        found += [(before + place, time) for place in range(len(time) + 1)]
    return found


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

    stamps: torch.Tensor
    stamp_letters: torch.Tensor
    places: torch.Tensor
    letters: torch.Tensor


def past_times_batch(times: Sequence[PastTimes], starts: Sequence[int]) -> PastTimesBatch:
    """`starts`: where each dialogue begins in the sequence."""
    both = list(zip(times, starts, strict=True))
    return PastTimesBatch(
        stamps=torch.from_numpy(np.concatenate([start + one.stamps for one, start in both])),
        stamp_letters=torch.from_numpy(np.concatenate([one.stamp_letters for one in times])),
        places=torch.from_numpy(np.concatenate([start + one.places for one, start in both])),
        letters=torch.from_numpy(np.concatenate([one.letters for one in times])),
    )
