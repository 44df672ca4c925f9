import random

import pytest

from services.ingest.backoff import GOOD_AFTER_S, Backoff


def backoff(seed: int = 0, **values: float) -> Backoff:
    return Backoff(**{"min_s": 1.0, "max_s": 30.0, "hopeless_s": 60.0, **values}, rng=random.Random(seed))


def test_waits_are_spread_below_a_bound_that_doubles_up_to_the_maximum():
    waits = [[backoff.next_s() for _ in range(8)] for backoff in map(backoff, range(300))]
    for failure, bound_s in enumerate([1, 2, 4, 8, 16, 30, 30, 30]):
        of_this_failure = [row[failure] for row in waits]
        assert 0 <= min(of_this_failure) <= 0.1 * bound_s
        assert 0.9 * bound_s <= max(of_this_failure) <= bound_s


def test_never_gives_up():
    patient = backoff()
    assert all(patient.next_s() <= 30 for _ in range(2000))


def test_frames_for_long_enough_begin_it_anew():
    recovered = backoff()
    for _ in range(10):
        recovered.next_s()
    recovered.good_for(GOOD_AFTER_S)
    assert recovered.next_s() <= 1


def test_frames_for_a_moment_do_not():
    flapping = [backoff(seed) for seed in range(100)]
    for one in flapping:
        for _ in range(10):
            one.next_s()
            one.good_for(GOOD_AFTER_S - 1)
    assert max(one.next_s() for one in flapping) > 20


def test_a_hopeless_failure_waits_long_at_once_and_leaves_the_quick_lane_as_it_was():
    hopeless = backoff()
    assert all(48 <= hopeless.next_s(hopeless=True) <= 72 for _ in range(20))
    assert hopeless.next_s() <= 1


def test_a_minimum_above_the_maximum_is_refused():
    with pytest.raises(ValueError, match="backoff_min_s"):
        backoff(min_s=5.0, max_s=1.0)
