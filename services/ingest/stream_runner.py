"""Runs one stream in a thread: its camera's process, its epochs, and when to open its source again."""

import logging
import random
import threading
import time
from dataclasses import dataclass

from models.vlm.frame_sampler import SamplerConfig
from models.vlm.frame_size import FrameBudget
from services.ingest.backoff import Backoff
from services.ingest.camera_process import CameraProcess, ProcessDied
from services.ingest.capture import CaptureConfig
from services.ingest.frame_log import MAX_IN_FLIGHT, FrameLog
from services.ingest.frames_tail import Tail, find_tail
from services.ingest.link import Closed, Open, Opened, Start
from services.ingest.source import Source, UnsupportedSource
from services.ingest.source_failure import is_hopeless
from services.shared.control_log import AddedStream
from services.shared.errors import TimedOut, Unavailable
from services.shared.settings import IngestSettings
from services.shared.telemetry import Metrics
from streamo.v1 import frame_pb2
from streamo.v1.frame_pb2 import Frame, SourceState

_LOG = logging.getLogger(__name__)
_TICK_S = 0.2
# The process's own timeouts come first; this much later it counts as stuck.
_STUCK_SLACK_S = 2.0
_START_TIMEOUT_S = 30.0
_DRAIN_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class RunEnd:
    """How a run ended, and for how long frames had come."""

    state: SourceState
    detail: str
    good_for_s: float = 0.0


class StreamRunner:
    """From `start` until `stop_soon`, or until a recording has ended. `failure` must be looked at."""

    def __init__(
        self,
        added: AddedStream,
        was_begun: bool,
        log: FrameLog,
        settings: IngestSettings,
        budget: FrameBudget,
        rng: random.Random,
    ) -> None:
        self.added = added
        self.failure: BaseException | None = None
        # An epoch of another worker: while it is newer than ours, ours has to end. Set by the worker's thread.
        self.overtaken_by = -1
        self._was_begun = was_begun
        self._settings = settings
        self._budget = budget
        self._telemetry = log.telemetry
        self._kafka_settings = log.settings
        self._stopping = threading.Event()
        self._log = log.of(added, self._stopping)
        self._backoff = Backoff(
            settings.backoff_min_s, settings.backoff_max_s, settings.backoff_hopeless_s, rng
        )
        self._process: CameraProcess | None = None
        self._thread = threading.Thread(
            target=self._run, name=f"stream-{added.stream.stream_id}", daemon=True
        )

    @property
    def epoch(self) -> int | None:
        """The newest that was begun; None before the first."""
        return self._log.epoch

    @property
    def is_running(self) -> bool:
        """Whether it was started and is not over, be it by itself."""
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def stop_soon(self) -> None:
        """Returns at once; nothing new is written from here on."""
        self._stopping.set()
        process = self._process
        if process is not None:
            process.quit()

    def join(self, timeout_s: float) -> bool:
        """Whether the thread ended. The camera's process is ended in any case."""
        self._thread.join(timeout_s)
        process = self._process
        if process is not None and not process.join(0):
            process.kill()
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._keep_running()
        except Unavailable as error:
            if not self._stopping.is_set():
                self.failure = error
        except BaseException as error:
            self.failure = error
        finally:
            if self._process is not None:
                self._process.close(grace_s=1.0)

    def _keep_running(self) -> None:
        stream_id = self.added.stream.stream_id
        try:
            source = Source.of(self.added.stream, self._settings.file_roots)
        except UnsupportedSource as error:
            # Nothing will change by itself: the user has to add the stream with another source.
            self._log.write_status(frame_pb2.SOURCE_STATE_UNSUPPORTED, str(error), 0.0)
            return
        config = self._capture_config(source)
        while not self._stopping.is_set():
            try:
                end = self._run_once(config)
            except ProcessDied as died:
                self._drop_process()
                end = RunEnd(frame_pb2.SOURCE_STATE_DISCONNECTED, str(died))
            if self._stopping.is_set():
                return
            if end.state == frame_pb2.SOURCE_STATE_ENDED:
                if self._finish(end) or self._stopping.is_set():
                    return
                end = RunEnd(frame_pb2.SOURCE_STATE_DISCONNECTED, "Kafka did not take all frames")
            self._backoff.good_for(end.good_for_s)
            delay_s = self._backoff.next_s(is_hopeless(end.state))
            state_name = SourceState.Name(end.state).removeprefix("SOURCE_STATE_").lower()
            _LOG.warning("stream %s: %s (%s); again in %.1f s", stream_id, state_name, end.detail, delay_s)
            self._log.write_status(end.state, end.detail, delay_s)
            if not self._stopping.wait(delay_s):
                self._telemetry.count(Metrics.RECONNECTS, reason=state_name)

    def _capture_config(self, source: Source) -> CaptureConfig:
        settings = self._settings
        return CaptureConfig(
            source=source,
            added_at_us=self.added.stream.added_at_us,
            budget=self._budget,
            sampler=SamplerConfig(min_fps=settings.min_fps, max_fps=settings.max_fps),
            pixel_format=settings.pixel_format,
            open_timeout_s=settings.open_timeout_s,
            stall_timeout_s=settings.stall_timeout_s,
        )

    def _run_once(self, config: CaptureConfig) -> RunEnd:
        """Opens the source and passes its frames on until they end. Raises ProcessDied."""
        if self._process is None:
            self._process = CameraProcess(config)
        run = _Run(self._process, self._settings)
        self._process.send(Open())
        while not self._stopping.is_set():
            self._count(self._process)
            # A frame is taken from the process only when Kafka has room for it; until then the process drops.
            # A recording's frames go one by one, so that what Kafka has is all up to some frame, without a hole.
            if not self._log.wait_for_room(_TICK_S, 1 if run.is_finite else MAX_IN_FLIGHT):
                run.excuse_silence()
                continue
            if run.has_epoch and self._log.epoch is not None and self._log.epoch < self.overtaken_by:
                self._drop_process()
                return run.end(
                    frame_pb2.SOURCE_STATE_DISCONNECTED,
                    "another worker began a newer epoch and lost the stream",
                )
            if run.is_finite and self._log.has_failed:
                # A recording loses nothing: it is read again from the last frame that Kafka has.
                self._drop_process()
                return run.end(frame_pb2.SOURCE_STATE_DISCONNECTED, "Kafka did not take all frames")
            message = self._process.receive(_TICK_S)
            match message:
                case None:
                    if run.is_stuck():
                        self._drop_process()
                        return run.end(
                            frame_pb2.SOURCE_STATE_DISCONNECTED, "the source sent no picture for too long"
                        )
                case Opened(is_finite):
                    tail = self._begin_recording() if is_finite else Tail(self._log.last_media_time_ms)
                    if tail is None or tail.ended:
                        self._drop_process()
                        return _after_tail(run, tail)
                    run.opened(is_finite)
                    self._process.send(Start(tail.last_media_time_ms))
                case Frame():
                    if not run.num_frames and not run.is_finite:
                        self._log.begin_epoch()
                    run.num_frames += 1
                    run.good()
                    self._log.write_frame(message, run.is_finite)
                case Closed(status):
                    # The process counts frames that were dropped at the very end, too.
                    if run.num_frames:
                        self._log.num_kept = max(self._log.num_kept, status.num_kept)
                    return run.end(status.state, status.detail)
        return run.end(frame_pb2.SOURCE_STATE_DISCONNECTED, "the stream was stopped")

    def _begin_recording(self) -> Tail | None:
        """A new epoch of a recording, and where it goes on; None where that could not be found out."""
        resumes = self._was_begun
        self._was_begun = True
        self._log.begin_epoch()
        if not resumes:
            return Tail()
        # First the mark, then the look at what lies before it: what an older worker may still write after it is ignored
        # by all readers.
        mark = self._log.mark_epoch(
            "the recording is opened again, to go on after its last kept frame", _DRAIN_TIMEOUT_S
        )
        if mark is None:
            return None
        try:
            return find_tail(self._kafka_settings, self.added, mark)
        except TimedOut:
            return None

    def _finish(self, end: RunEnd) -> bool:
        """Whether the end of a recording, and all before it, is in Kafka.

        Once the stream is to stop, that is left to whoever runs it next.
        """
        if not self._log.drain(_DRAIN_TIMEOUT_S) or self._stopping.is_set():
            return False
        self._log.write_status(end.state, end.detail, 0.0)
        if not self._log.drain(_DRAIN_TIMEOUT_S) or self._stopping.is_set():
            return False
        self._log.write_end()
        return True

    def _count(self, process: CameraProcess) -> None:
        seen, dropped = process.take_tallies()
        if seen:
            self._telemetry.count(Metrics.FRAMES_SEEN, seen)
        if dropped:
            self._telemetry.count(Metrics.FRAMES_DROPPED, dropped, reason="worker_busy")

    def _drop_process(self) -> None:
        if self._process is not None:
            self._process.close(grace_s=0.2)
            self._process = None


