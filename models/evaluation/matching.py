"""One-to-one matching of what was told with what ought to be told: the best there is, not the first found."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


def best_matching(weights: np.ndarray) -> list[tuple[int, int]]:
    """The pairs (row, column) of a one-to-one matching of the largest total weight, in order of rows.

    `weights` [R, C]: what a pair is worth; a pair worth 0 or less is never made. Of several best matchings one
    is given, always the same for the same weights.
    """
    worth = np.maximum(np.asarray(weights, dtype=np.float64), 0.0)
    pairs: list[tuple[int, int]] = []
    for rows, columns in _components(worth > 0):
        block = worth[np.ix_(rows, columns)]
        if len(rows) <= len(columns):
            chosen = list(enumerate(_assign(-block)))
        else:
            chosen = [(row, column) for column, row in enumerate(_assign(-block.T))]
        pairs.extend((rows[i], columns[j]) for i, j in chosen if block[i, j] > 0)
    return sorted(pairs)


def match_times(
    told_ms: Sequence[int],
    gold_ms: Sequence[int],
    tolerance_ms: int,
    fits: Callable[[int, int], bool] = lambda told, gold: True,
) -> list[tuple[int, int]]:
    """Pairs (told index, gold index) at most `tolerance_ms` apart for which `fits(told, gold)`.

    As many pairs as can be made; among those the smallest sum of distances.
    """
    # A pair more is worth more than all the closeness that could be won without it.
    pair = (tolerance_ms + 1) * (min(len(told_ms), len(gold_ms)) + 1)
    distances = np.abs(np.subtract.outer(np.array(told_ms, np.int64), np.array(gold_ms, np.int64)))
    weights = np.zeros(distances.shape)
    for i, j in np.argwhere(distances <= tolerance_ms).tolist():
        if fits(i, j):
            weights[i, j] = pair + tolerance_ms - distances[i, j]
    return best_matching(weights)


def _components(linked: np.ndarray) -> list[tuple[list[int], list[int]]]:
    """Rows and columns that hang together, so that long streams fall apart into small problems."""
    seen: set[int] = set()
    found = []
    for first in np.flatnonzero(linked.any(axis=1)).tolist():
        if first in seen:
            continue
        rows, columns, waiting = {first}, set(), [first]
        while waiting:
            for column in np.flatnonzero(linked[waiting.pop()]).tolist():
                if column not in columns:
                    columns.add(column)
                    fresh = set(np.flatnonzero(linked[:, column]).tolist()) - rows
                    rows |= fresh
                    waiting.extend(fresh)
        seen |= rows
        found.append((sorted(rows), sorted(columns)))
    return found


def _assign(costs: np.ndarray) -> list[int]:
    """The column of each row in the cheapest assignment of all rows; no more rows than columns.

    Shortest augmenting paths with potentials (the Hungarian method), O(rows^2 * columns).
    """
    num_rows, num_columns = costs.shape
    row_of = np.full(num_columns + 1, -1)  # the last column is where a path begins
    row_potential = np.zeros(num_rows)
    column_potential = np.zeros(num_columns + 1)
    for row in range(num_rows):
        column = num_columns
        row_of[column] = row
        least = np.full(num_columns, np.inf)
        before = np.full(num_columns, num_columns)
        reached = np.zeros(num_columns + 1, dtype=bool)
        while row_of[column] >= 0:
            reached[column] = True
            here = row_of[column]
            reduced = costs[here] - row_potential[here] - column_potential[:num_columns]
            open_columns = ~reached[:num_columns]
            better = open_columns & (reduced < least)
            least[better] = reduced[better]
            before[better] = column
            column_next = int(np.where(open_columns, least, np.inf).argmin())
            step = least[column_next]
            row_potential[row_of[reached]] += step
            column_potential[reached] -= step
            least[open_columns] -= step
            column = column_next
        while column != num_columns:
            row_of[column] = row_of[before[column]]
            column = int(before[column])
    columns = [0] * num_rows
    for column in range(num_columns):
        if row_of[column] >= 0:
            columns[row_of[column]] = column
    return columns
