"""Which videos show the same footage, so that no split tests what another has trained on."""

from collections.abc import Sequence

import numpy as np

NUM_BANDS = 8
_MAX_PRINTS = 32
_MIN_SET_BITS = 4


def group_videos(prints: Sequence[np.ndarray], max_bits: int, min_shared: float) -> list[int]:
    """For each video, given its fingerprints [n, 16] of bytes, the first video of its group.

    Two videos are near-duplicates if at least `min_shared` of the fingerprints looked at of one have one within
    `max_bits` anywhere in the other, as an excerpt's have; groups are what is linked by such pairs. A fixed camera's
    quiet recordings look alike, so they come into one group. ValueError for more than 7 bits: two prints that differ
    in at most 7 bits are alike in at least one of 8 bands, and only such are compared.
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

    bands = _bands(telling)
    for one, its_prints in enumerate(telling):
        # Thinned on this side only: every picture of an excerpt is in the whole, few of the whole's in the excerpt.
        looked_at = _thinned(its_prints)
        for other in _candidates(looked_at, bands, len(telling), min_shared):
            mine, theirs = root(one), root(other)
            if mine != theirs and _shared(looked_at, telling[other], max_bits) >= min_shared:
                parents[max(mine, theirs)] = min(mine, theirs)
    return [root(index) for index in range(len(prints))]


def _telling(prints: np.ndarray) -> np.ndarray:
    """Those that differ, without those of pictures that show next to nothing."""
    shows = np.unpackbits(prints, axis=1).sum(axis=1) >= _MIN_SET_BITS
    return np.unique(prints[shows], axis=0)


def _thinned(prints: np.ndarray) -> np.ndarray:
    """Up to _MAX_PRINTS of them, evenly."""
    chosen = np.linspace(0, len(prints) - 1, min(_MAX_PRINTS, len(prints))).round().astype(int)
    return prints[chosen]


def _bands(telling: Sequence[np.ndarray]) -> list[np.ndarray]:
    """For each band, in order: its value * the number of videos + video, wherever a video has a print of that value."""
    if not telling:
        return []
    values = [prints.view(np.uint16).astype(np.int64) for prints in telling]
    return [
        np.unique(np.concatenate([one[:, band] * len(telling) + video for video, one in enumerate(values)]))
        for band in range(NUM_BANDS)
    ]


def _candidates(
    looked_at: np.ndarray, bands: Sequence[np.ndarray], num_videos: int, min_shared: float
) -> list[int]:
    """Videos with a band in common with at least `min_shared` of the prints: no other can be alike."""
    if not len(looked_at):
        return []
    num_found = np.zeros(num_videos, dtype=int)
    for row in looked_at.view(np.uint16).astype(np.int64):
        found = np.zeros(num_videos, dtype=bool)
        for value, keys in zip(row, bands, strict=True):
            begin, end = np.searchsorted(keys, [value * num_videos, (value + 1) * num_videos])
            found[keys[begin:end] % num_videos] = True
        num_found += found
    return [int(video) for video in np.flatnonzero(num_found / len(looked_at) >= min_shared)]


def _shared(looked_at: np.ndarray, prints: np.ndarray, max_bits: int) -> float:
    distance = np.bitwise_count(looked_at.view(np.uint64)[:, None] ^ prints.view(np.uint64)).sum(axis=2)
    return float((distance.min(axis=1) <= max_bits).mean())
