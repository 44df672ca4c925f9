"""The matching against every matching there is."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from models.evaluation.matching import best_matching, match_times


def all_matchings(num_rows, num_columns):
    for size in range(min(num_rows, num_columns) + 1):
        for rows in itertools.combinations(range(num_rows), size):
            for columns in itertools.permutations(range(num_columns), size):
                yield list(zip(rows, columns, strict=True))


SHAPES = st.tuples(st.integers(0, 5), st.integers(0, 5))


@st.composite
def weight_tables(draw):
    rows, columns = draw(SHAPES)
    values = draw(st.lists(st.integers(-2, 6), min_size=rows * columns, max_size=rows * columns))
    return np.array(values, dtype=float).reshape(rows, columns)


@settings(max_examples=150, deadline=None)
@given(weight_tables())
def test_no_matching_is_worth_more(weights):
    pairs = best_matching(weights)
    assert len({row for row, _ in pairs}) == len({column for _, column in pairs}) == len(pairs)
    assert all(weights[pair] > 0 for pair in pairs)
    best = max(sum(weights[pair] for pair in one) for one in all_matchings(*weights.shape))
    assert sum(weights[pair] for pair in pairs) == best


TIMES = st.lists(st.integers(0, 12), max_size=5)


@settings(max_examples=150, deadline=None)
@given(TIMES, TIMES, st.sets(st.tuples(st.integers(0, 4), st.integers(0, 4))))
def test_most_pairs_first_then_the_nearest(told, gold, misfits):
    def fits(i, j):
        return (i, j) not in misfits

    pairs = match_times(told, gold, 3, fits)
    allowed = [
        one
        for one in all_matchings(len(told), len(gold))
        if all(abs(told[i] - gold[j]) <= 3 and fits(i, j) for i, j in one)
    ]
    best = max((len(one), -sum(abs(told[i] - gold[j]) for i, j in one)) for one in allowed)
    assert pairs in allowed
    assert (len(pairs), -sum(abs(told[i] - gold[j]) for i, j in pairs)) == best


def test_the_nearest_pair_is_given_up_where_that_makes_two():
    # The first found nearest pair (1500, 1000) would leave the gold at 3000 and the told one at 0 alone.
    assert match_times([1500, 0], [1000, 3000], 2000) == [(0, 1), (1, 0)]


def test_streams_of_thousands_fall_apart_into_small_problems():
    times = list(range(0, 1_500_000, 1500))
    assert match_times(times, [time + 400 for time in times], 2000) == [(i, i) for i in range(len(times))]
