"""The load on a local stack doubles and falls again, and a second LLM replica comes and goes: with its timeline."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from services.cli.client import Client
from services.local.local_stack import LocalStack
from services.shared.settings import Settings
from services.shared.telemetry import Metrics
from services.shared.topics import partition_of
from streamo.v1.task_pb2 import Task
from support.gauge_collector import GaugeCollector
from support.promise import violations
from support.stack import read_stream, replica_processes

NUM_PARTITIONS = 4
# So few that two cores can fill them: one replica holds a watch on each stream, and not two.
MAX_SESSIONS = 7
_GAUGES = {
    "partitions": Metrics.PARTITIONS_OWNED,
    "sessions": Metrics.SESSIONS,
    "waiting": Metrics.WATCHES_WAITING,
    "capacity": Metrics.SESSION_CAPACITY,
    "lag_s": Metrics.LAG_S,
    "utilisation": Metrics.STEP_UTILISATION,
}
# Replicas send their gauges every second; one that has not for so long is gone.
_SILENT_S = 4.0
# A replica imports torch and loads the model, beside whatever else the machine does.
_TIMEOUT_S = 900.0


@dataclass(frozen=True)
class Moment:
    at_s: float
    phase: str
    watches: int
    """Asked for."""
    processes: int
    """Of LLM replicas, starting and ending ones too."""
    replicas: dict[str, dict[str, float]]
    """Name, in the order in which they came, to what it tells of itself."""

    def total(self, gauge: str) -> float:
        return sum(replica[gauge] for replica in self.replicas.values())

    @property
    def owners(self) -> list[float]:
        """Partitions of each replica that owns some."""
        return sorted(replica["partitions"] for replica in self.replicas.values() if replica["partitions"])


@dataclass
class Timeline:
    settings: dict[str, dict[str, object]] = field(default_factory=dict)
    """Those that are not the defaults."""
    moments: list[Moment] = field(default_factory=list)
    violations: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Of the promise, by stream, over the whole run."""
    events: int = 0
    """Committed, all streams together."""

    def of_phase(self, phase: str) -> list[Moment]:
        return [moment for moment in self.moments if moment.phase == phase]


class ScaleOut:
    """`run` takes about five minutes. AssertionError where what is waited for does not come."""

    PHASES = ("one watch a stream", "the load doubles", "the load falls")

    def __init__(self, directory: Path) -> None:
        self.timeline = Timeline()
        self._collector = GaugeCollector()
        self.timeline.settings = {
            "kafka": {"partitions": NUM_PARTITIONS},
            "gateway": {"port": 0},
            "ingest": {"min_fps": 1, "max_fps": 1},
            "llm": {
                "max_replicas": 3,
                "max_sessions": MAX_SESSIONS,
                # How long a step takes on shared cores says little: sessions decide.
                "target_utilisation": 1,
                "upscale_delay_s": 5,
                "downscale_delay_s": 30,
            },
        }
        telemetry = {"otlp_endpoint": self._collector.endpoint, "metric_period_s": 1, "trace_ratio": 0}
        settings = Settings.model_validate({**self.timeline.settings, "telemetry": telemetry})
        self._stack = LocalStack(directory, settings)
        self._streams = _one_stream_a_partition()
        self._started_s = time.monotonic()
        self._phase, self._num_watches = "start", 0
        self._names: dict[str, str] = {}

    def run(self) -> Timeline:
        try:
            with self._stack, Client(self._stack.gateway_address) as client:
                self._stack.start_cameras(["--port", "0", "--fps", "2", "--streams", "gate=21"])
                self._run(client)
                for stream_id in self._streams:
                    records = read_stream(self._stack.settings.kafka, stream_id)
                    self.timeline.violations[stream_id] = tuple(violations(records))
                    self.timeline.events += len(records.events)
        finally:
            self._collector.stop()
        return self.timeline

    def _run(self, client: Client) -> None:
        assert self._stack.cameras is not None
        for stream_id in self._streams:
            client.add_stream(stream_id, self._stack.cameras.cameras[0].url)
        self._add_watches(client, "story")
        self._started_s = time.monotonic()
        self._phase = self.PHASES[0]
        self._watch(
            lambda now: now.owners == [4] and now.total("sessions") == 4, "four sessions on one replica"
        )
        self._hold(20)
        self._add_watches(client, "steps")
        self._phase = self.PHASES[1]
        self._watch(lambda now: now.owners == [2, 2] and now.total("sessions") == 8, "eight on two")
        self._hold(45)
        for stream_id in self._streams:
            client.remove_watch(stream_id, "steps")
            self._num_watches -= 1
        self._phase = self.PHASES[2]
        self._watch(lambda now: now.owners == [4] and now.processes == 1, "one replica that owns all")
        self._hold(20)
        progress_ms = self._progress_ms(client)
        self._watch(
            lambda _: all(
                self._progress_ms(client)[name] > before_ms + 3_000 for name, before_ms in progress_ms.items()
            ),
            "further decisions on every stream",
        )

    def _add_watches(self, client: Client, watch_id: str) -> None:
        for stream_id in self._streams:
            client.add_watch(stream_id, watch_id, Task.TASK_NARRATION, "Tell me what happens.")
            self._num_watches += 1

    def _progress_ms(self, client: Client) -> dict[str, int]:
        return {status.stream.stream_id: status.media_time_ms for status in client.list_streams()}

    def _hold(self, seconds: float) -> None:
        """What holds now has to hold for so long, and to be seen."""
        until_s = time.monotonic() + seconds
        self._watch(lambda _: time.monotonic() >= until_s, f"{seconds:g} s")

    def _watch(self, is_so: Callable[[Moment], bool], what: str) -> None:
        """Notes a moment each second until it is so."""
        deadline_s = time.monotonic() + _TIMEOUT_S
        while True:
            moment = self._moment()
            self.timeline.moments.append(moment)
            if is_so(moment):
                return
            assert time.monotonic() < deadline_s, f"not within {_TIMEOUT_S:g} s: {what}; last was {moment}"
            time.sleep(1.0)

    def _moment(self) -> Moment:
        replicas = {
            instance: {name: round(gauges[declared[0]], 3) for name, declared in _GAUGES.items()}
            for instance, gauges in self._collector.gauges(_SILENT_S).items()
            if Metrics.PARTITIONS_OWNED[0] in gauges
        }
        return Moment(
            round(time.monotonic() - self._started_s, 1),
            self._phase,
            self._num_watches,
            len(replica_processes(self._stack, "LLM")),
            {self._name(instance): found for instance, found in replicas.items()},
        )

    def _name(self, instance: str) -> str:
        return self._names.setdefault(instance, chr(ord("A") + len(self._names)))


def _one_stream_a_partition() -> list[str]:
    found: dict[int, str] = {}
    number = 0
    while len(found) < NUM_PARTITIONS:
        stream_id = f"camera-{number}"
        found.setdefault(partition_of(stream_id, NUM_PARTITIONS), stream_id)
        number += 1
    return [found[partition] for partition in sorted(found)]
