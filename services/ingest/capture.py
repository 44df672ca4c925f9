"""What runs in a camera's process: opens its source, decodes, samples, hands kept frames to the worker.

It knows nothing of Kafka, and of secrets only those of its own source. When to open again is the worker's
matter.
"""

import logging
import os
import queue
import resource
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Literal, Protocol

import av

from models.vlm.frame_sampler import FrameSampler, SamplerConfig
from models.vlm.frame_size import FrameBudget
from services.ingest.link import Closed, Command, Opened, Quit, Start, pack_message, unpack_command
from services.ingest.media_time import FileClock, LiveClock, Pace
from services.ingest.outbox import Outbox
from services.ingest.picture import PictureFormer
from services.ingest.source import Source
from services.ingest.source_failure import SourceFailure
from services.ingest.video import Video
from streamo.v1 import frame_pb2

_LOG = logging.getLogger(__name__)
# Frames that wait for the worker; at 1 to 2 a second a pause of some seconds costs nothing.
OUTBOX_FRAMES = 8
_MAX_MEMORY_BYTES = 4 * 1024**3
_MAX_OPEN_FILES = 128
# A recording that stops this much before its own end was cut off, not finished.
_CUT_OFF_S = 2.0

# Places in the tallies shared with the worker, all of them of the process's life.
SEEN, DROPPED, ALIVE_US = range(3)
NUM_TALLIES = 3


class Tallies(Protocol):
    """Shared memory of `NUM_TALLIES` unsigned 64-bit numbers; one side writes, the other only reads."""

    def __getitem__(self, index: int) -> int: ...
    def __setitem__(self, index: int, value: int) -> None: ...


@dataclass(frozen=True)
class CaptureConfig:
    source: Source
    added_at_us: int
    budget: FrameBudget
    sampler: SamplerConfig
    pixel_format: Literal["rgb24", "jpeg"]
    open_timeout_s: float
    stall_timeout_s: float


