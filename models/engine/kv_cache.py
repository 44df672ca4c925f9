"""The keys and values of all sessions, in one allocation that never grows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from models.engine.device_copy import to_device
from models.engine.rotary import shift_keys


class KVCache:
    """Keys and values by layer and token slot: each [num_layers, num_slots + 1, num_kv_heads,
    head_dim].

    Keys are stored rotated. Which slot belongs to whom is the slot tables' business. One more slot is nobody's:
    `spare_slot` takes what is computed to no purpose, and is never read.
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
        self.num_slots = num_slots
        self.spare_slot = num_slots
        shape = (num_layers, num_slots + 1, num_kv_heads, head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.block_tokens = block_tokens
        """Slots in a block; block b holds those from b * block_tokens on."""
        self._inv_freq = inv_freq
        self._device = device

    def index(self, slots: np.ndarray) -> torch.Tensor:
        """Slots, or other integers, as a tensor on the cache's device."""
        return to_device(slots, self._device)

    def write(self, layer: int, slots: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Store [n, num_kv_heads, head_dim] of one layer."""
        self.keys[layer].index_copy_(0, slots, keys)
        self.values[layer].index_copy_(0, slots, values)

    def copy(self, sources: np.ndarray, targets: np.ndarray) -> None:
        """Fill the slots `targets` with what is at `sources`; the two have none in common."""
        if not len(sources):
            return
        where_from, where_to = self.index(sources), self.index(targets)
        for tensor in (self.keys, self.values):
            tensor.index_copy_(1, where_to, tensor.index_select(1, where_from))

    def is_finite(self, slots: np.ndarray) -> bool:
        """Whether all keys and values of these slots are numbers."""
        where = self.index(slots)
        return all(
            bool(tensor.index_select(1, where).isfinite().all()) for tensor in (self.keys, self.values)
        )

    def copy_turned(
        self, sources: np.ndarray, targets: np.ndarray, distances: Sequence[int], lengths: Sequence[int]
    ) -> None:
        """Fill the keys of `targets` with those at `sources`, as they would be further on.

        The slots are runs of `lengths` tokens, and each run moves by its own of the `distances`. Always from an
        untouched copy: turning keys in place again and again would let rounding errors add up.
        """
        keys = self.keys.index_select(1, self.index(sources))
        turned = shift_keys(
            keys,
            self.index(np.asarray(distances, dtype=np.int64)),
            self.index(np.asarray(lengths, dtype=np.int64)),
            self._inv_freq,
        )
        self.keys.index_copy_(1, self.index(targets), turned)
