"""What is right and what is told, when the window slides in each of the three ways."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from models.vlm.state import State
from tests.bench.held_out import WAYS, StreamRun

NUM_RESAMPLES = 2000
REFERENCE = "prefill"


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % bootstrap interval over streams."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class WindowPrice:
    """By way. `state_f1`: macro F1 of the states, gold before each round; `event_f1`: of what is told, nothing
    forced. The `_gap`s are a way's score less that of prefilling, the same streams resampled for both.
    """

    num_streams: int
    num_rounds: int
    """Rounds that are scored: those after the window first slid."""
    num_events: int
    state_f1: dict[str, Interval]
    event_f1: dict[str, Interval]
    state_f1_gap: dict[str, Interval]
    event_f1_gap: dict[str, Interval]


def summarise(runs: Sequence[StreamRun], rng: np.random.Generator) -> WindowPrice:
    confusions = {way: np.stack([run.confusions[way] for run in runs]) for way in WAYS}
    tellings = {
        way: np.array(
            [
                (score.num_gold, score.num_told, score.num_right)
                for score in (run.tellings[way] for run in runs)
            ]
        )
        for way in WAYS
    }
    picks = rng.integers(len(runs), size=(NUM_RESAMPLES, len(runs)))
    others = [way for way in WAYS if way != REFERENCE]
    return WindowPrice(
        num_streams=len(runs),
        num_rounds=int(confusions[REFERENCE].sum()),
        num_events=int(tellings[REFERENCE][:, 0].sum()),
        state_f1={way: _interval(state_macro_f1, confusions[way], None, picks) for way in WAYS},
        event_f1={way: _interval(event_f1, tellings[way], None, picks) for way in WAYS},
        state_f1_gap={
            way: _interval(state_macro_f1, confusions[way], confusions[REFERENCE], picks) for way in others
        },
        event_f1_gap={way: _interval(event_f1, tellings[way], tellings[REFERENCE], picks) for way in others},
    )


def state_macro_f1(confusion: np.ndarray) -> float:
    """Of counts [3, 3] by gold and decided state: mean of the F1 of the states that gold holds."""
    scores = [
        2 * confusion[state, state] / (confusion[state].sum() + confusion[:, state].sum())
        for state in State
        if confusion[state].sum()
    ]
    return float(np.mean(scores)) if scores else float("nan")


def event_f1(counts: np.ndarray) -> float:
    """Of counts (gold, told, right)."""
    num_gold, num_told, num_right = counts
    return float(2 * num_right / max(num_gold + num_told, 1))


def _interval(
    score: Callable[[np.ndarray], float], counts: np.ndarray, reference: np.ndarray | None, picks: np.ndarray
) -> Interval:
    def value(chosen: np.ndarray) -> float:
        own = score(counts[chosen].sum(axis=0))
        return own if reference is None else own - score(reference[chosen].sum(axis=0))

    resampled = [value(pick) for pick in picks]
    low, high = np.nanpercentile(resampled, (2.5, 97.5))
    return Interval(value(np.arange(len(counts))), float(low), float(high))
