"""Measures what a replica has to do, for the autoscaler and as gauges."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

from services.llm.autoscaling import ReplicaLoad
from services.llm.engine_meter import EngineMeter
from services.llm.partition import Partition
from services.llm.parts import Parts
from services.shared.telemetry import Metrics

_PERIOD_S = 1.0
# Utilisation is a mean over this long: a batch of replies is no load that lasts.
_WINDOW_S = 30.0


class LoadMeter:
    """`measure` is for the replica's loop; `load` may be read from any thread."""

    def __init__(self, engine_meter: EngineMeter, parts: Parts, max_sessions: int) -> None:
        self.load = ReplicaLoad(capacity=max_sessions)
        self._engine_meter = engine_meter
        self._parts = parts
        self._max_sessions = max_sessions
        # (when, seconds in steps until then), the oldest about a window ago.
        self._busy_s: deque[tuple[float, float]] = deque()
        telemetry = parts.telemetry
        telemetry.gauge(Metrics.PARTITIONS_OWNED, lambda: self.load.partitions)
        telemetry.gauge(Metrics.SESSIONS, lambda: self.load.sessions - self.load.waiting)
        telemetry.gauge(Metrics.WATCHES_WAITING, lambda: self.load.waiting)
        telemetry.gauge(Metrics.SESSION_CAPACITY, lambda: self.load.capacity)
        telemetry.gauge(Metrics.LAG_S, lambda: self.load.lag_s)
        telemetry.gauge(Metrics.STEP_UTILISATION, lambda: self.load.utilisation)

    def measure(self, partitions: Collection[Partition]) -> None:
        """Brings `load` up to date, if a second has passed since it last was."""
        now_s = self._parts.monotonic_s()
        if self._busy_s and now_s - self._busy_s[-1][0] < _PERIOD_S:
            return
        self._busy_s.append((now_s, self._engine_meter.busy_s))
        while len(self._busy_s) > 2 and now_s - self._busy_s[0][0] > _WINDOW_S:
            self._busy_s.popleft()
        waiting = [partition.num_watches_waiting for partition in partitions]
        running = [partition.num_sessions for partition in partitions]
        sessions = [sum(both) for both in zip(running, waiting, strict=True)]
        self.load = ReplicaLoad(
            partitions=len(partitions),
            sessions=sum(sessions),
            waiting=sum(waiting),
            heaviest_sessions=max(sessions, default=0),
            capacity=self._capacity(),
            lag_s=max((partition.lag_s for partition in partitions), default=0.0),
            utilisation=self._utilisation(),
        )

    def _capacity(self) -> int:
        """As many sessions as the KV cache holds of those that are open, at most as many as may be open."""
        stats = self._parts.engine.stats
        if not stats.sessions or not stats.held_blocks:
            return self._max_sessions
        num_blocks = stats.free_blocks + stats.held_blocks
        return min(self._max_sessions, stats.sessions * num_blocks // stats.held_blocks)

    def _utilisation(self) -> float:
        (since_s, busy_before_s), (now_s, busy_s) = self._busy_s[0], self._busy_s[-1]
        if now_s <= since_s:
            return 0.0
        return min(1.0, (busy_s - busy_before_s) / (now_s - since_s))
