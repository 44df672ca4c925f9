"""Which blocks of the KV cache are free, and how many hold each of the others. Free of torch."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from models.engine.errors import IntegrityError


class BlockPool:
    """Hands out blocks of token slots, as one unbroken run where there is one.

    A run lets the CPU read a session's keys in place; any blocks will do otherwise, so the pool never refuses
    for being in pieces. Blocks may be shared: they are free again when all who hold them have released them.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._num_holders = np.zeros(num_blocks, dtype=np.int64)

    @property
    def num_free(self) -> int:
        return self.num_blocks - int(np.count_nonzero(self._num_holders))

    def allocate(self, num_blocks: int) -> np.ndarray:
        """Ids of that many blocks, ascending, held once. At most `num_free` may be asked for."""
        if num_blocks > self.num_free:
            raise ValueError(f"{num_blocks} blocks asked for, {self.num_free} are free")
        blocks = self._run(num_blocks)
        if blocks is None:
            blocks = np.flatnonzero(self._num_holders == 0)[:num_blocks]
        self._num_holders[blocks] = 1
        return blocks

    def share(self, blocks: np.ndarray) -> None:
        """Hold blocks once more that somebody holds already."""
        if not self.is_held(blocks):
            raise IntegrityError(f"blocks {blocks[:8].tolist()} are shared, but some of them are free")
        self._num_holders[blocks] += 1

    def release(self, blocks: np.ndarray) -> None:
        """Undo one `allocate` or `share`."""
        if not self.is_held(blocks):
            raise IntegrityError(f"blocks {blocks[:8].tolist()} are released, but some of them are free")
        self._num_holders[blocks] -= 1

    def is_held(self, blocks: np.ndarray) -> bool:
        """Whether none of the blocks is free."""
        return bool(self._num_holders[blocks].all())

    def check_integrity(self, held: Iterable[np.ndarray]) -> None:
        """Raise IntegrityError unless every block is in as many of `held` as it has holders."""
        num_holders = np.zeros(self.num_blocks, dtype=np.int64)
        for blocks in held:
            np.add.at(num_holders, blocks, 1)
        if (wrong := np.flatnonzero(num_holders != self._num_holders)).size:
            raise IntegrityError(f"blocks {wrong[:8].tolist()} are lost or held too often")

    def _run(self, num_blocks: int) -> np.ndarray | None:
        # The shortest run that is long enough leaves the long ones whole.
        is_free = np.zeros(self.num_blocks + 2, dtype=np.int8)
        is_free[1:-1] = self._num_holders == 0
        edges = np.flatnonzero(np.diff(is_free))
        starts, lengths = edges[::2], edges[1::2] - edges[::2]
        fitting = np.flatnonzero(lengths >= num_blocks)
        if not fitting.size:
            return None
        start = starts[fitting[np.argmin(lengths[fitting])]]
        return np.arange(start, start + num_blocks)
