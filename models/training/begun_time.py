"""When what is under way began, letter by letter: what a small model is asked so that it learns to copy times."""

from __future__ import annotations

import numpy as np

from models.data.sample import Sample
from models.training.loss import IGNORED
from models.vlm.state import State
from models.vlm.time_tag import format_seconds

_LETTERS = "0123456789."
NUM_LETTERS = 9
"""Of the longest time, 10^6 seconds with a decimal."""
NUM_CLASSES = len(_LETTERS) + 1
"""The last one: the time is over."""


def begun_times(sample: Sample) -> np.ndarray:
    """int64 [T, NUM_LETTERS], as a reply would write the time, with its end; IGNORED after that, and for rounds in
    which nothing is under way, or what may have begun before the sample does.

    Under way is what Standby stands for, from its first round on to the Response that tells it; a Response that names
    an earlier round (`Sample.since`) has begun there.
    """
    begun = nothing_begun(len(sample.rounds))
    first: int | None = None
    for index, round_ in enumerate(sample.rounds):
        if round_.state is State.SILENCE:
            first = None
            continue
        if first is None:
            first = index
        since = first
        if round_.state is State.RESPONSE:
            first = None
            if sample.since:
                since = min(since, sample.since[index])
        if since > 0:  # what is under way from the very first round on may have begun before
            begun[index] = _letters(format_seconds(sample.rounds[since].end_ms))
    return begun


def nothing_begun(num_rounds: int) -> np.ndarray:
    return np.full((num_rounds, NUM_LETTERS), IGNORED, dtype=np.int64)


def _letters(text: str) -> list[int]:
    letters = [*map(_LETTERS.index, text), NUM_CLASSES - 1][:NUM_LETTERS]
    return letters + [IGNORED] * (NUM_LETTERS - len(letters))
