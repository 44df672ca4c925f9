"""Notices a Kafka client that stands still."""

import threading
import time
from collections.abc import Callable

from services.shared.errors import Unavailable

# Kafka may be away for a while, and then nothing is lost by waiting. A client that has neither delivered a record
# nor given it up by now has forgotten it, or Kafka is away for longer than this process has to be kept for.
FORGOTTEN_AFTER_S = 120.0


class DeliveryWatch:
    """Counts records in and out of the client. Safe to use from any thread."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._lock = threading.Lock()
        self._num_under_way = 0
        self._moved_s = clock_s()

    def sent(self) -> None:
        """A record was handed to the client."""
        with self._lock:
            if self._num_under_way == 0:
                self._moved_s = self._clock_s()
            self._num_under_way += 1

    def done(self) -> None:
        """The client said what became of a record."""
        with self._lock:
            self._num_under_way -= 1
            self._moved_s = self._clock_s()

    def check(self) -> None:
        """Raises Unavailable where records are under way and nothing moves any more: only a new client helps."""
        with self._lock:
            is_stuck = self._num_under_way > 0 and self._clock_s() - self._moved_s > FORGOTTEN_AFTER_S
        if is_stuck:
            raise Unavailable(
                f"the Kafka client has neither delivered nor given up a record for {FORGOTTEN_AFTER_S:g} s"
            )
