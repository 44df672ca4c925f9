"""Frames that arrive whether or not anybody is ready for them: one a second per stream, at random phases."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Decided:
    """The state of the oldest round of this stream that was waiting is known."""

    stream: int


class Server(Protocol):
    """What takes the frames: sessions that are open and have full windows."""

    def offer(self, streams: Sequence[int], arrival_s: Sequence[float]) -> list[bool]:
        """One frame of each of these streams has arrived; whether it is taken or shed."""
        ...

    @property
    def has_work(self) -> bool: ...

    def step(self) -> list[Decided]: ...


@dataclass(frozen=True)
class Trial:
    """What came of `duration_s` of arrivals. Latency: from a frame's arrival to its state, milliseconds."""

    num_streams: int
    duration_s: float
    num_decided: int
    num_shed: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    busy_share: float
    """Share of the time in which the server was stepping."""
    mean_step_ms: float

    def holds(self, limit_ms: float) -> bool:
        """Nothing shed, and the 99th percentile below the limit."""
        return self.num_shed == 0 and self.p99_ms < limit_ms


def run_trial(
    server: Server,
    num_streams: int,
    duration_s: float,
    rng: np.random.Generator,
    clock_s: Callable[[], float],
    sleep_s: Callable[[float], None],
    frames_per_s: float = 1.0,
) -> Trial:
    """Open loop: a late server finds more waiting, it does not slow the arrivals. Ends when all are decided."""
    start_s = clock_s()
    interval_s = 1.0 / frames_per_s
    due = [(start_s + float(rng.random()) * interval_s, stream) for stream in range(num_streams)]
    heapq.heapify(due)
    waiting: list[list[float]] = [[] for _ in range(num_streams)]
    latencies_ms: list[float] = []
    num_shed = num_steps = 0
    busy_s = 0.0
    while due or server.has_work:
        now_s = clock_s()
        arrived: list[tuple[float, int]] = []
        while due and due[0][0] <= now_s:
            arrival_s, stream = heapq.heappop(due)
            arrived.append((arrival_s, stream))
            if arrival_s + interval_s < start_s + duration_s:
                heapq.heappush(due, (arrival_s + interval_s, stream))
        if arrived:
            taken = server.offer([stream for _, stream in arrived], [arrival_s for arrival_s, _ in arrived])
            for (arrival_s, stream), is_taken in zip(arrived, taken, strict=True):
                if is_taken:
                    waiting[stream].append(arrival_s)
                num_shed += not is_taken
        if not server.has_work:
            if due:
                sleep_s(max(0.0, due[0][0] - clock_s()))
            continue
        decided = server.step()
        done_s = clock_s()
        num_steps += 1
        busy_s += done_s - now_s
        latencies_ms += [1e3 * (done_s - waiting[one.stream].pop(0)) for one in decided]
    p50_ms, p95_ms, p99_ms = (float(value) for value in np.percentile(latencies_ms, (50, 95, 99)))
    return Trial(
        num_streams,
        duration_s,
        len(latencies_ms),
        num_shed,
        p50_ms,
        p95_ms,
        p99_ms,
        max(latencies_ms),
        busy_s / (clock_s() - start_s),
        1e3 * busy_s / num_steps,
    )


def most_streams(
    run: Callable[[int], Trial], limit_ms: float, first: int, at_most: int, resolution: float = 0.1
) -> list[Trial]:
    """Trials that close in on the most streams that hold, by doubling and halving; in the order they were run."""
    trials: list[Trial] = []
    holding, failing = 0, at_most + 1
    num_streams = min(first, at_most)
    while failing - holding > max(1, resolution * failing):
        trials.append(run(num_streams))
        if trials[-1].holds(limit_ms):
            holding = num_streams
        else:
            failing = num_streams
        doubled = 2 * num_streams if failing > at_most else (holding + failing) // 2
        num_streams = min(max(doubled, 1), at_most)
        if num_streams == holding:
            break
    return trials
