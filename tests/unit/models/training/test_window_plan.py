import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.training.window_plan import Window, cut, pack


@given(st.integers(1, 300), st.integers(0, 299), st.integers(2, 60), st.integers(0, 59))
def test_each_live_round_is_learnt_once_and_behind_enough_context(
    num_rounds: int, first_live: int, window_rounds: int, overlap: int
) -> None:
    first_live, overlap = first_live % num_rounds, overlap % window_rounds
    learnt = []
    for first, length, num_context in cut(num_rounds, first_live, window_rounds, overlap):
        assert 1 <= length <= window_rounds and first + length <= num_rounds
        learnt += range(first + num_context, first + length)
        assert num_context >= min(overlap, first)  # less only where the session has no more past
    assert learnt == list(range(first_live, num_rounds))


def test_past_rounds_fill_what_live_ones_leave() -> None:
    assert list(cut(60, 50, 120, 30)) == [(0, 60, 50)]
    assert list(cut(310, 300, 120, 30)) == [(190, 120, 110)]
    assert next(cut(310, 100, 120, 30)) == (70, 120, 30)


def windows(lengths: list[int]) -> list[Window]:
    return [Window(index, 0, 0, 1, 0, length) for index, length in enumerate(lengths)]


@given(st.lists(st.integers(1, 100), min_size=1, max_size=300), st.integers(0, 5))
def test_packs_hold_every_window_once_within_the_bound(lengths: list[int], seed: int) -> None:
    packs = pack(windows(lengths), 100, seed)
    assert sorted(window.sample for members in packs for window in members) == list(range(len(lengths)))
    assert all(sum(window.num_tokens for window in members) <= 100 for members in packs)
    assert packs == pack(windows(lengths), 100, seed)


def test_little_room_is_left_over() -> None:
    lengths = [10 + 7 * index % 60 for index in range(400)]
    packs = pack(windows(lengths), 200, seed=0)
    assert sum(lengths) / (200 * len(packs)) > 0.9
    assert packs != pack(windows(lengths), 200, seed=1)
    with pytest.raises(ValueError, match="has 69 tokens, max_tokens is 60"):
        pack(windows(lengths), 60, seed=0)
