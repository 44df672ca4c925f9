"""Ending a process in order: the signals that ask for it."""

import signal
import threading
from types import FrameType


class StopSignal:
    """Set by SIGTERM or SIGINT. Must be made in the main thread."""

    def __init__(self) -> None:
        self._event = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._event.set()

    def is_set(self) -> bool:
        return self._event.is_set()

    def wait(self, timeout_s: float) -> bool:
        """Whether it was set within `timeout_s`."""
        return self._event.wait(timeout_s)
