"""Scores and their intervals, on hand-made runs."""

from dataclasses import replace

import numpy as np
import pytest

from models.evaluation.telling import TellingScore
from tests.bench import rebuild, window_price
from tests.bench.held_out import WAYS, StreamRun


def run(confusion: list[list[int]], told: TellingScore, agrees: tuple[bool, ...]) -> StreamRun:
    return StreamRun(
        "event", dict.fromkeys(WAYS, np.array(confusion)), dict.fromkeys(WAYS, told), agrees, (True,)
    )


def test_scores_are_of_all_streams_together() -> None:
    runs = [
        run([[8, 0, 2], [0, 0, 0], [0, 0, 0]], TellingScore(3, 4, 2), (True,) * 9),
        run([[0, 0, 0], [0, 0, 0], [2, 0, 2]], TellingScore(1, 0, 0), (True,) * 8 + (False,)),
    ]
    price = window_price.summarise(runs, np.random.default_rng(0))
    # Silence: 2*8/(10+10) = 0.8; Response: 2*2/(4+4) = 0.5; Standby is not in gold.
    assert price.state_f1["prefill"].value == pytest.approx(0.65)
    assert price.event_f1["move"].value == pytest.approx(2 * 2 / (4 + 4))
    assert (price.num_streams, price.num_rounds, price.num_events) == (2, 14, 4)
    assert price.state_f1_gap["move"] == window_price.Interval(0.0, 0.0, 0.0)
    rebuilt = rebuild.summarise(runs)
    assert (rebuilt.early_agreement, rebuilt.later_agreement) == (1.0, 0.5)
    assert rebuilt.identical_streams == 1


def test_a_gap_is_of_the_same_streams() -> None:
    """Streams differ much, the ways by one round in each: the gap's interval must not know of the former."""
    easy, hard = [[90, 0, 0], [0, 5, 0], [0, 0, 5]], [[60, 0, 30], [0, 1, 4], [4, 0, 1]]
    runs = [run(counts, TellingScore(5, 5, 4), (True,) * 9) for counts in (easy, hard) * 20]
    worse = np.array([[0, 0, 0], [0, -1, 1], [0, 0, 0]])
    runs = [
        replace(one, confusions={**one.confusions, "keep": one.confusions["keep"] + worse}) for one in runs
    ]
    price = window_price.summarise(runs, np.random.default_rng(0))
    gap, score = price.state_f1_gap["keep"], price.state_f1["keep"]
    assert gap.low <= gap.value <= gap.high < 0
    assert gap.high - gap.low < 0.5 * (score.high - score.low)
