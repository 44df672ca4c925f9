"""Which videos show the same footage, so that no split tests what another has trained on."""

from collections.abc import Sequence

import numpy as np

NUM_BANDS = 8
_MAX_PRINTS = 32
_MIN_SET_BITS = 4


def group_videos(prints: Sequence[np.ndarray], max_bits: int, min_shared: float) -> list[int]:
    """For each video, given its fingerprints [n, 16] of bytes, the first video of its group.

    Two videos are near-duplicates if at least `min_shared` of the fingerprints looked at of the one with fewer have one
    within `max_bits` in the other; groups are what is linked by such pairs. A fixed camera's quiet recordings look
    alike, so they come into one group. ValueError for more than 7 bits: two prints that differ in at most 7 bits are
    alike in at least one of 8 bands, and only such are compared.
    """
    if not 0 <= max_bits < NUM_BANDS:
        raise ValueError(f"max_bits {max_bits}: must be 0 to {NUM_BANDS - 1}")
    telling = [_telling(one) for one in prints]
    parents = list(range(len(prints)))

    def root(index: int) -> int:
        while parents[index] != index:
            parents[index] = parents[parents[index]]
            index = parents[index]
        return index

    compared: set[tuple[int, int]] = set()
    for members in _buckets(telling):
        for position, one in enumerate(members):
            for other in members[:position]:
                mine, theirs = root(one), root(other)
                if mine == theirs or (other, one) in compared:
                    continue
                compared.add((other, one))
                if _shared(telling[one], telling[other], max_bits) >= min_shared:
                    parents[max(mine, theirs)] = min(mine, theirs)
    return [root(index) for index in range(len(prints))]


def _telling(prints: np.ndarray) -> np.ndarray:
    """Up to _MAX_PRINTS of a video's, evenly, without those of pictures that show next to nothing."""
    shows = np.unpackbits(prints, axis=1).sum(axis=1) >= _MIN_SET_BITS
    distinct = np.unique(prints[shows], axis=0)
    chosen = np.linspace(0, len(distinct) - 1, min(_MAX_PRINTS, len(distinct))).round().astype(int)
    return distinct[chosen]


def _buckets(telling: Sequence[np.ndarray]) -> list[list[int]]:
    """Videos with a band in common, each bucket in order and without repeats."""
    buckets: dict[tuple[int, bytes], dict[int, None]] = {}
    for index, prints in enumerate(telling):
        for row in prints:
            bands = row.reshape(NUM_BANDS, -1)
            for band in range(NUM_BANDS):
                buckets.setdefault((band, bands[band].tobytes()), {})[index] = None
    return [list(members) for members in buckets.values() if len(members) > 1]


def _shared(one: np.ndarray, other: np.ndarray, max_bits: int) -> float:
    fewer, more = (one, other) if len(one) <= len(other) else (other, one)
    distance = np.unpackbits(fewer[:, None] ^ more[None, :], axis=2).sum(axis=2)
    return float((distance.min(axis=1) <= max_bits).mean())
