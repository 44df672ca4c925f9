"""The keys and values of all sessions, in one allocation that never grows."""

from __future__ import annotations

import numpy as np
import torch

from models.engine.rotary import shift_keys
from models.engine.slot_table import Eviction, SlotTable


class KVCache:
    """Keys and values by layer and token slot: each [num_layers, num_slots, num_kv_heads, head_dim].

    Keys are stored rotated. Which slot belongs to whom is the slot tables' business.
    """

    def __init__(
        self,
        num_layers: int,
        num_slots: int,
        num_kv_heads: int,
        head_dim: int,
        inv_freq: torch.Tensor,
        dtype: torch.dtype,
        device: torch.device,
        block_tokens: int,
    ) -> None:
        shape = (num_layers, num_slots, num_kv_heads, head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.block_tokens = block_tokens
        """Slots in a block; block b holds those from b * block_tokens on."""
        self._inv_freq = inv_freq
        self._device = device

    def index(self, slots: np.ndarray) -> torch.Tensor:
        """Slots as an index tensor on the cache's device."""
        return torch.from_numpy(slots).to(self._device)

    def write(self, layer: int, slots: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Store [n, num_kv_heads, head_dim] of one layer."""
        self.keys[layer].index_copy_(0, slots, keys)
        self.values[layer].index_copy_(0, slots, values)

    def move(self, eviction: Eviction) -> None:
        """Fill the slots of a dropped round with tokens from the end of the window."""
        if not len(eviction.sources):
            return
        sources, targets = self.index(eviction.sources), self.index(eviction.targets)
        self.keys.index_copy_(1, targets, self.keys.index_select(1, sources))
        self.values.index_copy_(1, targets, self.values.index_select(1, sources))

    def save_pinned(self, table: SlotTable) -> None:
        """Keep the pinned keys as they are now, for all later `place_pinned`."""
        master = self.keys.index_select(1, self.index(table.pinned_slots))
        self.keys.index_copy_(1, self.index(table.master_slots), master)

    def place_pinned(self, table: SlotTable, distance: int) -> None:
        """Set the pinned keys `distance` positions on from where they were saved.

        Always from the saved copy: turning keys in place again and again would let rounding errors add up.
        """
        master = self.keys.index_select(1, self.index(table.master_slots))
        self.keys.index_copy_(1, self.index(table.pinned_slots), shift_keys(master, distance, self._inv_freq))
