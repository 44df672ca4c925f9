"""Attention on a GPU that reads keys and values where they lie, through the sessions' block tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import triton

from models.engine.attention.interface import AttentionRow, AttentionStep
from models.engine.attention.paged_kernel import attend_items, merge_parts
from models.engine.attention.work_plan import WorkPlan, keys_per_item
from models.engine.device_copy import copy_to_device, packed_size, unpacked
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
        """Items, counting each key head's, that fill the device."""

    def begin(
        self, cache: KVCache, new_slots: np.ndarray, rows: Sequence[AttentionRow], num_heads: int
    ) -> AttentionStep:
        tables, plans = self._plan(cache, rows, num_heads)
        new, blocks, *work = copy_to_device(
            [new_slots, tables, *(array for plan in plans.values() for array in (plan.items, plan.merges))],
            cache.keys.device,
        )
        launches = [
            _Launch(tile_queries, items, merges, plan.num_parts)
            for (tile_queries, plan), items, merges in zip(plans.items(), work[::2], work[1::2], strict=True)
        ]
        return _PagedStep(cache, new.long(), blocks, launches)

    def fixed(
        self, cache: KVCache, new_slots: torch.Tensor, max_rows: int, num_heads: int, *, one_query: bool
    ) -> FixedPagedStep:
        """Where the device reads one step after another: for up to `max_rows` rows, whose tokens go to `new_slots`,
        int64 [T] on the device. `one_query`: one of each row asks; else all tokens may."""
        num_kv_heads = cache.keys.shape[2]
        num_shared = num_heads // num_kv_heads
        small, large = _tile_queries(num_shared, cache.keys.dtype)
        num_tokens = len(new_slots)
        num_rows = min(max_rows, num_tokens)
        num_tiles = {small: num_rows}
        # Only rows of more tokens than a small tile holds take several or a large one.
        num_long = min(num_rows, num_tokens // (small // num_shared + 1))
        if num_long and not one_query:
            num_tiles[large] = num_tiles.get(large, 0) + num_tokens // (large // num_shared) + num_long
        capacities = {
            tile_queries: (self._most_items(cache, tiles), tiles) for tile_queries, tiles in num_tiles.items()
        }
        return FixedPagedStep(self, cache, new_slots, num_heads, capacities)

    def _plan(
        self, cache: KVCache, rows: Sequence[AttentionRow], num_heads: int
    ) -> tuple[np.ndarray, dict[int, WorkPlan]]:
        """The rows' block tables one behind the other, and the work on tiles of each size."""
        num_kv_heads = cache.keys.shape[2]
        num_shared = num_heads // num_kv_heads
        num_queries = np.array([row.num_queries for row in rows])
        num_keys = np.array([row.num_keys for row in rows])
        num_blocks = -(-num_keys // cache.block_tokens)
        first_tokens, table_starts = _starts(num_queries), _starts(num_blocks)
        tables = np.concatenate([row.blocks[:count] for row, count in zip(rows, num_blocks, strict=True)])
        small, large = _tile_queries(num_shared, cache.keys.dtype)
        is_small = (num_queries * num_shared <= small) | (small == large)
        plans = {}
        for tile_queries, chosen in ((small, is_small), (large, ~is_small)):
            if not chosen.any():
                continue
            tile_tokens = tile_queries // num_shared
            bound = self._max_keys_per_item or keys_per_item(
                num_queries[chosen], num_keys[chosen], tile_tokens, self._items_per_head(num_kv_heads)
            )
            plans[tile_queries] = WorkPlan.of(
                num_queries[chosen],
                num_keys[chosen],
                first_tokens[chosen],
                table_starts[chosen],
                tile_tokens,
                bound,
            )
        return tables, plans

    def _items_per_head(self, num_kv_heads: int) -> int:
        return max(1, self._num_items // num_kv_heads)

    def _most_items(self, cache: KVCache, num_tiles: int) -> int:
        """Items that the keys of so many tiles are split into at most."""
        if self._max_keys_per_item is None:
            return num_tiles + self._items_per_head(cache.keys.shape[2])
        return num_tiles * -(-cache.num_slots // self._max_keys_per_item)


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


class FixedPagedStep:
    """A step whose inputs lie where they lay in the step before, so that a recorded graph finds them.

    `set` says what the next step is; what `begin` gives attends to whatever was set last, with as many items for every
    step as one could have. Those that it does not have do nothing.
    """

    def __init__(
        self,
        attention: PagedAttention,
        cache: KVCache,
        new_slots: torch.Tensor,
        num_heads: int,
        capacities: Mapping[int, tuple[int, int]],
    ) -> None:
        """`capacities`: items and merges of each size of tile."""
        self._attention = attention
        self._cache = cache
        self._new_slots = new_slots
        self._num_heads = num_heads
        self._work_shapes = [
            shape for items, merges in capacities.values() for shape in ((items, 7), (merges, 4))
        ]
        shapes = [*self._work_shapes, (cache.num_slots // cache.block_tokens,)]
        self._inputs = torch.zeros(packed_size(shapes), dtype=torch.int32, device=cache.keys.device)
        *work, self._tables = unpacked(self._inputs, shapes)
        self._launches = [
            _Launch(tile_queries, items, merges, len(items))
            for tile_queries, items, merges in zip(capacities, work[::2], work[1::2], strict=True)
        ]

    def set(self, rows: Sequence[AttentionRow]) -> None:
        """The next step; without rows nothing is attended to. Does not wait for the device."""
        if not rows:
            self._inputs.zero_()
            return
        tables, plans = self._attention._plan(self._cache, rows, self._num_heads)
        shapes = [*self._work_shapes, (len(tables),)]
        on_host = torch.zeros(
            packed_size(shapes), dtype=torch.int32, pin_memory=self._inputs.device.type == "cuda"
        )
        *work, packed_tables = (array.numpy() for array in unpacked(on_host, shapes))
        for launch, items, merges in zip(self._launches, work[::2], work[1::2], strict=True):
            plan = plans.get(launch.tile_queries)
            if plan is not None:
                items[: len(plan.items)] = plan.items
                merges[: len(plan.merges)] = plan.merges
        packed_tables[:] = tables
        self._inputs[: len(on_host)].copy_(on_host, non_blocking=True)

    def begin(self) -> AttentionStep:
        return _PagedStep(self._cache, self._new_slots, self._tables, self._launches)


def _tile_queries(num_shared: int, dtype: torch.dtype) -> tuple[int, int]:
    """Queries of a small and of a large tile; they may be the same.

    The smallest tile that a tensor core takes holds a decode row; larger ones read keys less often.
    """
    small = max(16, triton.next_power_of_2(num_shared))
    # There are not registers enough for large tiles of float32.
    return small, max(small, 128 if dtype.itemsize == 2 else 16)


def _tuning(tile_queries: int, dtype: torch.dtype) -> dict[str, int]:
    """Settings under which nothing spills from registers at head_dim 128 on the architectures of 2020 to 2025."""
    if dtype.itemsize > 2:
        return {"TILE_KEYS": 32, "num_warps": 8, "num_stages": 2}
    if tile_queries > 64:
        return {"TILE_KEYS": 64, "num_warps": 8, "num_stages": 3}
    return {"TILE_KEYS": 32, "num_warps": 2, "num_stages": 4}


def _starts(lengths: np.ndarray) -> np.ndarray:
    starts: np.ndarray = np.cumsum(lengths) - lengths
    return starts
