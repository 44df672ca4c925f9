"""Ray Serve's own autoscaling state over LLM replicas that are only numbers: hours of load in seconds.

Everything that decides is real: Serve's bookkeeping of reports, its delays and bounds, the policy as it is pickled for
the controller. What is simulated is time, the replicas and how Kafka's group shares out partitions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from ray.serve import autoscaling_policy
from ray.serve._private import autoscaling_state
from ray.serve._private.autoscaling_state import DeploymentAutoscalingState
from ray.serve._private.common import DeploymentID, ReplicaID, ReplicaMetricReport, TimeStampedValue

from services.llm.app import replica_options
from services.llm.autoscaling import ReplicaLoad
from services.shared.settings import Settings

# Serve asks ten times a second, but hears from a replica only so often.
TICK_S = 10.0
# As LoadMeter.
_WINDOW_S = 30.0

# Sessions that are asked for on each partition, at a time in seconds.
Trace = Callable[[float], Sequence[int]]


@dataclass
class _Replica:
    id: ReplicaID
    runs_from_s: float
    partitions: set[int]
    busy: list[float]
    samples: dict[str, list[TimeStampedValue]]
    lag_s: float = 0.0


@dataclass(frozen=True)
class Moment:
    at_s: float
    wanted: int
    running: int
    sessions: int
    waiting: int
    lag_s: float


class SimulatedFleet:
    """`work` is the share of a replica's time that one session takes. A stream far behind jumps, as live ones do."""

    def __init__(
        self,
        settings: Settings,
        monkeypatch: pytest.MonkeyPatch,
        *,
        work: float = 0.0,
        start_s: float = 50.0,
        settle_s: float = 5.0,
    ) -> None:
        self._settings = settings
        self._work, self._start_s, self._settle_s = work, start_s, settle_s
        self._num_partitions = settings.kafka.partitions
        self._now_s = 0.0
        clock = SimpleNamespace(time=lambda: self._now_s, monotonic=lambda: self._now_s)
        for module in (autoscaling_state, autoscaling_policy):
            monkeypatch.setattr(module, "time", clock)
        config = replica_options(settings)["autoscaling_config"]
        info = SimpleNamespace(
            deployment_config=SimpleNamespace(autoscaling_config=config, gang_scheduling_config=None),
            target_capacity=None,
            target_capacity_direction=None,
        )
        self._deployment = DeploymentID("LLM", "streamo")
        self._serve = DeploymentAutoscalingState(self._deployment)
        self.wanted = self._serve.register(info, config.min_replicas)
        self._replicas: list[_Replica] = []
        self._num_started = 0
        self._unowned: dict[int, float] = {}  # partition that changes hands: until when
        self.moments: list[Moment] = []

    def run(self, trace: Trace, duration_s: float) -> list[Moment]:
        end_s = self._now_s + duration_s
        while self._now_s < end_s:
            self._now_s += TICK_S
            self._start_and_end()
            self._work_on(trace(self._now_s))
            running = self._running()
            self._serve.update_running_replica_ids([replica.id for replica in running])
            self.wanted = self._serve.get_decision_num_replicas(self.wanted)
        return self.moments

    def _running(self) -> list[_Replica]:
        return [replica for replica in self._replicas if replica.runs_from_s <= self._now_s]

    def _start_and_end(self) -> None:
        while len(self._replicas) < self.wanted:
            self._num_started += 1
            # The first are there from the beginning.
            delay_s = self._start_s if self.moments else 0.0
            id_ = ReplicaID(f"replica-{self._num_started}", self._deployment)
            self._replicas.append(_Replica(id_, self._now_s + delay_s, set(), [], {}))
        while len(self._replicas) > self.wanted:
            gone = self._replicas.pop()  # Serve ends one that still starts, else the newest
            self._serve.on_replica_stopped(gone.id)
        self._share_out()

    def _share_out(self) -> None:
        """Evenly, and nobody loses a partition while all have their share."""
        running = self._running()
        if not running:
            return
        free = set(range(self._num_partitions)) - set().union(*(replica.partitions for replica in running))
        by_size = sorted(running, key=lambda replica: -len(replica.partitions))
        few, more = divmod(self._num_partitions, len(running))
        for rank, replica in enumerate(by_size):
            share = few + (rank < more)
            while len(replica.partitions) > share:
                free.add(replica.partitions.pop())
        for rank, replica in enumerate(by_size):
            share = few + (rank < more)
            while len(replica.partitions) < share:
                number = free.pop()
                replica.partitions.add(number)
                self._unowned[number] = self._now_s + self._settle_s

    def _work_on(self, sessions: Sequence[int]) -> None:
        running = self._running()
        waiting = 0
        for replica in running:
            settled = [p for p in replica.partitions if self._unowned.get(p, 0.0) <= self._now_s]
            load = self._load(replica, [sessions[p] for p in settled])
            waiting += load.waiting
            self._record(replica, load)
        self.moments.append(
            Moment(
                self._now_s,
                self.wanted,
                len(running),
                sum(sessions),
                waiting,
                max((replica.lag_s for replica in running), default=0.0),
            )
        )

    def _load(self, replica: _Replica, sessions: Sequence[int]) -> ReplicaLoad:
        llm = self._settings.llm
        asked = sum(sessions)
        work = min(asked, llm.max_sessions) * self._work
        replica.lag_s = min(max(0.0, replica.lag_s + (work - 1) * TICK_S), llm.max_lag_s)
        replica.busy = [*replica.busy, min(1.0, work)][-int(_WINDOW_S / TICK_S) :]
        return ReplicaLoad(
            partitions=len(sessions),
            sessions=asked,
            waiting=max(0, asked - llm.max_sessions),
            heaviest_sessions=max(sessions, default=0),
            capacity=llm.max_sessions,
            lag_s=replica.lag_s,
            utilisation=sum(replica.busy) / len(replica.busy),
        )

    def _record(self, replica: _Replica, load: ReplicaLoad) -> None:
        for name, value in load.metrics().items():
            samples = replica.samples.setdefault(name, [])
            samples.append(TimeStampedValue(self._now_s, value))
            del samples[:-5]
        self._serve.record_request_metrics_for_replica(
            ReplicaMetricReport(replica.id, replica.samples, self._now_s)
        )
