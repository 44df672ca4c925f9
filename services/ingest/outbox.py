"""Kept frames on their way from the camera's process to the worker."""

import threading
from collections import deque
from collections.abc import Callable


class Outbox:
    """Bounded; one thread puts, a thread of its own hands on by `send`, which may block.

    When full, `put` of a live source drops the oldest frame and counts it: what a late reader wants is the
    newest. A recording waits instead. `send` raising OSError means that the reader is gone; the box is then
    `broken`.
    """

    def __init__(self, send: Callable[[bytes], None], capacity: int) -> None:
        self._send = send
        self._capacity = capacity
        self._frames: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._in_hand = False
        self._closed = False
        self.num_dropped = 0
        self.broken = False
        self._thread = threading.Thread(target=self._hand_on, name="outbox", daemon=True)
        self._thread.start()

    def put(self, frame: bytes) -> None:
        """Never blocks."""
        with self._changed:
            if len(self._frames) >= self._capacity:
                self._frames.popleft()
                self.num_dropped += 1
            self._frames.append(frame)
            self._changed.notify_all()

    def wait_for_room(self, timeout_s: float) -> bool:
        """Whether a frame can be put without dropping one."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._frames) < self._capacity, timeout_s)

    def wait_empty(self, timeout_s: float) -> bool:
        """Whether everything has been handed on."""
        with self._changed:
            return self._changed.wait_for(
                lambda: (not self._frames and not self._in_hand) or self.broken, timeout_s
            )

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _hand_on(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._frames or self._closed)
                if not self._frames:
                    return
                frame = self._frames.popleft()
                self._in_hand = True
            try:
                self._send(frame)
            except OSError:
                with self._changed:
                    self.broken = True
                    self._frames.clear()
                    self._in_hand = False
                    self._changed.notify_all()
                return
            with self._changed:
                self._in_hand = False
                self._changed.notify_all()
