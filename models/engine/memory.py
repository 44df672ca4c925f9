"""The KV cache and who holds what of it: admission, eviction, and pinned prefixes held once."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np

from models.engine.block_pool import BlockPool
from models.engine.config import EngineConfig, SessionLimits
from models.engine.errors import BadLogits, EngineFull
from models.engine.kv_cache import KVCache
from models.engine.pinned_prefix import PinnedPrefix, PinnedPrefixes
from models.engine.session import Session
from models.engine.slot_table import Eviction, SlotTable
from models.vlm.model import LanguageModel

# Of pinned prefixes, turned at a time: it takes several times the memory of their keys.
_MAX_TURNED_TOKENS = 4096


class Memory:
    """Every session reserves the most it may come to hold, so that nothing has to be taken away from it later.

    Keys and values are always copied first and booked after, from slots that the copying leaves alone to slots
    that hold nothing wanted: if it fails, it can be done again.
    """

    def __init__(self, model: LanguageModel, config: EngineConfig, limits: SessionLimits) -> None:
        num_blocks = config.max_kv_tokens // config.block_tokens
        self.cache = KVCache(
            model.num_layers,
            num_blocks * config.block_tokens,
            model.num_kv_heads,
            model.head_dim,
            model.rotary.inv_freq,
            model.dtype,
            model.device,
            config.block_tokens,
        )
        self.pool = BlockPool(num_blocks)
        self.prefixes = PinnedPrefixes(self.pool, config.block_tokens)
        self._block_tokens = config.block_tokens
        self._limits = limits
        self._moves_pinned = config.pinned_positions == "move"

    @property
    def num_free_tokens(self) -> int:
        return self.pool.num_free * self._block_tokens

    def reserve(
        self, session_id: str, pinned_ids: Sequence[int], first_position: int
    ) -> tuple[PinnedPrefix, SlotTable]:
        """Hold what a session may need, or raise and change nothing.

        EngineFull if it is more than what is free, ValueError as `check_fits` raises it.
        """
        capacity = self.check_fits(pinned_ids)
        num_window_blocks = self._num_blocks(capacity)
        num_blocks = num_window_blocks + self.prefixes.num_blocks_to_hold(pinned_ids, first_position)
        if num_blocks > self.pool.num_free:
            budget = self.pool.num_blocks * self._block_tokens
            raise EngineFull(
                f"session {session_id} refused: budget {budget} KV tokens (max_kv_tokens), "
                f"used {budget - self.num_free_tokens}, needed {num_blocks * self._block_tokens}"
            )
        blocks = self.pool.allocate(num_window_blocks)
        prefix = self.prefixes.hold(pinned_ids, first_position)
        return prefix, SlotTable(blocks, self._block_tokens, capacity, len(pinned_ids))

    def check_fits(self, pinned_ids: Sequence[int]) -> int:
        """The most tokens that a session's window may come to. ValueError if no window can hold a round of it, or if it
        is more than the whole budget.
        """
        capacity = self._limits.max_window_tokens(len(pinned_ids))
        needed = (self._num_blocks(capacity) + self._num_blocks(len(pinned_ids))) * self._block_tokens
        budget = self.pool.num_blocks * self._block_tokens
        if needed > budget:
            raise ValueError(
                f"a session may come to {needed} KV tokens, the whole budget is {budget}: raise max_kv_tokens, or "
                "lower window_rounds or max_window_tokens"
            )
        return capacity

    def _num_blocks(self, num_tokens: int) -> int:
        return -(-num_tokens // self._block_tokens)

    def release(self, prefix: PinnedPrefix, table: SlotTable) -> None:
        self.pool.release(table.blocks)
        self.prefixes.release(prefix)

    def make_room(self, sessions: Collection[Session]) -> int:
        """Drop what has to go before the next rounds of these sessions can begin; how many rounds went.

        One copy for all sessions: a device is told once, not once a session.
        """
        planned = [(session, plan) for session in sessions if (plan := session.plan_eviction())]
        if not planned:
            return 0
        self.cache.copy(
            np.concatenate([plan.sources for _, plan in planned]),
            np.concatenate([plan.targets for _, plan in planned]),
        )
        if self._moves_pinned:
            for few in _in_parts(planned):
                self.cache.copy_turned(
                    np.concatenate([session.prefix.slots for session, _ in few]),
                    np.concatenate([session.table.pinned_slots for session, _ in few]),
                    [session.pinned_distance(plan) for session, plan in few],
                    [len(session.prefix) for session, _ in few],
                )
        return sum(session.evict(plan) for session, plan in planned)

    def copy_prefixes(self, sessions: Collection[Session]) -> None:
        """Spare those of the sessions the feeding of their pinned prefix that nobody needs to feed again."""
        adopting = [session for session in sessions if session.can_adopt_prefix]
        if not adopting:
            return
        self.cache.copy(
            np.concatenate([session.prefix.slots for session in adopting]),
            np.concatenate([session.table.pinned_slots for session in adopting]),
        )
        for session in adopting:
            session.adopt_prefix()

    def save_prefixes(self, sessions: Collection[Session]) -> None:
        """Make the master copies of pinned prefixes that have just been fed to their ends.

        BadLogits, and nothing copied, for one that is not finite: a bad frame behind it reaches its keys, and whoever
        took them from the master would be as bad.
        """
        for session in sessions:
            prefix, table = session.prefix, session.table
            if not prefix.is_saved and table.end >= len(prefix):
                if not self.cache.is_finite(table.pinned_slots):
                    raise BadLogits((session.session_id,))
                self.cache.copy(table.pinned_slots, prefix.slots)
                prefix.is_saved = True

    def check_integrity(self, sessions: Collection[Session]) -> None:
        """Raise IntegrityError unless these are the sessions that hold the memory, each what is its own."""
        self.pool.check_integrity(
            blocks for session in sessions for blocks in (session.table.blocks, session.prefix.blocks)
        )


def _in_parts(planned: Sequence[tuple[Session, Eviction]]) -> Iterator[list[tuple[Session, Eviction]]]:
    """At most _MAX_TURNED_TOKENS of pinned prefixes each, or one session."""
    part: list[tuple[Session, Eviction]] = []
    num_tokens = 0
    for session, plan in planned:
        if part and num_tokens + len(session.prefix) > _MAX_TURNED_TOKENS:
            yield part
            part, num_tokens = [], 0
        part.append((session, plan))
        num_tokens += len(session.prefix)
    yield part
