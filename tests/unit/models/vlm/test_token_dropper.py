import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.vlm.token_dropper import TokenDropper

GRID = (2, 3)


def change_of(tokens: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    return (tokens - kept).norm(dim=1) / kept.norm(dim=1)


@settings(max_examples=60, deadline=None)
@given(
    max_change=st.sampled_from([0.0, 0.05, 0.3]),
    max_age_frames=st.integers(1, 6),
    drift=st.sampled_from([0.0, 0.02, 0.2]),
    seed=st.integers(0, 10**6),
)
def test_the_last_window_always_shows_every_place_as_it_nearly_is(
    max_change: float, max_age_frames: int, drift: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    dropper = TokenDropper(max_change, max_age_frames)
    tokens = torch.randn(6, 8, generator=generator)
    shown, shown_at = torch.empty(6, 8), np.full(6, -(10**6))
    num_kept = []
    for frame in range(20):
        moving = torch.rand(6, 1, generator=generator) < 0.3
        tokens = tokens + drift * moving * torch.randn(6, 8, generator=generator)
        kept = dropper.keep(tokens, GRID)
        assert kept.dtype == bool
        assert kept.any()
        shown[kept], shown_at[kept] = tokens[kept], frame
        num_kept.append(int(kept.sum()))
        assert (frame - shown_at < max_age_frames).all(), "a window of that many rounds has lost a place"
        assert (change_of(tokens, shown) <= max_change + 1e-6).all()
    assert num_kept[0] == 6
    if drift == 0 and max_age_frames == 6:
        assert min(num_kept) == 1, "a still scene is not dropped"


def test_slow_change_is_not_missed() -> None:
    dropper = TokenDropper(max_change=0.1, max_age_frames=1000)
    start = torch.ones(6, 4)
    dropper.keep(start, GRID)
    step = torch.zeros(6, 4)
    step[2] = 0.04  # a share of 0.04 from frame to frame: below the bound
    step[5] = 1.0  # so that no token has to be kept for want of another
    kept = [dropper.keep(start + index * step, GRID) for index in range(1, 9)]
    assert [bool(frame[2]) for frame in kept] == [index % 3 == 0 for index in range(1, 9)]


def test_another_grid_is_kept_whole() -> None:
    dropper = TokenDropper(0.5, 100)
    for grid in (GRID, (3, 2), (1, 1), GRID):
        assert dropper.keep(torch.ones(grid[0] * grid[1], 4), grid).all()
    assert dropper.keep(torch.ones(6, 4), GRID).sum() == 1


def test_what_it_was_given_may_change_afterwards() -> None:
    dropper = TokenDropper(0.0, 100)
    tokens = torch.ones(6, 4)
    dropper.keep(tokens, GRID)
    tokens[4] += 1
    assert np.flatnonzero(dropper.keep(tokens, GRID)).tolist() == [4]


def test_bad_arguments_are_refused() -> None:
    for max_change in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match="max_change"):
            TokenDropper(max_change, 10)
    with pytest.raises(ValueError, match="max_age_frames"):
        TokenDropper(0.1, 0)
    with pytest.raises(ValueError, match="do not fill"):
        TokenDropper(0.1, 10).keep(torch.ones(5, 4), GRID)
