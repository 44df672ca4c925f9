"""Attention on a GPU that reads keys and values where they lie, through the sessions' block tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import triton

from models.engine.attention.interface import AttentionRow, AttentionStep
from models.engine.attention.paged_kernel import attend_items, merge_parts
from models.engine.attention.work_plan import WorkPlan, keys_per_item
from models.engine.device_copy import copy_to_device
from models.engine.kv_cache import KVCache

_LOG2_E = 1.4426950408889634
# Items for each multiprocessor: enough that the last ones to finish leave few of them idle.
_ITEMS_PER_PROCESSOR = 4


class PagedAttention:
    """Our own Triton kernel, for float16, bfloat16 and float32 alike; sums are kept in float32.

    `max_keys_per_item` bounds the stretch of keys that is summed up in one go. None: as many stretches as
    fill the device, so that the last bits of a session's numbers depend on the company it has in a step. With
    a fixed bound they do not.
    """

    def __init__(self, device: torch.device, max_keys_per_item: int | None = None) -> None:
        self._max_keys_per_item = max_keys_per_item
        self._num_items = _ITEMS_PER_PROCESSOR * (
            torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
        )

    def begin(
        self, cache: KVCache, new_slots: np.ndarray, rows: Sequence[AttentionRow], num_heads: int
    ) -> AttentionStep:
        num_kv_heads = cache.keys.shape[2]
        num_shared = num_heads // num_kv_heads
        num_queries = np.array([row.num_queries for row in rows])
        num_keys = np.array([row.num_keys for row in rows])
        num_blocks = -(-num_keys // cache.block_tokens)
        first_tokens, table_starts = _starts(num_queries), _starts(num_blocks)
        tables = np.concatenate([row.blocks[:count] for row, count in zip(rows, num_blocks, strict=True)])

        sizes, plans = [], []
        for tile_queries, chosen in _tile_sizes(num_queries, num_shared, cache.keys.dtype):
            tile_tokens = tile_queries // num_shared
            bound = self._max_keys_per_item or keys_per_item(
                num_queries[chosen], num_keys[chosen], tile_tokens, max(1, self._num_items // num_kv_heads)
            )
            plan = WorkPlan.of(
                num_queries[chosen],
                num_keys[chosen],
                first_tokens[chosen],
                table_starts[chosen],
                tile_tokens,
                bound,
            )
            sizes.append(tile_queries)
            plans.append(plan)
        new, blocks, *work = copy_to_device(
            [new_slots, tables, *(array for plan in plans for array in (plan.items, plan.merges))],
            cache.keys.device,
        )
        launches = [
            _Launch(tile_queries, items, merges, plan.num_parts)
            for tile_queries, items, merges, plan in zip(sizes, work[::2], work[1::2], plans, strict=True)
        ]
        return _PagedStep(cache, new.long(), blocks, launches)


@dataclass(frozen=True, eq=False)
class _Launch:
    """Work on tiles of one size: `tile_queries` queries, counting each query head that shares a key head."""

    tile_queries: int
    items: torch.Tensor
    merges: torch.Tensor
    num_parts: int


class _PagedStep:
    def __init__(
        self, cache: KVCache, new_slots: torch.Tensor, tables: torch.Tensor, launches: Sequence[_Launch]
    ) -> None:
        self._cache = cache
        self._new_slots = new_slots
        self._tables = tables
        num_kv_heads, head_dim = cache.keys.shape[2:]
        self._padded_dim = max(16, triton.next_power_of_2(head_dim))
        # One scratch for all layers: they follow one another.
        self._launches = []
        for launch in launches:
            part_sums = torch.empty(
                launch.num_parts, num_kv_heads, launch.tile_queries, device=cache.keys.device
            )
            self._launches.append(
                (launch, part_sums, part_sums.new_empty(*part_sums.shape, self._padded_dim))
            )

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        cache = self._cache
        cache.write(layer, self._new_slots, key[0].transpose(0, 1), value[0].transpose(0, 1))
        keys, values = cache.keys[layer], cache.values[layer]
        num_heads, num_tokens, head_dim = query.shape[1:]
        num_kv_heads = keys.shape[1]
        output = query.new_empty(1, num_tokens, num_heads, head_dim)
        if query.stride(3) != 1:
            query = query.contiguous()
        shape = {
            "NUM_SHARED": num_heads // num_kv_heads,
            "HEAD_DIM": head_dim,
            "PADDED_DIM": self._padded_dim,
        }
        for launch, part_sums, part_outputs in self._launches:
            attend_items[len(launch.items), num_kv_heads](
                query,
                keys,
                values,
                output,
                part_outputs,
                part_sums,
                launch.items,
                self._tables,
                scaling * _LOG2_E,
                query.stride(2),
                query.stride(1),
                keys.stride(0),
                keys.stride(1),
                **shape,
                BLOCK_TOKENS=cache.block_tokens,
                TILE_QUERIES=launch.tile_queries,
                **_tuning(launch.tile_queries, keys.dtype),
            )
            if launch.num_parts:
                merge_parts[len(launch.merges), num_kv_heads](
                    output,
                    part_outputs,
                    part_sums,
                    launch.merges,
                    **shape,
                    TILE_QUERIES=launch.tile_queries,
                )
        return output


def _tile_sizes(num_queries: np.ndarray, num_shared: int, dtype: torch.dtype) -> list[tuple[int, np.ndarray]]:
    """Tile sizes, and which rows are cut into tiles of each; sizes that no row takes are left out.

    The smallest tile that a tensor core takes holds a decode row; larger ones read keys less often.
    """
    least = max(16, triton.next_power_of_2(num_shared))
    # There are not registers enough for large tiles of float32.
    large = max(least, 128 if dtype.itemsize == 2 else 16)
    is_small = num_queries * num_shared <= least
    sizes = [(least, is_small), (large, ~is_small)]
    return [(size, chosen) for size, chosen in sizes if chosen.any()]


def _tuning(tile_queries: int, dtype: torch.dtype) -> dict[str, int]:
    """Settings under which nothing spills from registers at head_dim 128 on the architectures of 2020 to 2025."""
    if dtype.itemsize > 2:
        return {"TILE_KEYS": 32, "num_warps": 8, "num_stages": 2}
    if tile_queries > 64:
        return {"TILE_KEYS": 64, "num_warps": 8, "num_stages": 2}
    return {"TILE_KEYS": 64, "num_warps": 4, "num_stages": 3}


def _starts(lengths: np.ndarray) -> np.ndarray:
    starts: np.ndarray = np.cumsum(lengths) - lengths
    return starts
