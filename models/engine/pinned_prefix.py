"""The pinned prefixes of all sessions, each kept once however many sessions begin with it. Free of torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.engine.block_pool import BlockPool


class PinnedPrefix:
    """System turn and instruction as they are fed at `first_position`, and the place of their master copy.

    The master holds the keys and values as the first session to feed them computed them; nothing ever turns or
    moves it. Sessions that begin alike copy it instead of feeding the same tokens, and all of them turn their
    own pinned keys from it.
    """

    def __init__(
        self, token_ids: Sequence[int], first_position: int, blocks: np.ndarray, block_tokens: int
    ) -> None:
        self.token_ids = tuple(token_ids)
        self.first_position = first_position
        self.blocks = blocks
        slots = (blocks[:, None] * block_tokens + np.arange(block_tokens)).ravel()
        self.slots = slots[: len(self.token_ids)]
        self.is_saved = False
        """The master copy is there."""

    def __len__(self) -> int:
        return len(self.token_ids)


class PinnedPrefixes:
    """Finds the sessions that begin alike. A prefix is held once by each of its sessions, and gone with the
    last of them.
    """

    def __init__(self, block_pool: BlockPool, block_tokens: int) -> None:
        self._block_pool = block_pool
        self._block_tokens = block_tokens
        self._prefixes: dict[tuple[tuple[int, ...], int], PinnedPrefix] = {}

    def __len__(self) -> int:
        return len(self._prefixes)

    def num_blocks_to_hold(self, token_ids: Sequence[int], first_position: int) -> int:
        """Blocks that `hold` would take from the pool: none if a session has the prefix already."""
        if (tuple(token_ids), first_position) in self._prefixes:
            return 0
        return -(-len(token_ids) // self._block_tokens)

    def hold(self, token_ids: Sequence[int], first_position: int) -> PinnedPrefix:
        key = (tuple(token_ids), first_position)
        if (prefix := self._prefixes.get(key)) is not None:
            self._block_pool.share(prefix.blocks)
            return prefix
        blocks = self._block_pool.allocate(self.num_blocks_to_hold(*key))
        prefix = PinnedPrefix(token_ids, first_position, blocks, self._block_tokens)
        self._prefixes[key] = prefix
        return prefix

    def release(self, prefix: PinnedPrefix) -> None:
        self._block_pool.release(prefix.blocks)
        if not self._block_pool.is_held(prefix.blocks):
            del self._prefixes[prefix.token_ids, prefix.first_position]
