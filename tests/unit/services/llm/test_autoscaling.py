"""How many replicas there should be: every rule, and what must hold whatever the load."""

from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.llm.autoscaling import Autoscaling, ReplicaLoad, ScalingTargets

TARGETS = ScalingTargets(occupancy=0.8, utilisation=0.6, lag_s=2.0)
CAPACITY = 10


def autoscaling(num_partitions: int = 8) -> Autoscaling:
    return Autoscaling(TARGETS, num_partitions)


def load_of(sessions: list[int], work: float = 0.0) -> ReplicaLoad:
    """Of a replica with these sessions on its partitions, each of which takes so much of its time."""
    return ReplicaLoad(
        partitions=len(sessions),
        sessions=sum(sessions),
        waiting=max(0, sum(sessions) - CAPACITY),
        heaviest_sessions=max(sessions, default=0),
        capacity=CAPACITY,
        utilisation=min(1.0, sum(sessions) * work),
    )


def test_a_load_within_the_targets_changes_nothing():
    loads = [load_of([2, 2, 2, 2]), load_of([2, 2, 1, 1])]
    assert autoscaling().wanted(loads, 2) == 2


def test_sessions_beyond_the_target_bring_as_many_replicas_as_they_need():
    assert autoscaling().wanted([load_of([2, 1, 1, 1, 1, 1, 1, 0])], 1) == 1
    assert autoscaling().wanted([load_of([2, 1, 1, 1, 1, 1, 1, 1])], 1) == 2
    assert autoscaling().wanted([load_of([5] * 8)], 1) == 5


def test_busy_replicas_bring_one_more_though_there_is_room():
    loads = [
        replace(load_of([1, 0, 0, 0]), utilisation=0.65),
        replace(load_of([1, 0, 0, 0]), utilisation=0.6),
    ]
    assert autoscaling().wanted(loads, 2) == 3


def test_one_replica_that_is_behind_and_busy_brings_one_more_though_the_mean_is_low():
    late = replace(load_of([1, 0, 0, 0]), lag_s=3.0, utilisation=0.9)
    assert autoscaling().wanted([late, load_of([1, 0, 0, 0])], 2) == 3


def test_one_that_is_behind_and_idle_waits_for_something_else():
    late = replace(load_of([1, 0, 0, 0]), lag_s=3.0, utilisation=0.1)
    assert autoscaling().wanted([late, load_of([1, 0, 0, 0])], 2) == 2


def test_one_that_is_nearly_full_brings_one_more_though_the_mean_is_low():
    assert autoscaling().wanted([load_of([5, 4, 0, 0]), load_of([0, 0, 0, 1])], 2) == 2
    assert autoscaling().wanted([load_of([6, 5, 0, 0]), load_of([0, 0, 0, 1])], 2) == 3


def test_a_single_partition_cannot_be_shared_out_further():
    loads = [load_of([12]), load_of([0])]
    assert autoscaling(2).wanted(loads, 2) == 2
    assert Autoscaling(TARGETS, 3).wanted([load_of([12]), load_of([0]), load_of([0])], 3) == 3


def test_a_replica_leaves_where_the_others_hold_its_load_with_headroom():
    assert autoscaling().wanted([load_of([1, 1, 1, 0]), load_of([1, 1, 1, 0])], 2) == 1
    assert autoscaling().wanted([load_of([1, 1, 1, 1]), load_of([1, 1, 1, 0])], 2) == 2


def test_it_goes_down_by_one_at_a_time():
    assert autoscaling().wanted([load_of([0, 0]) for _ in range(4)], 4) == 3


@pytest.mark.parametrize(
    ("loads", "num_replicas", "why"),
    [
        ([load_of([0] * 4)], 2, "one has not reported"),
        ([load_of([0] * 4), load_of([0] * 3)], 2, "a partition is being taken over"),
        ([load_of([0] * 8), load_of([])], 2, "partitions are still to be shared out"),
        ([replace(load_of([0] * 4), lag_s=9.0), load_of([0] * 4)], 2, "one is behind"),
        ([replace(load_of([0] * 4), utilisation=0.5), load_of([0] * 4)], 1, "it is the last"),
    ],
)
def test_none_leaves_while(loads: list[ReplicaLoad], num_replicas: int, why: str):
    assert autoscaling().wanted(loads, num_replicas) == num_replicas, why


