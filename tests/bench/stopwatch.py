"""Timing that noise of the machine does not decide: sides in turn, many repeats, medians with their spread."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Spread:
    """Median of some repeats, and how far they go: least and greatest, or quartiles."""

    median: float
    low: float
    high: float
    num_repeats: int

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        return cls(float(np.median(values)), min(values), max(values), len(values))

    @classmethod
    def quartiles(cls, values: list[float]) -> Spread:
        """For many repeats, of which some are bound to be disturbed."""
        low, middle, high = (float(value) for value in np.quantile(values, (0.25, 0.5, 0.75)))
        return cls(middle, low, high, len(values))

    def __str__(self) -> str:
        return f"{number(self.median)} ({number(self.low)} … {number(self.high)})"


def number(value: float) -> str:
    """Three figures, without an exponent."""
    if value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}"
    digits = max(0, 2 - int(np.floor(np.log10(abs(value)))))
    return f"{value:.{digits}f}"


def seconds_of(work: Callable[[], object]) -> float:
    start_s = time.thread_time()
    work()
    return time.thread_time() - start_s


def interleaved(works: Sequence[Callable[[], object]], num_repeats: int) -> None:
    """Do each `num_repeats` times, in turn and in reverse at every other repeat."""
    for repeat in range(num_repeats):
        for work in works if repeat % 2 == 0 else reversed(works):
            work()


class Meter:
    """Adds up the time spent in calls that it was put around."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def around(self, owner: object, *names: str) -> Iterator[Meter]:
        """Time these methods of this object until the block ends."""
        for name in names:
            setattr(owner, name, self._timed(getattr(owner, name)))
        try:
            yield self
        finally:
            for name in names:
                delattr(owner, name)

    def _timed(self, method: Callable[..., object]) -> Callable[..., object]:
        def timed(*args: object, **kwargs: object) -> object:
            start_s = time.thread_time()
            try:
                return method(*args, **kwargs)
            finally:
                self.seconds += time.thread_time() - start_s

        return timed
