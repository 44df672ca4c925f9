"""What an operator wants to know of a stream, and how a replica tells it of its many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from services.shared.telemetry import Declared, Metrics, Telemetry

_PERIOD_S = 1.0


class Condition(StrEnum):
    """In the order of how much it matters."""

    FAILING = "failing"  # its source cannot be read; ingest tries again
    SILENT = "silent"  # no frame for `source_lost_s`, and nobody said why
    SHEDDING = "shedding"  # frames were passed over for being late within the last minute
    BEHIND = "behind"  # half-way to that
    OK = "ok"
    ENDED = "ended"  # a recording, read to its end


@dataclass(frozen=True)
class StreamHealth:
    stream_id: str
    condition: Condition
    silent_s: float
    behind_s: float
    frames_skipped: int


class StreamMeter:
    """Tells how many streams are in each condition, and names those that matter most.

    The names are bounded, since each makes series that a database keeps; the numbers are of all streams.
    """

    def __init__(self, telemetry: Telemetry, max_named: int, monotonic_s: Callable[[], float]) -> None:
        self._max_named = max_named
        self._monotonic_s = monotonic_s
        self._due_s = 0.0
        # Replaced as a whole: the exporter reads them in a thread of its own.
        self._counts: dict[Condition, int] = {}
        self._named: list[StreamHealth] = []
        telemetry.gauge_by(
            Metrics.STREAMS,
            "condition",
            lambda: [(one.value, self._counts.get(one, 0)) for one in Condition],
        )
        self._name_by(telemetry, Metrics.STREAM_SILENT_S, lambda one: one.silent_s)
        self._name_by(telemetry, Metrics.STREAM_BEHIND_S, lambda one: one.behind_s)
        self._name_by(telemetry, Metrics.STREAM_FRAMES_SKIPPED, lambda one: one.frames_skipped)
        self._name_by(telemetry, Metrics.STREAM_FAILING, lambda one: one.condition == Condition.FAILING)

    def update(self, streams: Iterable[StreamHealth]) -> None:
        """Looks at the streams once a second; otherwise does nothing."""
        if self._monotonic_s() < self._due_s:
            return
        self._due_s = self._monotonic_s() + _PERIOD_S
        every = list(streams)
        self._counts = Counter(one.condition for one in every)
        order = list(Condition)
        every.sort(key=lambda one: (order.index(one.condition), -one.silent_s - one.behind_s, one.stream_id))
        self._named = every[: self._max_named]

    def _name_by(
        self, telemetry: Telemetry, declared: Declared, value: Callable[[StreamHealth], float]
    ) -> None:
        telemetry.gauge_by(
            declared, "stream_id", lambda: [(one.stream_id, value(one)) for one in self._named]
        )
