"""Whether a round costs the same, and memory stays the same, however old a session is."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.bench.stopwatch import Spread, interleaved, seconds_of
from tests.bench.workload import QuietSessions, Workload

# Short, so that what might grow is no small part of a round.
WINDOW_ROUNDS = 8
BLOCK_ROUNDS = 16


@dataclass(frozen=True)
class AgeSample:
    """At `age_rounds`: seconds a round of the old session takes, of one of `young_rounds`, and their ratio.

    The two take turns in blocks of rounds; a ratio is that of two neighbouring blocks, so that noise which
    lasts longer than a block falls out. Spreads are quartiles.
    """

    age_rounds: int
    young_rounds: int
    old_s: Spread
    young_s: Spread
    ratio: Spread
    resident_bytes: int


@dataclass(frozen=True)
class Aging:
    window_rounds: int
    samples: tuple[AgeSample, ...]

    @property
    def resident_growth(self) -> float:
        """Resident memory at the last sample over that at the first, less one."""
        return self.samples[-1].resident_bytes / self.samples[0].resident_bytes - 1

    @property
    def worst_ratio(self) -> float:
        """Of the sessions that are older than the young one, the median ratio furthest from one."""
        return max(
            (sample.ratio.median for sample in self.samples if sample.age_rounds > sample.young_rounds),
            key=lambda ratio: abs(ratio - 1),
        )


def measure(workload: Workload, ages: tuple[int, ...], num_repeats: int) -> Aging:
    """One session is run through all `ages`; at each it is timed against one as young as the first of them."""
    old = QuietSessions(workload, WINDOW_ROUNDS, 1)
    young = QuietSessions(workload, WINDOW_ROUNDS, 1)
    samples = []
    for age in ages:
        _run_to(old, age)
        young.reopen()
        _run_to(young, ages[0])
        old_s: list[float] = []
        young_s: list[float] = []
        interleaved([_timed_block(old, old_s), _timed_block(young, young_s)], num_repeats)
        ratios = [ours / theirs for ours, theirs in zip(old_s, young_s, strict=True)]
        samples.append(
            AgeSample(
                age,
                ages[0],
                Spread.quartiles(old_s),
                Spread.quartiles(young_s),
                Spread.quartiles(ratios),
                resident_bytes(),
            )
        )
    return Aging(WINDOW_ROUNDS, tuple(samples))


def resident_bytes() -> int:
    """Memory of this process that is in RAM."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _run_to(sessions: QuietSessions, age_rounds: int) -> None:
    while sessions.num_rounds < age_rounds:
        sessions.one_round()


def _timed_block(sessions: QuietSessions, into: list[float]) -> Callable[[], None]:
    def block() -> None:
        seconds = seconds_of(lambda: [sessions.one_round() for _ in range(BLOCK_ROUNDS)])
        into.append(seconds / BLOCK_ROUNDS)

    return block
