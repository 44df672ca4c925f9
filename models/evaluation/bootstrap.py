"""Intervals by resampling streams: whole groups at a time, within task and kind, or within kind alone where groups have
streams of several tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from models.evaluation.scores import Score, Sums
from models.evaluation.stream import StreamRecord

NUM_RESAMPLES = 2000
SEED = 20_251
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A score and its percentile interval; NaN where there is nothing to score, or nothing to draw from."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """B minus A on the same streams; `above_zero` is the share of resamples in which it is positive."""

    value: float
    low: float
    high: float
    above_zero: float


class Resampling:
    """How often each record counts in each resample. The same records and seed give the same weights, so that two
    runs over the same streams can be compared resample by resample. Among fewer than two groups nothing can be drawn:
    what rests on records of such a stratum has no interval.
    """

    def __init__(
        self, records: Sequence[StreamRecord], num_resamples: int = NUM_RESAMPLES, seed: int = SEED
    ) -> None:
        rng = np.random.default_rng(seed)
        tasks: dict[tuple[str, str], set[str]] = {}
        for record in records:
            tasks.setdefault((record.kind, record.group), set()).add(record.task)
        shared = {kind for (kind, _), of_group in tasks.items() if len(of_group) > 1}
        strata: dict[tuple[str, str], dict[str, list[int]]] = {}
        for index, record in enumerate(records):
            groups = strata.setdefault(("" if record.kind in shared else record.task, record.kind), {})
            groups.setdefault(record.group, []).append(index)
        self._alone = {
            index
            for groups in strata.values()
            if len(groups) < 2
            for alone in groups.values()
            for index in alone
        }
        self.weights = np.zeros((num_resamples, len(records)))
        for stratum in sorted(strata):
            groups = strata[stratum]
            drawn = rng.multinomial(len(groups), np.full(len(groups), 1 / len(groups)), size=num_resamples)
            for column, name in enumerate(sorted(groups)):
                self.weights[:, groups[name]] = drawn[:, column : column + 1]

    def estimate(self, score: Score, tallies: Sequence[Mapping[str, int]], chosen: Sequence[int]) -> Estimate:
        """Over the records of these indices; `tallies` are of all records, in their order."""
        value = float(score.formula(_sums(tallies, chosen, None)))
        drawn = score.formula(_sums(tallies, chosen, self.weights))
        return Estimate(value, *self._interval(drawn, chosen))

    def difference(
        self,
        score: Score,
        before: Sequence[Mapping[str, int]],
        after: Sequence[Mapping[str, int]],
        chosen: Sequence[int],
    ) -> Difference:
        """`after` minus `before`, two runs over the records of these indices."""
        value = float(score.formula(_sums(after, chosen, None)) - score.formula(_sums(before, chosen, None)))
        drawn = score.formula(_sums(after, chosen, self.weights)) - score.formula(
            _sums(before, chosen, self.weights)
        )
        low, high = self._interval(drawn, chosen)
        known = drawn[~np.isnan(drawn)]
        above = float((known > 0).mean() + (known == 0).mean() / 2) if len(known) else float("nan")
        return Difference(value, low, high, above)

    def _interval(self, drawn: np.ndarray, chosen: Sequence[int]) -> tuple[float, float]:
        known = drawn[~np.isnan(drawn)]
        if not len(known) or not self._alone.isdisjoint(chosen):
            return float("nan"), float("nan")
        low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return float(low), float(high)


def _sums(tallies: Sequence[Mapping[str, int]], chosen: Sequence[int], weights: np.ndarray | None) -> Sums:
    names = sorted({name for index in chosen for name in tallies[index]})
    table = np.array([[tallies[index].get(name, 0) for name in names] for index in chosen], dtype=np.float64)
    table = table.reshape(len(chosen), len(names))
    summed = table.sum(axis=0) if weights is None else (weights[:, list(chosen)] @ table).T
    return dict(zip(names, summed, strict=True))
