"""Times to look up in the history, letter by letter: what a small model is asked so that it learns to copy them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.data.sample import Round
from models.training.loss import IGNORED
from models.vlm.dialogue import Dialogue
from models.vlm.state import State
from models.vlm.time_tag import format_seconds

_LETTERS = "0123456789."
NUM_CLASSES = len(_LETTERS) + 1
"""The last one: the time is over."""


@dataclass(frozen=True, eq=False)
class PastTimes:
    """Asked wherever a letter of the end time in a round's tag comes next: the letter in the same place of a time that
    the history tells. There is a reply's way of telling a time, one letter after the other, without a reply.

    places: int64 [n], positions in the dialogue. letters: int64 [n, 2], of when what is under way began, and of when
    the last Response was; IGNORED where there is no such time.
    """

    places: np.ndarray
    letters: np.ndarray

    @classmethod
    def of(
        cls,
        dialogue: Dialogue,
        rounds: Sequence[Round],
        starts: Sequence[int],
        window_rounds: int | None = None,
    ) -> PastTimes:
        """`rounds` as they stand in the dialogue, whose tokens begin at `starts`. A time is the end of its round, and
        is forgotten when that has left a window of `window_rounds`."""
        places: list[int] = []
        letters: list[np.ndarray] = []
        began: int | None = None
        told: int | None = None
        for index, (round_, start) in enumerate(zip(rounds, starts, strict=True)):
            first_kept = 0 if window_rounds is None else max(0, index - window_rounds + 1)
            num_letters = len(format_seconds(round_.end_ms))
            before = start + dialogue.num_tokens_before_end(round_.start_ms) - 1
            places += range(before, before + num_letters)
            asked = [
                None if since is None or since < first_kept else rounds[since].end_ms
                for since in (began, told)
            ]
            letters.append(np.stack([_letters(time_ms, num_letters) for time_ms in asked], axis=1))
            if round_.state is State.STANDBY:
                began = index if began is None else began
            else:
                began = None
                told = index if round_.state is State.RESPONSE else told
        return cls(np.asarray(places, dtype=np.int64), np.concatenate(letters))


def _letters(time_ms: int | None, num_letters: int) -> np.ndarray:
    """int64 [num_letters]: of a longer time its first letters, of a shorter one its letters, its end and IGNORED."""
    found = np.full(num_letters, IGNORED, dtype=np.int64)
    if time_ms is not None:
        classes = [*map(_LETTERS.index, format_seconds(time_ms)), NUM_CLASSES - 1][:num_letters]
        found[: len(classes)] = classes
    return found
