"""Attention on a GPU by gathering each layer's keys into a contiguous scratch, for PyTorch's own varlen kernel.

Costs about two passes over the keys and values more than reading them in place, which an extend hides behind
its arithmetic and a decode step does not. The scratch holds the keys and values of one layer of all rows.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.attention.varlen import varlen_attn

from models.engine.attention.interface import AttentionRow, AttentionStep
from models.engine.device_copy import copy_to_device
from models.engine.kv_cache import KVCache

# Up to torch 2.11 the kernel shares key heads unasked, and does not know the word.
_SHARED_HEADS: dict[str, Any] = (
    {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}
)


class VarlenAttention:
    """Needs a GPU that `torch.nn.attention.varlen` runs on, and keys of 16 bits."""

    def begin(
        self, cache: KVCache, new_slots: np.ndarray, rows: Sequence[AttentionRow], num_heads: int
    ) -> AttentionStep:
        if cache.keys.dtype not in (torch.float16, torch.bfloat16):
            raise ValueError(
                f"varlen attention takes keys of float16 or bfloat16, not {cache.keys.dtype}: load the model in "
                "one of them, or choose paged or sdpa"
            )
        return _VarlenStep(cache, new_slots, rows)


class _VarlenStep:
    def __init__(self, cache: KVCache, new_slots: np.ndarray, rows: Sequence[AttentionRow]) -> None:
        self._cache = cache
        num_queries = np.array([row.num_queries for row in rows])
        num_keys = np.array([row.num_keys for row in rows])
        num_blocks = -(-num_keys // cache.block_tokens)
        new, self._query_starts, self._key_starts, table_starts, tables = copy_to_device(
            [
                new_slots,
                _starts(num_queries),
                _starts(num_keys),
                _starts(num_blocks)[:-1],
                np.concatenate([row.blocks[:count] for row, count in zip(rows, num_blocks, strict=True)]),
            ],
            cache.keys.device,
        )
        self._new_slots = new.long()
        self._max_queries, self._max_keys = int(num_queries.max()), int(num_keys.max())
        self._slots = _all_slots(
            self._key_starts, table_starts, tables, cache.block_tokens, int(num_keys.sum())
        )
        scratch = (int(num_keys.sum()), *cache.keys.shape[2:])
        self._keys, self._values = cache.keys.new_empty(scratch), cache.values.new_empty(scratch)

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        cache = self._cache
        cache.write(layer, self._new_slots, key[0].transpose(0, 1), value[0].transpose(0, 1))
        torch.index_select(cache.keys[layer], 0, self._slots, out=self._keys)
        torch.index_select(cache.values[layer], 0, self._slots, out=self._values)
        attended = varlen_attn(
            query[0].transpose(0, 1),
            self._keys,
            self._values,
            self._query_starts,
            self._key_starts,
            self._max_queries,
            self._max_keys,
            scale=scaling,
            # Causal, the last query aligned with the last key.
            window_size=(-1, 0),
            **_SHARED_HEADS,
        )
        assert isinstance(attended, torch.Tensor)  # and no auxiliary output beside it
        return attended.unsqueeze(0)


def _starts(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate(([0], np.cumsum(lengths)))


def _all_slots(
    key_starts: torch.Tensor,
    table_starts: torch.Tensor,
    tables: torch.Tensor,
    block_tokens: int,
    num_keys: int,
) -> torch.Tensor:
    """The slot of every key of every row, worked out on the device from the rows' blocks: int32 [num_keys]."""
    places = torch.arange(num_keys, dtype=torch.int32, device=tables.device)
    row_of_key = torch.repeat_interleave(key_starts.diff(), output_size=num_keys)
    places -= key_starts[row_of_key]
    blocks = tables[table_starts[row_of_key] + places // block_tokens]
    return blocks * block_tokens + places % block_tokens
