"""Every query meets every key that it may see, once."""

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from models.engine.attention.work_plan import MIN_SPLIT_KEYS, WorkPlan, keys_per_item

LENGTHS = st.lists(
    st.tuples(st.integers(1, 40), st.integers(0, 90)).map(lambda pair: (pair[0], sum(pair))),
    min_size=1,
    max_size=4,
)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(lengths=LENGTHS, tile_tokens=st.integers(1, 20), keys_per_item=st.integers(1, 90))
def test_every_pair_of_query_and_key_is_in_one_item(
    lengths: list[tuple[int, int]], tile_tokens: int, keys_per_item: int
) -> None:
    num_queries, num_keys = np.array(lengths).T
    first_tokens = np.cumsum(num_queries) - num_queries + 3
    table_starts = 1000 * np.arange(len(lengths))
    plan = WorkPlan.of(num_queries, num_keys, first_tokens, table_starts, tile_tokens, keys_per_item)

    pairs: Counter[tuple[int, int, int]] = Counter()
    tokens_of_part: dict[int, tuple[int, int]] = {}
    for first_token, num_tokens, last_key, first_key, end_key, table_start, part in plan.items.tolist():
        assert 1 <= num_tokens <= tile_tokens
        assert 1 <= end_key - first_key <= keys_per_item
        assert end_key <= last_key + num_tokens  # beyond it the row may have no blocks
        for token in range(num_tokens):
            for key in range(first_key, min(end_key, last_key + token + 1)):
                pairs[table_start, first_token + token, key] += 1
        if part >= 0:
            assert part not in tokens_of_part
            tokens_of_part[part] = (first_token, num_tokens)
    expected = Counter(
        (table_start, first_token + query, key)
        for (queries, keys), first_token, table_start in zip(
            lengths, first_tokens.tolist(), table_starts.tolist(), strict=True
        )
        for query in range(queries)
        for key in range(keys - queries + query + 1)
    )
    assert pairs == expected

    assert sorted(tokens_of_part) == list(range(plan.num_parts))
    merged: list[int] = []
    for first_token, num_tokens, first_part, end_part in plan.merges.tolist():
        assert end_part - first_part > 1
        for part in range(first_part, end_part):
            assert tokens_of_part[part] == (first_token, num_tokens)
            merged.append(part)
    assert merged == list(range(plan.num_parts))


def test_keys_are_split_only_as_far_as_it_fills_the_device() -> None:
    one_decode = (np.array([1]), np.array([18_000]))
    assert keys_per_item(*one_decode, tile_tokens=2, num_items=30) == 600
    # Never into stretches that are not worth it.
    assert keys_per_item(*one_decode, tile_tokens=2, num_items=500) == MIN_SPLIT_KEYS
    # A full device: an item a tile.
    many = (np.full(100, 150), np.full(100, 18_000))
    bound = keys_per_item(*many, tile_tokens=18, num_items=132)
    assert bound > 18_000
    assert WorkPlan.of(*many, np.arange(100) * 150, np.arange(100), 18, bound).num_parts == 0