def run_capture(config: CaptureConfig, link: Connection, tallies: Tallies) -> None:
    """The process's whole life: it ends when told to, and at once when the worker is gone."""
    resource.setrlimit(resource.RLIMIT_AS, (_MAX_MEMORY_BYTES, _MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_MAX_OPEN_FILES, _MAX_OPEN_FILES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would hold credentials
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches every process of a terminal; the worker tells us
    Capture(config, link, tallies).run()


class _Quit(Exception):
    """The worker wants the process to end."""


class Capture:
    def __init__(self, config: CaptureConfig, link: Connection, tallies: Tallies) -> None:
        self._config = config
        self._link = link
        self._tallies = tallies
        self._quit = threading.Event()
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        threading.Thread(target=self._listen, name="commands", daemon=True).start()

    def run(self) -> None:
        former = PictureFormer(self._config.budget, self._config.pixel_format, self._config.sampler)
        try:
            while not isinstance(self._commands.get(), Quit):
                run = _Run(self._config, self._tallies, self._link, former, self._quit)
                status = run.status_after(self._next_start)
                self._link.send_bytes(pack_message(Closed(status)))
        except (_Quit, OSError):
            return

    def _next_start(self) -> Start:
        command = self._commands.get()
        if not isinstance(command, Start):
            raise _Quit
        return command

    def _listen(self) -> None:
        try:
            while True:
                command = unpack_command(self._link.recv_bytes())
                if isinstance(command, Quit):
                    self._quit.set()
                self._commands.put(command)
        except (EOFError, OSError):
            # The worker is gone. The main thread may be deep in FFmpeg: there is nobody to end it in order
            # for.
            os._exit(0)


class _Run:
    """One opening of the source and everything that comes of it."""

    def __init__(
        self,
        config: CaptureConfig,
        tallies: Tallies,
        link: Connection,
        former: PictureFormer,
        stop: threading.Event,
    ) -> None:
        self._config = config
        self._tallies = tallies
        self._link = link
        self._former = former
        self._stop = stop
        self._sampler = FrameSampler(config.sampler)
        self._num_kept = 0
        self._num_seen = 0  # since the last kept one

    def status_after(self, next_start: Callable[[], Start]) -> frame_pb2.SourceStatus:
        """Runs to the end and says what it was. Raises _Quit."""
        try:
            self._run(next_start)
            state, detail = frame_pb2.SOURCE_STATE_ENDED, "the recording has been read to its end"
        except SourceFailure as failure:
            state, detail = failure.state, self._config.source.scrub(failure.detail)
        except _Quit:
            raise
        except Exception as error:
            # Media are hostile: what nobody thought of is this source's failure, not the end of the process.
            # Only the type is told, as a message of unknown origin may hold anything.
            state, detail = frame_pb2.SOURCE_STATE_DISCONNECTED, f"reading it failed: {type(error).__name__}"
            _LOG.error("%s", self._config.source.scrub(traceback.format_exc()))
        return frame_pb2.SourceStatus(
            state=state, detail=detail, at_us=time.time_ns() // 1000, num_kept=self._num_kept
        )

    def _run(self, next_start: Callable[[], Start]) -> None:
        config = self._config
        video = Video.open(config.source, config.open_timeout_s, config.stall_timeout_s, self._alive)
        try:
            self._link.send_bytes(pack_message(Opened(video.is_finite)))
            after_ms = next_start().after_ms
            self._alive()
            outbox = Outbox(self._link.send_bytes, OUTBOX_FRAMES)
            try:
                if video.is_finite:
                    self._read_recording(video, outbox, after_ms)
                else:
                    self._read_live(video, outbox, after_ms)
            finally:
                self._hand_on_rest(outbox)
        finally:
            video.close()

    def _read_live(self, video: Video, outbox: Outbox, after_ms: int) -> None:
        clock = LiveClock(self._config.added_at_us, lambda: time.time_ns() // 1000, time.monotonic, after_ms)
        num_dropped = self._tallies[DROPPED]
        for frame in self._pictures(video):
            # In this order, so that no media time is later than the moment at which the picture was there.
            media_time_ms = clock.time_ms(video.pts_s(frame))
            captured_at_us = time.time_ns() // 1000
            kept = self._form_if_kept(frame, media_time_ms, captured_at_us)
            if kept is not None:
                outbox.put(pack_message(kept))
                self._tallies[DROPPED] = num_dropped + outbox.num_dropped

    def _read_recording(self, video: Video, outbox: Outbox, after_ms: int) -> None:
        if after_ms >= 0:
            video.seek(after_ms)
        clock: FileClock | None = None
        pace = Pace(time.monotonic)
        media_time_ms = -1
        for frame in self._pictures(video):
            pts_s = video.pts_s(frame)
            if clock is None:
                start_s = video.start_s if video.start_s is not None else pts_s
                clock = FileClock(start_s or 0.0, video.period_ms)
            media_time_ms = clock.time_ms(pts_s)
            if media_time_ms <= after_ms:
                self._alive()
                continue
            while (wait_s := pace.wait_s(media_time_ms)) > 0:
                self._alive()
                if self._stop.wait(min(wait_s, 1.0)):
                    raise _Quit
            kept = self._form_if_kept(frame, media_time_ms, time.time_ns() // 1000)
            if kept is not None:
                self._wait_for_room(outbox)
                outbox.put(pack_message(kept))
        if video.num_decoded == 0 and after_ms < 0:
            raise SourceFailure(
                frame_pb2.SOURCE_STATE_UNSUPPORTED, "the recording holds no picture that can be decoded"
            )
        cut_off = video.duration_s is not None and video.duration_s - media_time_ms / 1000 > _CUT_OFF_S
        # Where a reopening brought nothing new, the recording really is over.
        if cut_off and self._num_kept and self._config.source.is_network:
            raise SourceFailure(frame_pb2.SOURCE_STATE_DISCONNECTED, "the source closed the connection")

    def _pictures(self, video: Video) -> Iterator[av.VideoFrame]:
        for frame in video.pictures():
            if self._stop.is_set():
                raise _Quit
            self._alive()
            self._tallies[SEEN] += 1
            self._num_seen += 1
            yield frame

    def _form_if_kept(
        self, frame: av.VideoFrame, media_time_ms: int, captured_at_us: int
    ) -> frame_pb2.Frame | None:
        if not self._sampler.due(media_time_ms) or not self._sampler.keep(
            media_time_ms, self._former.small(frame)
        ):
            return None
        try:
            kept = self._former.form(frame)
        except ValueError as error:
            raise SourceFailure(frame_pb2.SOURCE_STATE_UNSUPPORTED, str(error)) from error
        kept.frame_seq = self._num_kept
        kept.media_time_ms = media_time_ms
        kept.captured_at_us = captured_at_us
        kept.num_seen = self._num_seen
        self._num_kept += 1
        self._num_seen = 0
        return kept

    def _wait_for_room(self, outbox: Outbox) -> None:
        while not outbox.wait_for_room(0.5):
            self._alive()
            if self._stop.is_set() or outbox.broken:
                raise _Quit

    def _hand_on_rest(self, outbox: Outbox) -> None:
        while not outbox.wait_empty(0.5):
            self._alive()
            if self._stop.is_set():
                raise _Quit
        outbox.close()

    def _alive(self) -> None:
        self._tallies[ALIVE_US] = time.monotonic_ns() // 1000
