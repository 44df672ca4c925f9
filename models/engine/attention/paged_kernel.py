"""Triton kernels of paged attention. What the integers in `items` and `merges` mean: see `work_plan.py`."""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _fold(
    best,
    total,
    mean,
    queries,
    keys,
    values,
    table,
    start,
    end_key,
    last_keys,
    scale,
    cache_stride_slot,
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    TILE_KEYS: tl.constexpr,
    IS_MASKED: tl.constexpr,
):
    """The next keys of a tile: what was best, the sum and the mean with them. Not masked, all of them are seen."""
    places = start + tl.arange(0, TILE_KEYS)
    dims = tl.arange(0, PADDED_DIM)
    if IS_MASKED:
        is_key = places < end_key
        block = tl.load(table + places // BLOCK_TOKENS, mask=is_key, other=0)
    else:
        block = tl.load(table + places // BLOCK_TOKENS)
    slots = block.to(tl.int64) * BLOCK_TOKENS + places % BLOCK_TOKENS
    offsets = (slots * cache_stride_slot)[:, None] + dims[None, :]
    if IS_MASKED:
        is_loaded = is_key[:, None] & (dims < HEAD_DIM)[None, :]
        key = tl.load(keys + offsets, mask=is_loaded, other=0.0)
        value = tl.load(values + offsets, mask=is_loaded, other=0.0)
    elif HEAD_DIM == PADDED_DIM:
        key = tl.load(keys + offsets)
        value = tl.load(values + offsets)
    else:
        key = tl.load(keys + offsets, mask=(dims < HEAD_DIM)[None, :], other=0.0)
        value = tl.load(values + offsets, mask=(dims < HEAD_DIM)[None, :], other=0.0)
    scores = tl.dot(queries, tl.trans(key), input_precision="ieee") * scale
    if IS_MASKED:
        scores = tl.where(is_key[None, :] & (places[None, :] <= last_keys[:, None]), scores, float("-inf"))
    new_best = tl.maximum(best, tl.max(scores, 1))
    if IS_MASKED:
        # A query may see none of these keys; -inf less -inf would be no number.
        reference = tl.where(new_best == float("-inf"), 0.0, new_best)
    else:
        reference = new_best
    weights = tl.exp2(scores - reference[:, None])
    fading = tl.exp2(best - reference)
    total = total * fading + tl.sum(weights, 1)
    mean = tl.dot(weights.to(value.dtype), value, mean * fading[:, None], input_precision="ieee")
    return new_best, total, mean


@triton.jit
def attend_items(
    query,
    keys,
    values,
    output,
    part_outputs,
    part_sums,
    items,
    tables,
    scale,
    query_stride_token,
    query_stride_head,
    cache_stride_slot,
    cache_stride_head,
    NUM_SHARED: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    TILE_QUERIES: tl.constexpr,
    TILE_KEYS: tl.constexpr,
):
    """One item for one key head: a tile of queries over a stretch of one session's keys.

    Row r of the tile is query head r % NUM_SHARED (of those that share the key head) of token r // NUM_SHARED.
    Softmax is carried along in base 2; `scale` holds the factor. The result goes into `output` or, if the
    keys of the tile are split between items, into the item's part with the log2 of its sum. An item without tokens
    does nothing.
    """
    item = items + tl.program_id(0) * 7
    first_token = tl.load(item)
    num_tokens = tl.load(item + 1)
    if num_tokens == 0:
        return
    first_last_key = tl.load(item + 2)
    first_key = tl.load(item + 3)
    end_key = tl.load(item + 4)
    table = tables + tl.load(item + 5)
    part = tl.load(item + 6)
    key_head = tl.program_id(1)
    num_key_heads = tl.num_programs(1)

    rows = tl.arange(0, TILE_QUERIES)
    dims = tl.arange(0, PADDED_DIM)
    is_row = rows < num_tokens * NUM_SHARED
    is_dim = dims < HEAD_DIM
    tokens = first_token + rows // NUM_SHARED
    heads = key_head * NUM_SHARED + rows % NUM_SHARED
    last_keys = first_last_key + rows // NUM_SHARED
    queries = tl.load(
        query
        + (tokens.to(tl.int64) * query_stride_token + heads * query_stride_head)[:, None]
        + dims[None, :],
        mask=is_row[:, None] & is_dim[None, :],
        other=0.0,
    )

    best = tl.full([TILE_QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([TILE_QUERIES], tl.float32)
    mean = tl.zeros([TILE_QUERIES, PADDED_DIM], tl.float32)
    keys += key_head * cache_stride_head
    values += key_head * cache_stride_head
    # Of nearly all keys every query sees every one; only the last ones have to be looked at one by one.
    num_seen = tl.maximum(tl.minimum(end_key, first_last_key + 1) - first_key, 0)
    end_seen = first_key + num_seen // TILE_KEYS * TILE_KEYS
    for is_masked in tl.static_range(2):
        begin = end_seen if is_masked else first_key
        end = end_key if is_masked else end_seen
        for start in range(begin, end, TILE_KEYS):
            best, total, mean = _fold(
                best,
                total,
                mean,
                queries,
                keys,
                values,
                table,
                start,
                end_key,
                last_keys,
                scale,
                cache_stride_slot,
                HEAD_DIM,
                PADDED_DIM,
                BLOCK_TOKENS,
                TILE_KEYS,
                is_masked,
            )

    total = tl.where(total == 0.0, 1.0, total)
    mean = mean / total[:, None]
    if part < 0:
        places_out = (tokens.to(tl.int64) * num_key_heads * NUM_SHARED + heads)[:, None] * HEAD_DIM + dims[
            None, :
        ]
        tl.store(
            output + places_out,
            mean.to(output.dtype.element_ty),
            mask=is_row[:, None] & is_dim[None, :],
        )
    else:
        part_rows = (part.to(tl.int64) * num_key_heads + key_head) * TILE_QUERIES + rows
        tl.store(part_outputs + part_rows[:, None] * PADDED_DIM + dims[None, :], mean)
        tl.store(part_sums + part_rows, best + tl.log2(total))


@triton.jit
def merge_parts(
    output,
    part_outputs,
    part_sums,
    merges,
    NUM_SHARED: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    TILE_QUERIES: tl.constexpr,
):
    """One tile whose keys were split, for one key head: the parts, each by its share of the sum."""
    merge = merges + tl.program_id(0) * 4
    first_token = tl.load(merge)
    num_tokens = tl.load(merge + 1)
    if num_tokens == 0:
        return
    first_part = tl.load(merge + 2)
    end_part = tl.load(merge + 3)
    key_head = tl.program_id(1)
    num_key_heads = tl.num_programs(1)

    rows = tl.arange(0, TILE_QUERIES)
    dims = tl.arange(0, PADDED_DIM)
    part_stride = num_key_heads.to(tl.int64) * TILE_QUERIES
    best = tl.full([TILE_QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([TILE_QUERIES], tl.float32)
    mean = tl.zeros([TILE_QUERIES, PADDED_DIM], tl.float32)
    for part in range(first_part, end_part):
        part_rows = part * part_stride + key_head * TILE_QUERIES + rows
        sums = tl.load(part_sums + part_rows)
        new_best = tl.maximum(best, sums)
        reference = tl.where(new_best == float("-inf"), 0.0, new_best)
        weight = tl.exp2(sums - reference)
        fading = tl.exp2(best - reference)
        total = total * fading + weight
        part_mean = tl.load(part_outputs + part_rows[:, None] * PADDED_DIM + dims[None, :])
        mean = mean * fading[:, None] + part_mean * weight[:, None]
        best = new_best

    mean = mean / tl.where(total == 0.0, 1.0, total)[:, None]
    tokens = (first_token + rows // NUM_SHARED).to(tl.int64)
    heads = key_head * NUM_SHARED + rows % NUM_SHARED
    is_row = rows < num_tokens * NUM_SHARED
    tl.store(
        output + (tokens * num_key_heads * NUM_SHARED + heads)[:, None] * HEAD_DIM + dims[None, :],
        mean.to(output.dtype.element_ty),
        mask=is_row[:, None] & (dims < HEAD_DIM)[None, :],
    )
