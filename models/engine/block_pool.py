"""Which blocks of the KV cache are free. Free of torch."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from models.engine.errors import IntegrityError


class BlockPool:
    """Hands out blocks of token slots, as one unbroken run where there is one.

    A run lets the CPU read a session's keys in place; any blocks will do otherwise, so the pool never refuses
    for being in pieces.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._is_free = np.ones(num_blocks, dtype=bool)

    @property
    def num_free(self) -> int:
        return int(self._is_free.sum())

    def allocate(self, num_blocks: int) -> np.ndarray:
        """Ids of that many blocks, ascending. At most `num_free` may be asked for."""
        if num_blocks > self.num_free:
            raise ValueError(f"{num_blocks} blocks asked for, {self.num_free} are free")
        blocks = self._run(num_blocks)
        if blocks is None:
            blocks = np.flatnonzero(self._is_free)[:num_blocks]
        self._is_free[blocks] = False
        return blocks

    def release(self, blocks: np.ndarray) -> None:
        self._is_free[blocks] = True

    def check_integrity(self, held: Iterable[np.ndarray]) -> None:
        """Raise IntegrityError unless every block is either free or in exactly one of `held`."""
        num_owners = self._is_free.astype(np.int64)
        for blocks in held:
            np.add.at(num_owners, blocks, 1)
        if (wrong := np.flatnonzero(num_owners != 1)).size:
            raise IntegrityError(f"blocks {wrong[:8].tolist()} are lost or held twice")

    def _run(self, num_blocks: int) -> np.ndarray | None:
        # The shortest run that is long enough leaves the long ones whole.
        edges = np.flatnonzero(np.diff(np.concatenate(([0], self._is_free.view(np.int8), [0]))))
        starts, lengths = edges[::2], edges[1::2] - edges[::2]
        fitting = np.flatnonzero(lengths >= num_blocks)
        if not fitting.size:
            return None
        start = starts[fitting[np.argmin(lengths[fitting])]]
        return np.arange(start, start + num_blocks)
