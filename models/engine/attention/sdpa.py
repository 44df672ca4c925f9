"""Attention row by row with PyTorch's own kernels: the reference on any device, and what the CPU uses."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from models.engine.attention.interface import AttentionRow, AttentionStep
from models.engine.kv_cache import KVCache

# Where F.scaled_dot_product_attention ends on a CPU; it does not hand on the log-sum-exp, though.
_cpu_attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu

# Old keys from which it pays to attend to them without a mask and to the new ones apart, and then to merge the
# two: a mask over so many keys takes longer to read than the second call takes to make.
SPLIT_FROM = 2048


class SdpaAttention:
    """The reference backend. Its cost beside the arithmetic is a few calls for each row and layer.

    Where a session's slots are an unbroken run (as the block pool gives them while it can) keys and values
    are read in place, without a copy; otherwise they are gathered first.
    """

    def begin(
        self, cache: KVCache, new_slots: np.ndarray, rows: Sequence[AttentionRow], num_heads: int
    ) -> AttentionStep:
        return _SdpaStep(cache, new_slots, rows)


class _SdpaStep:
    def __init__(self, cache: KVCache, new_slots: np.ndarray, rows: Sequence[AttentionRow]) -> None:
        self._cache = cache
        self._new_slots = cache.index(new_slots)
        self._rows = [
            (
                row.num_queries,
                row.num_keys,
                cache.index(row.slots)
                if row.first_slot is None
                else slice(row.first_slot, row.first_slot + row.num_keys),
            )
            for row in rows
        ]
        self._split_from = SPLIT_FROM if cache.keys.device.type == "cpu" else math.inf
        self._masks: dict[tuple[int, int], torch.Tensor] = {}

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        cache = self._cache
        cache.write(layer, self._new_slots, key[0].transpose(0, 1), value[0].transpose(0, 1))
        keys, values = cache.keys[layer], cache.values[layer]
        num_kv_heads = key.shape[1]
        num_shared = query.shape[1] // num_kv_heads
        # The query heads that share a key head become queries of it: [1, num_kv_heads, T * num_shared, D].
        # So a key is read once for all of them.
        query = query.unflatten(1, (num_kv_heads, num_shared)).transpose(2, 3).flatten(2, 3)
        output = query.new_empty(query.shape[2] // num_shared, num_kv_heads, num_shared, query.shape[3])
        start = 0
        for num_queries, num_keys, where in self._rows:
            end = start + num_queries
            attended = self._attend_row(
                query[:, :, start * num_shared : end * num_shared],
                _of_row(keys, where),
                _of_row(values, where),
                num_keys - num_queries,
                scaling,
            )
            output[start:end] = attended[0].unflatten(1, (num_queries, num_shared)).transpose(0, 1)
            start = end
        return output.flatten(1, 2).unsqueeze(0)

    def _attend_row(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, num_old: int, scaling: float
    ) -> torch.Tensor:
        num_new = keys.shape[2] - num_old
        if num_new == 1:
            return F.scaled_dot_product_attention(query, keys, values, scale=scaling)
        if num_old < self._split_from:
            mask = self._mask(num_new, num_old, query)
            return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=scaling)
        old, old_lse = _cpu_attention(query, keys[:, :, :num_old], values[:, :, :num_old], scale=scaling)
        new, new_lse = _cpu_attention(
            query,
            keys[:, :, num_old:],
            values[:, :, num_old:],
            attn_mask=self._mask(num_new, 0, query),
            scale=scaling,
        )
        # Each part is a mean over its own keys; its share is what it holds of the sum under the softmax.
        share = torch.sigmoid(new_lse - old_lse).to(query.dtype).unsqueeze(-1)
        return torch.lerp(old, new, share)

    def _mask(self, num_new: int, num_old: int, query: torch.Tensor) -> torch.Tensor:
        mask = self._masks.get((num_new, num_old))
        if mask is None:
            num_shared = query.shape[2] // num_new
            mask = self._masks[num_new, num_old] = causal_mask(num_new, num_old, num_shared, query)
        return mask


def _of_row(keys: torch.Tensor, where: slice | torch.Tensor) -> torch.Tensor:
    """A row's keys or values, [1, num_kv_heads, num_keys, head_dim], of a layer's."""
    chosen = keys[where] if isinstance(where, slice) else keys.index_select(0, where)
    return chosen.transpose(0, 1).unsqueeze(0)


def causal_mask(num_new: int, num_old: int, num_shared: int, like: torch.Tensor) -> torch.Tensor:
    """What new tokens see: all old keys, and of the new ones those up to their own.

    Additive, [num_new * num_shared, num_old + num_new] in the dtype of `like`: each token has `num_shared`
    queries in a row. (The causal flag of PyTorch aligns the first query with the first key.)
    """
    hidden = like.new_full((num_new, num_new), float("-inf")).triu_(1)
    return F.pad(hidden, (num_old, 0)).repeat_interleave(num_shared, dim=0)
