"""What a demo showed, in numbers: printed for people, written as JSON for machines."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from rich.console import Console
from rich.table import Table

from models.evaluation.telling import TellingScore
from services.cli.histogram_receiver import HistogramReceiver
from services.shared.telemetry import Metrics
from streamo.v1.event_pb2 import Event, EventKind
from streamo.v1.stream_pb2 import StreamStatus
from streamo.v1.task_pb2 import Task

_SHARES = (0.5, 0.95, 0.99)


@dataclass(frozen=True)
class Latency:
    """Milliseconds from a frame's capture."""

    count: int
    p50_ms: float
    p95_ms: float
    p99_ms: float


@dataclass(frozen=True)
class TaskScore:
    """Of `scripted` events `told` were told right; `false` is what was told beside the script."""

    scripted: int
    told: int
    false: int


@dataclass(frozen=True)
class DemoSummary:
    frames_seen: int
    frames_kept: int
    rounds_decided: int
    frames_skipped: int
    events: dict[str, dict[str, int]]  # task, or "stream" for what concerns no watch -> phase -> number
    decision: Latency | None
    event: Latency | None
    scores: dict[str, TaskScore]

    @classmethod
    def of(
        cls,
        statuses: Sequence[StreamStatus],
        events: Sequence[Event],
        event_latencies_ms: Sequence[float],
        histograms: HistogramReceiver,
        scores: Mapping[str, TellingScore],
    ) -> "DemoSummary":
        counters = [status.counters for status in statuses]
        decision = histograms.quantiles(Metrics.DECISION_MS[0], _SHARES)
        told = (
            [float(quantile) for quantile in np.quantile(event_latencies_ms, _SHARES)]
            if event_latencies_ms
            else None
        )
        return cls(
            frames_seen=sum(one.frames_seen for one in counters),
            frames_kept=sum(one.frames_kept for one in counters),
            rounds_decided=sum(one.rounds_decided for one in counters),
            frames_skipped=sum(one.frames_skipped for one in counters),
            events=_counted(events),
            decision=Latency(histograms.count(Metrics.DECISION_MS[0]), *decision) if decision else None,
            event=Latency(len(event_latencies_ms), *told) if told else None,
            scores={
                task: TaskScore(score.num_gold, score.num_right, score.num_false)
                for task, score in scores.items()
            },
        )

    @property
    def total(self) -> TaskScore:
        parts = self.scores.values()
        return TaskScore(
            sum(one.scripted for one in parts),
            sum(one.told for one in parts),
            sum(one.false for one in parts),
        )

    def to_dict(self) -> dict[str, object]:
        total = self.total
        told_at_all = total.told + total.false
        return {
            **asdict(self),
            "total": asdict(total),
            "told_share": total.told / total.scripted if total.scripted else None,
            "false_share": total.false / told_at_all if told_at_all else None,
        }

    def print_to(self, console: Console) -> None:
        console.print(
            f"\n[bold]Frames[/bold]    {self.frames_seen} seen, {self.frames_kept} kept; "
            f"{self.rounds_decided} rounds decided, {self.frames_skipped} frames named in gaps"
        )
        for name, latency in (("Decision", self.decision), ("Event", self.event)):
            if latency is not None:
                console.print(
                    f"[bold]{name:<9}[/bold] p50 {latency.p50_ms:.0f} ms, p95 {latency.p95_ms:.0f} ms, "
                    f"p99 {latency.p99_ms:.0f} ms from the frame's capture ({latency.count})"
                )
        self._print_events(console)
        if self.scores:
            self._print_scores(console)

    def _print_events(self, console: Console) -> None:
        kinds = [_phase(kind) for kind in EventKind.values()[1:]]
        kinds = [kind for kind in kinds if any(kind in counts for counts in self.events.values())]
        table = Table("Events", *kinds)
        for task, counts in self.events.items():
            table.add_row(task, *(str(counts.get(kind, "")) for kind in kinds))
        console.print(table)

    def _print_scores(self, console: Console) -> None:
        table = Table("Scripted events", "scripted", "told", "share", "false")
        for task, score in [*self.scores.items(), ("all", self.total)]:
            share = f"{score.told / score.scripted:.0%}" if score.scripted else ""
            table.add_row(task, str(score.scripted), str(score.told), share, str(score.false))
        console.print(table)


def _counted(events: Sequence[Event]) -> dict[str, dict[str, int]]:
    counted: dict[str, Counter[str]] = {}
    for event in events:
        task = Task.Name(event.task).removeprefix("TASK_").lower() if event.task else "stream"
        counted.setdefault(task, Counter())[_phase(event.kind)] += 1
    return {task: dict(counts) for task, counts in counted.items()}


def _phase(kind: int) -> str:
    return EventKind.Name(kind).removeprefix("EVENT_KIND_")
