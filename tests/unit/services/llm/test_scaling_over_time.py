"""Hours of load through Ray Serve's own delays and bounds: no flapping, in time, never below what holds the load."""

import math
import random
from itertools import pairwise

import pytest
from support.simulated_fleet import TICK_S, Moment, SimulatedFleet, Trace

from services.shared.settings import Settings

PARTITIONS = 16
MAX_SESSIONS = 64
HOUR_S = 3600.0
# A replica's next word is up to 10 s away; Serve waits 30 s.
REACTION_S = TICK_S + 30 + TICK_S


def fleet(monkeypatch: pytest.MonkeyPatch, work: float = 0.0, **llm: object) -> SimulatedFleet:
    settings = Settings.model_validate(
        {"kafka": {"partitions": PARTITIONS}, "llm": {"max_replicas": 8, "max_sessions": MAX_SESSIONS, **llm}}
    )
    return SimulatedFleet(settings, monkeypatch, work=work)


def evenly(sessions: float) -> list[int]:
    few, more = divmod(round(sessions), PARTITIONS)
    return [few + (number < more) for number in range(PARTITIONS)]


def changes(moments: list[Moment]) -> list[tuple[float, int]]:
    """(when, to how many)"""
    return [(now.at_s, now.wanted) for before, now in pairwise(moments) if now.wanted != before.wanted]


def wanted_at(moments: list[Moment], at_s: float) -> int:
    return next(moment.wanted for moment in moments if moment.at_s >= at_s)


def test_a_step_up_is_answered_in_one_step_and_a_step_down_one_at_a_time(monkeypatch: pytest.MonkeyPatch):
    moments = fleet(monkeypatch).run(lambda t: evenly(200 if 600 < t < 2 * HOUR_S else 40), 4 * HOUR_S)
    (up_s, up), *down = changes(moments)
    assert up == 4
    assert 600 < up_s <= 600 + REACTION_S
    assert [number for _, number in down] == [3, 2, 1]
    assert all(later - earlier >= 600 for (earlier, _), (later, _) in pairwise([(2 * HOUR_S, 4), *down]))
    # Once the replicas have started there is room for all.
    assert not any(moment.waiting for moment in moments if moment.at_s > up_s + 60)


def test_a_slow_ramp_is_followed_before_anything_has_to_wait(monkeypatch: pytest.MonkeyPatch):
    moments = fleet(monkeypatch).run(lambda t: evenly(20 + 380 * t / (3 * HOUR_S)), 3 * HOUR_S)
    assert [number for _, number in changes(moments)] == [2, 3, 4, 5, 6, 7, 8]
    assert not any(moment.waiting for moment in moments)


def test_days_and_nights_bring_each_number_once_up_and_once_down(monkeypatch: pytest.MonkeyPatch):
    day_s = 4 * HOUR_S  # shorter than a real one, and so harder
    moments = fleet(monkeypatch).run(
        lambda t: evenly(160 - 120 * math.cos(2 * math.pi * t / day_s)), 2 * day_s
    )
    per_day = [number for at_s, number in changes(moments) if at_s <= day_s]
    assert max(per_day) == 6
    assert len(per_day) <= 2 * (6 - 1)
    assert len(changes(moments)) <= 4 * (6 - 1)
    assert not any(moment.waiting for moment in moments)


@pytest.mark.parametrize("mean", [51, 80, 102, 128, 153])
def test_noise_around_a_threshold_does_not_make_it_flap(monkeypatch: pytest.MonkeyPatch, mean: int):
    draws = random.Random(mean)
    moments = fleet(monkeypatch).run(lambda _: evenly(max(0.0, draws.gauss(mean, mean / 10))), 3 * HOUR_S)
    assert len(changes(moments)) <= math.ceil(mean / (0.8 * MAX_SESSIONS)) + 1
    settled = [number for at_s, number in changes(moments) if at_s > 0.5 * HOUR_S]
    assert settled == sorted(settled), "what was added is not taken away again"


def test_bursts_shorter_than_the_delay_change_nothing(monkeypatch: pytest.MonkeyPatch):
    moments = fleet(monkeypatch).run(lambda t: evenly(60 if t % 300 < 10 else 30), HOUR_S)
    assert changes(moments) == []


def test_there_are_never_more_replicas_than_partitions_or_than_allowed(monkeypatch: pytest.MonkeyPatch):
    assert max(m.wanted for m in fleet(monkeypatch).run(lambda t: evenly(5000), HOUR_S)) == 8
    settings = Settings.model_validate(
        {"kafka": {"partitions": 4}, "llm": {"max_replicas": 8, "max_sessions": 8}}
    )
    few = SimulatedFleet(settings, monkeypatch).run(lambda t: [50] * 4, HOUR_S)
    assert [number for _, number in changes(few)] == [4]


def test_sessions_on_few_partitions_are_spread_until_that_helps_no_more(monkeypatch: pytest.MonkeyPatch):
    heavy: Trace = lambda t: [30, 30, 30, *[0] * 13]  # noqa: E731
    moments = fleet(monkeypatch).run(heavy, 3 * HOUR_S)
    assert not moments[-1].waiting
    assert changes(moments)[-1][0] < 0.5 * HOUR_S
    assert all(later > earlier for (_, earlier), (_, later) in pairwise(changes(moments))), "no way back down"


def test_work_without_sessions_to_speak_of_scales_too(monkeypatch: pytest.MonkeyPatch):
    """Each session takes 4 % of a replica: 15 are a replica's target, and 25 all of its time."""
    moments = fleet(monkeypatch, work=0.04).run(
        lambda t: evenly(40 if 600 < t < 2 * HOUR_S else 10), 4 * HOUR_S
    )
    (up_s, _), *_ = changes(moments)
    assert up_s <= 600 + REACTION_S + 30  # utilisation is a mean over 30 s
    assert wanted_at(moments, HOUR_S) in (3, 4)
    assert moments[-1].wanted == 1
    assert len(changes(moments)) <= 6
    # The new ones have caught up, and it stays so while the load does and when replicas leave again.
    assert not any(moment.lag_s for moment in moments if moment.at_s > up_s + 180)
