"""Waiting for something to become true, with a deadline, instead of sleeping."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def poll_until(read: Callable[[], T], timeout_s: float = 30.0, what: str = "", period_s: float = 0.1) -> T:
    """The first true value that `read` gives. Raises AssertionError with the last one after `timeout_s`."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        value = read()
        if value:
            return value
        if time.monotonic() > deadline_s:
            raise AssertionError(f"not within {timeout_s:g} s: {what or read}; last was {value!r}")
        time.sleep(period_s)