class _Run:
    """What the worker knows of one opening of a source."""

    def __init__(self, process: CameraProcess, settings: IngestSettings) -> None:
        self.is_finite = False
        self.num_frames = 0
        self._process = process
        self._limit_s = max(settings.open_timeout_s, settings.stall_timeout_s) + _STUCK_SLACK_S
        self._excused_s = time.monotonic()
        self._first_s = self._last_s = 0.0

    @property
    def has_epoch(self) -> bool:
        """Whether it has begun its own: a recording when it is opened, else at the first frame."""
        return self.is_finite or self.num_frames > 0

    def opened(self, is_finite: bool) -> None:
        self.is_finite = is_finite
        self.excuse_silence()

    def good(self) -> None:
        self._last_s = time.monotonic()
        self._first_s = self._first_s or self._last_s

    def excuse_silence(self) -> None:
        """The worker itself was not listening."""
        self._excused_s = time.monotonic()

    def is_stuck(self) -> bool:
        alive_s = self._process.alive_s
        # A process that is still starting, on a machine that is busy starting many, is slow and not stuck.
        limit_s = self._limit_s if alive_s else _START_TIMEOUT_S
        return time.monotonic() - max(self._excused_s, alive_s) > limit_s

    def end(self, state: SourceState, detail: str) -> RunEnd:
        return RunEnd(state, detail, self._last_s - self._first_s)


def _after_tail(run: _Run, tail: Tail | None) -> RunEnd:
    if tail is None:
        return run.end(
            frame_pb2.SOURCE_STATE_DISCONNECTED, "how far it was read could not be found out in time"
        )
    return run.end(frame_pb2.SOURCE_STATE_ENDED, "the recording has been read to its end")
