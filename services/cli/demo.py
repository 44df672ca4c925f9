"""`streamo demo`: the main job on this machine, with simulated cameras or a video of one's own."""

import shutil
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from models.data.place.director import EndlessPlace
from models.data.place.instruction import find_query
from models.data.place.label import gold_events
from models.evaluation.telling import TellingScore, Told, score_tellings
from services.cli.client import Client, ClientError, EventStream
from services.cli.demo_summary import DemoSummary
from services.cli.event_line import event_line
from services.cli.gateway_target import load_settings
from services.cli.histogram_receiver import HistogramReceiver
from services.cli.kept_frames import kept_media_times_ms
from services.cli.start_progress import StartProgress
from services.local.camera_server import SimulatedCamera
from services.local.local_stack import LocalStack
from services.local.stack_file import StackFile
from services.shared.errors import AlreadyExists
from services.shared.settings import Settings, TelemetrySettings
from streamo.v1.event_pb2 import Event, EventKind
from streamo.v1.frame_pb2 import SourceState
from streamo.v1.stream_pb2 import Stream
from streamo.v1.task_pb2 import Task

_METRIC_PERIOD_S = 2.0
# How long after the end the last frames may take until they are decided and told.
_DRAIN_S = 8.0
_UNPLAYABLE = (
    SourceState.SOURCE_STATE_UNSUPPORTED,
    SourceState.SOURCE_STATE_NOT_FOUND,
    SourceState.SOURCE_STATE_AUTH_FAILED,
)
_TOLD_KINDS = (EventKind.EVENT_KIND_CLOSE, EventKind.EVENT_KIND_ANSWER)


@dataclass(frozen=True)
class DemoWatch:
    stream_id: str
    watch_id: str
    task: str
    instruction: str


# Places where something happens all the time from the first minute on.
CAMERAS = {"gate": 15, "yard": 128}
WATCHES = (
    DemoWatch("gate", "story", "narration", "Tell me what happens."),
    DemoWatch("gate", "cars", "event", "Tell me about cars."),
    DemoWatch("gate", "people", "qa", "How many people are there?"),
    DemoWatch("yard", "steps", "action", "Describe what people do."),
    DemoWatch("yard", "door-times", "grounding", "Find the time when the door is open."),
)


@dataclass(frozen=True)
class Received:
    event: Event
    latency_ms: float  # captured frame to here; 0 where the event is about no frame


