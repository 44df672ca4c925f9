import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.media_time import FileClock, LiveClock, Pace


class Clocks:
    """A wall clock and a monotonic one, turned by hand."""

    def __init__(self, wall_us: int = 1_000_000_000, monotonic_s: float = 50.0) -> None:
        self.wall = wall_us
        self.monotonic = monotonic_s

    def go(self, seconds: float) -> None:
        self.wall += round(seconds * 1e6)
        self.monotonic += seconds

    def live(self, added_s_ago: float = 0.0, after_ms: int = -1) -> LiveClock:
        added_at_us = self.wall - round(added_s_ago * 1e6)
        return LiveClock(added_at_us, lambda: self.wall, lambda: self.monotonic, after_ms)


def test_live_time_is_wall_time_since_the_stream_was_added():
    clocks = Clocks()
    live = clocks.live(added_s_ago=2.5)
    assert live.time_ms(None) == 2500
    clocks.go(1.0)
    assert live.time_ms(None) == 3500


def test_pictures_stand_as_far_apart_as_their_pts_though_they_arrive_unevenly():
    clocks = Clocks()
    live = clocks.live()
    times = []
    for frame, delay_s in enumerate([0.0, 0.03, 0.01, 0.2, 0.0, 0.07]):
        clocks.go(delay_s)
        times.append(live.time_ms(frame * 0.1))
        clocks.go(0.1 - delay_s)
    assert times == [0, 100, 200, 300, 400, 500]


def test_pictures_that_were_waiting_when_the_source_was_opened_do_not_put_the_clock_ahead():
    clocks = Clocks()
    live = clocks.live()
    backlog = [live.time_ms(frame * 0.1) for frame in range(6)]
    assert backlog == [0, 1, 2, 3, 4, 5]
    clocks.go(0.1)
    assert live.time_ms(0.6) == 100


def test_a_jump_of_the_sources_clock_moves_nothing():
    for jump_s in (-86_400.0, 86_400.0, -3.0, 3.0):
        clocks = Clocks()
        live = clocks.live()
        live.time_ms(1000.0)
        clocks.go(0.5)
        assert live.time_ms(1000.5 + jump_s) == 500
        clocks.go(0.5)
        assert live.time_ms(1001.0 + jump_s) == 1000


def test_a_jump_of_the_wall_clock_moves_nothing():
    clocks = Clocks()
    live = clocks.live()
    live.time_ms(None)
    clocks.wall -= 3600 * 10**6
    clocks.monotonic += 1.0
    assert live.time_ms(None) == 1000


@pytest.mark.parametrize(
    ("added_s_ago", "after_ms"),
    [
        (-60.0, -1),  # the clock is behind the one by which the stream was added
        (100.0, 700_000),  # set back by ten minutes since the last opening
    ],
)
def test_live_time_goes_at_its_pace_though_the_wall_clock_is_behind(added_s_ago: float, after_ms: int):
    clocks = Clocks()
    live = clocks.live(added_s_ago, after_ms)
    times = []
    for frame in range(50):
        times.append(live.time_ms(frame * 0.04))
        clocks.go(0.04)
    assert times == [after_ms + 1 + 40 * frame for frame in range(50)]


@given(
    st.lists(st.tuples(st.floats(0, 5), st.none() | st.floats(-1e5, 1e5)), max_size=60),
    st.integers(-1, 10**9),
)
def test_live_time_rises_whatever_the_clocks_do(steps: list[tuple[float, float | None]], after_ms: int):
    clocks = Clocks()
    live = clocks.live(after_ms=after_ms)
    last = after_ms
    for seconds, pts_s in steps:
        clocks.go(seconds)
        now = live.time_ms(pts_s)
        assert now > last
        last = now


def test_a_recordings_time_is_pts_from_its_first_picture():
    clock = FileClock(first_s=1.4, period_ms=40)
    assert [clock.time_ms(pts_s) for pts_s in (1.4, 1.44, 1.5, 60.0)] == [0, 40, 100, 58600]


def test_missing_and_falling_pts_stand_one_period_after_the_last():
    clock = FileClock(first_s=0.0, period_ms=40)
    assert [clock.time_ms(pts_s) for pts_s in (None, None, 0.2, 0.1, None, 0.5)] == [
        0,
        40,
        200,
        240,
        280,
        500,
    ]


def test_a_recording_is_shown_in_real_time():
    clocks = Clocks()
    pace = Pace(lambda: clocks.monotonic)
    assert pace.wait_s(4000) == 0
    clocks.go(0.25)
    assert abs(pace.wait_s(5000) - 0.75) < 1e-9


def test_a_held_up_recording_goes_on_from_there_and_not_faster():
    clocks = Clocks()
    pace = Pace(lambda: clocks.monotonic)
    pace.wait_s(0)
    clocks.go(10.0)
    assert pace.wait_s(1000) == 0
    assert abs(pace.wait_s(2000) - 1.0) < 1e-9
