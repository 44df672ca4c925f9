"""Open-loop arrivals on a clock of the test's own."""

from collections.abc import Sequence

import numpy as np
import pytest

from tests.bench.arrivals import Decided, Trial, most_streams, run_trial


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.now_s += seconds


class SlowServer:
    """Takes `step_s` for each round, and lets at most `max_pending` of a stream wait."""

    def __init__(self, clock: Clock, step_s: float, max_pending: int = 4) -> None:
        self._clock = clock
        self._step_s = step_s
        self._max_pending = max_pending
        self._waiting: list[int] = []

    def offer(self, streams: Sequence[int], arrival_s: Sequence[float]) -> list[bool]:
        assert all(at_s <= self._clock() for at_s in arrival_s)
        taken = []
        for stream in streams:
            taken.append(self._waiting.count(stream) < self._max_pending)
            if taken[-1]:
                self._waiting.append(stream)
        return taken

    @property
    def has_work(self) -> bool:
        return bool(self._waiting)

    def step(self) -> list[Decided]:
        self._clock.now_s += self._step_s
        return [Decided(self._waiting.pop(0))]


def trial(num_streams: int, step_s: float, duration_s: float = 20.0) -> Trial:
    clock = Clock()
    server = SlowServer(clock, step_s)
    return run_trial(server, num_streams, duration_s, np.random.default_rng(0), clock, clock.sleep)


def test_every_stream_has_a_frame_a_second() -> None:
    result = trial(num_streams=3, step_s=0.001)
    assert (result.num_decided, result.num_shed) == (60, 0)
    assert result.busy_share == pytest.approx(60 * 0.001 / 20, rel=0.1)


def test_latency_counts_from_the_arrival_not_from_when_it_was_noticed() -> None:
    alone = trial(num_streams=1, step_s=0.25)
    assert alone.max_ms == pytest.approx(250)
    # Steps of 0.7 s for two frames a second: each is longer late than the last, until some are shed.
    late = trial(num_streams=2, step_s=0.7)
    assert late.max_ms > 5000
    assert late.num_shed > 0
    assert late.num_decided + late.num_shed == 40


def test_the_search_ends_at_the_most_streams_that_hold() -> None:
    # Ten rounds a second fit.
    trials = most_streams(lambda number: trial(number, step_s=0.1), 300.0, first=2, at_most=64)
    held = [one.num_streams for one in trials if one.holds(300.0)]
    failed = [one.num_streams for one in trials if not one.holds(300.0)]
    assert max(held) + 1 == min(failed)
    assert 5 <= max(held) <= 10


def test_the_search_stops_at_its_bound_and_at_none() -> None:
    easy = most_streams(lambda number: trial(number, step_s=0.0001), 300.0, first=2, at_most=16)
    assert [one.num_streams for one in easy] == [2, 4, 8, 16]
    hopeless = most_streams(lambda number: trial(number, step_s=2.0), 300.0, first=2, at_most=16)
    assert [one.num_streams for one in hopeless] == [2, 1]
