"""Attention of the rows of a packed step, each over its own session's keys.

Hugging Face's layers call the function registered here as `streamo_kv`; it hands over to the `AttentionStep`
that the caller passed into the forward as `attention_step`. A backend is one way to carry a step out; to add
one (paged, on a GPU) is to write the two methods below.

`SdpaAttention` is the reference, and what the CPU uses. Its cost beside the arithmetic is one
`scaled_dot_product_ attention` for each row and layer: where a session's slots are an unbroken run (as the
block pool gives them while it can) keys and values are read in place, without a copy; otherwise they are
gathered first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AttentionInterface

from models.engine.kv_cache import KVCache

# transformers gives names with "flash", "flex_attention" or "/" a meaning of its own.
ATTENTION_NAME = "streamo_kv"


@dataclass(frozen=True, eq=False)
class AttentionRow:
    """One session's share of a step: its `num_queries` new tokens, and the slots of all its tokens.

    The new tokens come last in `slots`, in order: query i sees all slots but the last `num_queries - 1 - i`.
    """

    num_queries: int
    slots: np.ndarray
    first_slot: int | None
    """Set if the slots are one unbroken run from here."""


class AttentionStep(Protocol):
    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        """Store the step's rotated keys and values, and attend.

        query [1, num_heads, T, head_dim], key and value [1, num_kv_heads, T, head_dim] hold the new tokens of
        all rows, one row after another. Returns [1, T, num_heads, head_dim].
        """
        ...


class AttentionBackend(Protocol):
    def begin(self, cache: KVCache, new_slots: np.ndarray, rows: Sequence[AttentionRow]) -> AttentionStep:
        """Prepare what all layers of a step share. `new_slots` [T] is where the new tokens go."""
        ...


class SdpaAttention:
    """The reference backend: PyTorch's own attention, session by session, on any device."""

    def begin(self, cache: KVCache, new_slots: np.ndarray, rows: Sequence[AttentionRow]) -> AttentionStep:
        return _SdpaStep(cache, new_slots, rows)


class _SdpaStep:
    def __init__(self, cache: KVCache, new_slots: np.ndarray, rows: Sequence[AttentionRow]) -> None:
        self._cache = cache
        self._new_slots = cache.index(new_slots)
        self._num_queries = [row.num_queries for row in rows]
        self._where = [
            cache.index(row.slots)
            if row.first_slot is None
            else slice(row.first_slot, row.first_slot + len(row.slots))
            for row in rows
        ]
        dtype, device = cache.keys.dtype, cache.keys.device
        self._masks = [bottom_right_mask(row.num_queries, len(row.slots), dtype, device) for row in rows]

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        cache = self._cache
        cache.write(layer, self._new_slots, key[0].transpose(0, 1), value[0].transpose(0, 1))
        keys, values = cache.keys[layer], cache.values[layer]
        output = query.new_empty(1, query.shape[2], query.shape[1], query.shape[3])
        start = 0
        for num_queries, where, mask in zip(self._num_queries, self._where, self._masks, strict=True):
            end = start + num_queries
            queries = query[:, :, start:end]
            if num_queries == 1:
                # The query heads that share a key head become its queries: half the time of `enable_gqa`.
                queries = queries.reshape(1, keys.shape[1], -1, keys.shape[2])
            attended = F.scaled_dot_product_attention(
                queries,
                keys[where].transpose(0, 1).unsqueeze(0),
                values[where].transpose(0, 1).unsqueeze(0),
                attn_mask=mask,
                scale=scaling,
                enable_gqa=True,
            )
            output[:, start:end] = attended.reshape(1, -1, num_queries, keys.shape[2]).transpose(1, 2)
            start = end
        return output


def bottom_right_mask(
    num_queries: int, num_keys: int, dtype: torch.dtype, device: torch.device
) -> torch.Tensor | None:
    """Additive mask [num_queries, num_keys] that aligns the last query with the last key; None if it hides
    nothing.

    (The causal flag of PyTorch aligns the first query with the first key.)
    """
    if num_queries == 1:
        return None
    mask = torch.zeros(num_queries, num_keys, dtype=dtype, device=device)
    hidden = torch.full((num_queries, num_queries), float("-inf"), dtype=dtype, device=device).triu_(1)
    mask[:, num_keys - num_queries :] = hidden
    return mask


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    attention_step: AttentionStep,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    layer: int = module.layer_idx  # type: ignore[assignment]
    return attention_step.attend(layer, query, key, value, scaling), None


AttentionInterface.register(ATTENTION_NAME, _attend)