class Demo:
    """Starts a stack of its own under `directory`, shows events for `duration_s`, stops everything, sums up.

    With `source` the one stream is that video, with one watch; else two simulated cameras with five watches, whose
    script is known, so that what was told can be scored. Ctrl-C ends it early, in order.
    """

    def __init__(
        self,
        directory: Path,
        duration_s: float,
        console: Console,
        source: str = "",
        instruction: str = "",
        task: str = "",
    ) -> None:
        self._directory = directory
        self._duration_s = duration_s
        self._console = console
        self._source = source
        self._watches: Sequence[DemoWatch] = WATCHES
        if source:
            instruction = instruction or "Tell me what happens."
            task = task or ("qa" if instruction.rstrip().endswith("?") else "narration")
            self._watches = (DemoWatch("video", "mine", task, instruction),)
        self._received: list[Received] = []
        self._ended = threading.Event()  # the user's video is over, or cannot be played
        # It could not be played, or nothing could be heard any more: said when it happened.
        self.has_failed = False

    def run(self) -> DemoSummary:
        """Raises ServiceError or ClientError where something cannot be started or added."""
        started_s = time.monotonic()
        self._clear_directory()
        with ExitStack() as stack:
            histograms = HistogramReceiver()
            histograms.start()
            stack.callback(histograms.stop)
            progress = StartProgress(self._console)
            local = LocalStack(self._directory, _settings(histograms), progress)
            with progress:
                stack.enter_context(local)
                cameras = self._start_cameras(local)
            client = stack.enter_context(Client(local.gateway_address, settings=local.settings.client))
            self._console.print(f"Ready after {time.monotonic() - started_s:.1f} s. Events:\n")
            stack.enter_context(self._follow(client))
            streams = self._add_all(client, cameras)
            self._wait()
            self._drain(client, streams)
            statuses = [status for status in client.list_streams() if status.stream.stream_id in streams]
            kept = {name: kept_media_times_ms(local.settings.kafka, name) for name in streams}
            decided = {status.stream.stream_id: status.media_time_ms for status in statuses}
            scores = self._scores(cameras, streams, kept, decided)
            # One more export of the services' metrics holds what was decided last.
            time.sleep(_METRIC_PERIOD_S + 0.5)
            return DemoSummary.of(
                statuses, [one.event for one in self._received], self._latencies(), histograms, scores
            )

    def _clear_directory(self) -> None:
        state = StackFile(self._directory).read()
        if state is not None and state.is_alive:
            raise AlreadyExists(
                f"a demo already runs in {self._directory}; end it first (Ctrl-C in its window)"
            )
        if state is not None:
            StackFile(self._directory).end_stack()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _start_cameras(self, local: LocalStack) -> dict[str, SimulatedCamera]:
        if self._source:
            return {}
        seeds = [f"{name}={seed}" for name, seed in CAMERAS.items()]
        server = local.start_cameras(["--port", "0", "--streams", *seeds])
        return {camera.name: camera for camera in server.cameras}

    def _add_all(self, client: Client, cameras: dict[str, SimulatedCamera]) -> dict[str, Stream]:
        urls = (
            {"video": self._source}
            if self._source
            else {name: camera.url for name, camera in cameras.items()}
        )
        streams = {name: client.add_stream(name, url) for name, url in urls.items()}
        for watch in self._watches:
            client.add_watch(watch.stream_id, watch.watch_id, task_value(watch.task), watch.instruction)
        return streams

    def _follow(self, client: Client) -> EventStream:
        """Prints and keeps every event, in a thread of its own, until the subscription is closed."""
        subscription = client.subscribe(start="earliest")

        def follow() -> None:
            try:
                for message in subscription:
                    if message.HasField("event"):
                        self._receive(message.event)
            except ClientError as error:
                self._console.print(f"the subscription broke off: {error}", style="red", markup=False)
                self.has_failed = True
                self._ended.set()

        threading.Thread(target=follow, name="demo-follow", daemon=True).start()
        return subscription

    def _receive(self, event: Event) -> None:
        captured_at_us = event.stamps.captured_at_us
        latency_ms = time.time() * 1000 - captured_at_us / 1000 if captured_at_us else 0.0
        self._received.append(Received(event, latency_ms))
        shown = latency_ms if event.kind in (*_TOLD_KINDS, EventKind.EVENT_KIND_OPEN) else None
        self._console.print(event_line(event, shown), soft_wrap=True)
        if self._source and event.source_state in (SourceState.SOURCE_STATE_ENDED, *_UNPLAYABLE):
            self.has_failed |= event.source_state in _UNPLAYABLE
            self._ended.set()

    def _wait(self) -> None:
        with suppress(KeyboardInterrupt):
            self._ended.wait(self._duration_s)
        self._console.print("\nStopping …")

    def _drain(self, client: Client, streams: dict[str, Stream]) -> None:
        """Waits until what was captured by now has been decided; a stream that stands still is not waited for."""
        now_us = time.time_ns() // 1000
        deadline_s = time.monotonic() + _DRAIN_S
        while time.monotonic() < deadline_s and not self._ended.is_set():
            decided = {status.stream.stream_id: status.media_time_ms for status in client.list_streams()}
            if all(
                decided.get(name, 0) >= (now_us - one.added_at_us) / 1000 for name, one in streams.items()
            ):
                return
            time.sleep(0.2)

    def _scores(
        self,
        cameras: dict[str, SimulatedCamera],
        streams: dict[str, Stream],
        kept: dict[str, list[int]],
        decided: dict[str, int],
    ) -> dict[str, TellingScore]:
        """Per task, against the cameras' own scripts."""
        scores: dict[str, TellingScore] = {}
        for watch in self._watches if cameras else ():
            mine = [one.event for one in self._received if one.event.watch_id == watch.watch_id]
            begun = [event for event in mine if event.kind == EventKind.EVENT_KIND_STARTED]
            if not begun:
                continue
            first_ms, last_ms = begun[0].frame.media_time_ms, decided.get(watch.stream_id, 0)
            times_ms = [time_ms for time_ms in kept[watch.stream_id] if first_ms <= time_ms <= last_ms]
            camera = cameras[watch.stream_id]
            # Script time is counted from the camera's start, media time from when the stream was added.
            ahead_ms = (streams[watch.stream_id].added_at_us - camera.started_at_us) // 1000
            script = EndlessPlace(camera.seed or 0).script(last_ms + ahead_ms + 1000).shifted(-ahead_ms)
            views = [script.view(time_ms) for time_ms in times_ms]
            query = find_query(watch.task, watch.instruction)
            golds = gold_events(script.told_acts, views, times_ms, query)
            tolds = [
                Told(event.frame.media_time_ms, event.text) for event in mine if event.kind in _TOLD_KINDS
            ]
            score = score_tellings(watch.task, golds, tolds)
            scores[watch.task] = scores.get(watch.task, TellingScore()) + score
        return scores

    def _latencies(self) -> list[float]:
        told = (*_TOLD_KINDS, EventKind.EVENT_KIND_OPEN)
        return [one.latency_ms for one in self._received if one.event.kind in told]


def _settings(histograms: HistogramReceiver) -> Settings:
    """The environment's, with a gateway port of the demo's own and, unless they go elsewhere, metrics to us."""
    settings = load_settings()
    gateway = settings.gateway.model_copy(update={"port": 0})
    telemetry = settings.telemetry
    if not telemetry.otlp_endpoint:
        telemetry = TelemetrySettings(
            otlp_endpoint=histograms.endpoint, trace_ratio=0.0, metric_period_s=_METRIC_PERIOD_S
        )
    return settings.model_copy(update={"gateway": gateway, "telemetry": telemetry})


def task_value(name: str) -> int:
    return Task.Value(f"TASK_{name.upper()}")
