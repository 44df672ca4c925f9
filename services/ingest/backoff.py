"""How long to wait before a source is opened again."""

import random

_MAX_DOUBLINGS = 32
_HOPELESS_JITTER = 0.2
# Frames for this long show that the source is well again.
GOOD_AFTER_S = 10.0


class Backoff:
    """Exponential with full jitter, so that cameras lost together do not come back together; for ever.

    A hopeless failure (wrong credentials, nothing there, no video) waits long at once: trying harder only
    gets the camera to lock us out.
    """

    def __init__(self, min_s: float, max_s: float, hopeless_s: float, rng: random.Random) -> None:
        if not 0 < min_s <= max_s:
            raise ValueError(f"backoff_min_s {min_s:g} and backoff_max_s {max_s:g}: need 0 < min <= max")
        self._min_s, self._max_s, self._hopeless_s = min_s, max_s, hopeless_s
        self._rng = rng
        self._num_failures = 0

    def next_s(self, hopeless: bool = False) -> float:
        if hopeless:
            return self._hopeless_s * self._rng.uniform(1 - _HOPELESS_JITTER, 1 + _HOPELESS_JITTER)
        cap_s = min(self._max_s, self._min_s * 2 ** min(self._num_failures, _MAX_DOUBLINGS))
        self._num_failures += 1
        return self._rng.uniform(0, cap_s)

    def good_for(self, duration_s: float) -> None:
        """Told how long frames have come without a break: long enough, and the back-off begins anew."""
        if duration_s >= GOOD_AFTER_S:
            self._num_failures = 0
