"""Media time of frames, in milliseconds: rising within a stream, whatever the source's clock does."""

from collections.abc import Callable

# A live picture this much later than its pts lets expect, or any that is early, sets the two clocks anew.
_LATE_MS = 500.0


class LiveClock:
    """Wall time since the stream was added, read once and carried on by the monotonic clock. Where the wall clock is
    behind, which may be another machine's than the one that added it, time goes on from `after_ms`, -1 for none.

    Pictures stand apart as their pts do, not as they happened to arrive: what arrived with the least delay so
    far says where the source's clock stands. A missing or jumping pts falls back to the arrival. A wall clock
    that is set while frames come moves nothing. No time is given that is not above `after_ms` and the one
    before.
    """

    def __init__(
        self, added_at_us: int, wall_us: Callable[[], int], monotonic_s: Callable[[], float], after_ms: int
    ) -> None:
        self._monotonic_s = monotonic_s
        # A wall clock that is behind would else hold time still, but for a millisecond a picture.
        self._anchor_ms = max((wall_us() - added_at_us) / 1000, after_ms + 1) - monotonic_s() * 1000
        self._offset_ms: float | None = None
        self._last_ms = after_ms

    def time_ms(self, pts_s: float | None) -> int:
        """Of a picture that has just arrived."""
        time_ms = self._anchor_ms + self._monotonic_s() * 1000
        if pts_s is not None:
            offset_ms = time_ms - pts_s * 1000
            if self._offset_ms is None or not 0 <= offset_ms - self._offset_ms <= _LATE_MS:
                self._offset_ms = offset_ms
            time_ms = pts_s * 1000 + self._offset_ms
        self._last_ms = max(self._last_ms + 1, round(time_ms))
        return self._last_ms


class FileClock:
    """Time since the first picture, by pts.

    A pts that is missing or does not rise stands one period after the last.
    """

    def __init__(self, first_s: float, period_ms: float) -> None:
        self._first_s = first_s
        self._period_ms = max(1, round(period_ms))
        self._last_ms = -1

    def time_ms(self, pts_s: float | None) -> int:
        time_ms = self._last_ms if pts_s is None else round((pts_s - self._first_s) * 1000)
        if time_ms <= self._last_ms:
            time_ms = self._last_ms + self._period_ms if self._last_ms >= 0 else 0
        self._last_ms = max(0, time_ms)
        return self._last_ms


class Pace:
    """Shows a recording as a camera would: a picture is due when the time that lies before it has gone by."""

    def __init__(self, monotonic_s: Callable[[], float]) -> None:
        self._monotonic_s = monotonic_s
        self._start_s: float | None = None

    def wait_s(self, media_time_ms: int) -> float:
        """Seconds until the picture is due, 0 for the first. Who is held up goes on from there, not faster."""
        now_s = self._monotonic_s()
        if self._start_s is None or now_s > self._start_s + media_time_ms / 1000:
            self._start_s = now_s - media_time_ms / 1000
        return self._start_s + media_time_ms / 1000 - now_s