def test_replicas_on_their_way_are_waited_for():
    """The one that runs still has all the load; it must not bring a further replica with each look at it."""
    busy = replace(load_of([1] * 8), lag_s=5.0, utilisation=1.0)
    assert autoscaling().wanted([busy], 1) == 2
    assert autoscaling().wanted([busy], 2) == 2


def test_without_a_report_the_number_stays():
    assert autoscaling().wanted([], 3) == 3


def test_what_is_reported_comes_back_the_same():
    load = replace(load_of([3, 4]), lag_s=0.25, utilisation=0.5)
    metrics = load.metrics()
    # Serve takes nothing else, and never asks again where it gets something else.
    assert {type(value) for value in metrics.values()} == {float}
    assert ReplicaLoad.of(metrics) == load


# Whatever the load

partitions = st.lists(st.integers(0, 8), min_size=5, max_size=12)


def shared_out(sessions: list[int], num_replicas: int) -> list[list[int]]:
    return [sessions[first::num_replicas] for first in range(num_replicas)]


def after_leaving(owned: list[list[int]], leaving: int) -> list[list[list[int]]]:
    """Every way in which two others, or the first of them, may get the partitions of the one that leaves."""
    staying = [mine for number, mine in enumerate(owned) if number != leaving]
    total, given = sum(map(len, owned)), owned[leaving]
    most = -(-total // len(staying))
    ways = []
    for size in range(len(given) + 1):
        for first in combinations(range(len(given)), size):
            rest = [given[i] for i in range(len(given)) if i not in first]
            made = [staying[0] + [given[i] for i in first], *map(list, staying[1:])]
            for number in range(1, len(made)):  # the rest wherever there is a share to fill
                while rest and len(made[number]) < most:
                    made[number].append(rest.pop())
            if not rest and max(map(len, made)) <= most:
                ways.append(made)
    return ways


@given(st.lists(st.integers(0, 8), min_size=1), st.integers(1, 12), st.integers(1, 12), st.floats(0, 0.2))
def test_the_answer_is_between_one_and_the_partitions(
    sessions: list[int], running: int, num_replicas: int, work: float
):
    loads = [load_of(mine, work) for mine in shared_out(sessions, running)]
    assert 1 <= Autoscaling(TARGETS, len(sessions)).wanted(loads, num_replicas) <= len(sessions)


@given(partitions, st.integers(2, 5), st.floats(0, 0.2))
def test_after_one_has_left_all_fits_whoever_it_was_and_none_is_called_back(
    sessions: list[int], num_replicas: int, work: float
):
    policy = Autoscaling(TARGETS, len(sessions))
    owned = shared_out(sessions, num_replicas)
    if policy.wanted([load_of(mine, work) for mine in owned], num_replicas) >= num_replicas:
        return
    for leaving in range(num_replicas):
        for made in after_leaving(owned, leaving):
            loads = [load_of(mine, work) for mine in made]
            assert not any(load.waiting for load in loads)
            assert all(load.utilisation <= TARGETS.utilisation for load in loads)
            assert policy.wanted(loads, num_replicas - 1) <= num_replicas - 1


@given(partitions, st.integers(1, 5), st.integers(0, 11), st.floats(0, 0.2))
def test_a_further_session_never_makes_it_fewer(
    sessions: list[int], num_replicas: int, where: int, work: float
):
    policy = Autoscaling(TARGETS, len(sessions))
    more = [count + (number == where % len(sessions)) for number, count in enumerate(sessions)]
    before, after = (
        policy.wanted([load_of(mine, work) for mine in shared_out(counts, num_replicas)], num_replicas)
        for counts in (sessions, more)
    )
    assert after >= before
