"""An ingest worker: the streams of the partitions it is assigned, no more and no less."""

import logging
import os
import random
import socket
import time
from pathlib import Path
from typing import Protocol

from kafka import ConsumerRebalanceListener, KafkaConsumer, TopicPartition

from models.vlm.frame_size import FrameBudget
from services.ingest.frame_log import OVERHEAD_BYTES, FrameLog
from services.ingest.stream_runner import StreamRunner
from services.ingest.turned_away import TurnedAway
from services.shared.control_log import AddedStream, ControlReader, ControlView
from services.shared.errors import InvalidInput
from services.shared.kafka import member
from services.shared.settings import Settings
from services.shared.telemetry import Metrics, Telemetry
from services.shared.topics import MAX_RECORD_BYTES, Topics, partition_of

_LOG = logging.getLogger(__name__)
GROUP = "ingest"
_SESSION_TIMEOUT_S = 10.0
_MAX_POLL_INTERVAL_S = 60.0
_POLL_MS = 200
# Until the cameras of streams that are no longer ours have been left; the group waits for it.
_STOP_TIMEOUT_S = 3.0
# A worker that has lost a stream learns of it within this, and must not fight for it meanwhile.
_OVERTAKEN_S = _SESSION_TIMEOUT_S + 5.0


class Stop(Protocol):
    def is_set(self) -> bool: ...


class Worker:
    """Runs until told to stop.

    Any error that is not a source's ends it: another worker takes over its partitions.
    """

    def __init__(self, settings: Settings, telemetry: Telemetry, rng: random.Random | None = None) -> None:
        self._settings = settings
        self._budget = frame_budget(settings)
        self._rng = rng or random.Random()
        self._topic = Topics.of(settings.kafka).frames
        self._log = FrameLog(settings.kafka, f"{socket.gethostname()}-{os.getpid()}", telemetry)
        self._control = ControlReader(settings.kafka, on_unreadable=_on_unreadable)
        self._runners: dict[str, StreamRunner] = {}
        self._overtaken_since_s: dict[str, float] = {}
        self._turned_away = TurnedAway(self._log, settings.ingest.max_streams)
        telemetry.gauge(Metrics.STREAMS_RUNNING, self._num_running)

    def run(self, stop: Stop) -> None:
        """Blocks. What happened to a stream's thread is raised here."""
        self._control.start()
        ownership = _Ownership(self)
        consumer = member(
            self._settings.kafka, GROUP, self._topic, ownership, _SESSION_TIMEOUT_S, _MAX_POLL_INTERVAL_S
        )
        ownership.consumer = consumer
        try:
            while not stop.is_set():
                self._beat()
                consumer.poll(timeout_ms=_POLL_MS)
                self._log.deliveries.check()
                self._run_streams_of(_partitions(consumer), self._control.view)
        finally:
            self._close(consumer)

    def _beat(self) -> None:
        if path := self._settings.ingest.heartbeat_path:
            Path(path).touch()

    def leave(self, partitions: set[int]) -> None:
        """Ends the streams of these partitions, in bounded time."""
        self._end([stream_id for stream_id in self._runners if self._partition(stream_id) in partitions])

    def _run_streams_of(self, partitions: set[int], view: ControlView) -> None:
        wanted = {
            stream_id: added
            for stream_id, added in view.streams.items()
            if self._partition(stream_id) in partitions and not view.is_ended(stream_id)
        }
        self._end([i for i, runner in self._runners.items() if wanted.get(i) != runner.added])
        for runner in self._runners.values():
            if runner.failure is not None:
                raise runner.failure
        self._note_epochs(view)
        waiting = sorted(
            (added for stream_id, added in wanted.items() if stream_id not in self._runners),
            key=lambda added: added.version,
        )
        num_free = self._settings.ingest.max_streams - self._num_running()
        for added in waiting[:num_free]:
            self._begin(added, view)
        self._turned_away.tell(waiting[num_free:])

    def _num_running(self) -> int:
        """Of streams; one that is over, such as of a source that cannot be opened, stays known but takes no room."""
        # A copy, as telemetry asks in a thread of its own.
        return sum(runner.is_running for runner in list(self._runners.values()))

    def _note_epochs(self, view: ControlView) -> None:
        """A worker that had lost a stream may have begun an epoch of it all the same, after ours: readers ignore ours
        from its first record on.
        """
        now_s = time.monotonic()
        self._overtaken_since_s = {
            stream_id: self._overtaken_since_s.get(stream_id, now_s)
            for stream_id, runner in self._runners.items()
            if runner.epoch is not None and runner.epoch < view.epochs.get(stream_id, -1)
        }
        for stream_id, since_s in self._overtaken_since_s.items():
            if now_s - since_s > _OVERTAKEN_S:
                self._runners[stream_id].overtaken_by = view.epochs[stream_id]

    def _begin(self, added: AddedStream, view: ControlView) -> None:
        stream_id = added.stream.stream_id
        _LOG.info("stream %s: begins", stream_id)
        # Only an epoch later than the stream's record is its own.
        was_begun = view.epochs.get(stream_id, -1) > added.version
        runner = StreamRunner(
            added,
            was_begun,
            self._log,
            self._settings.ingest,
            self._budget,
            random.Random(self._rng.getrandbits(64)),
        )
        self._runners[stream_id] = runner
        runner.start()

    def _end(self, stream_ids: list[str]) -> None:
        runners = [self._runners.pop(stream_id) for stream_id in stream_ids]
        for runner in runners:
            _LOG.info("stream %s: is left", runner.added.stream.stream_id)
            runner.stop_soon()
        deadline_s = time.monotonic() + _STOP_TIMEOUT_S
        for runner in runners:
            if not runner.join(max(0.05, deadline_s - time.monotonic())):
                _LOG.warning("stream %s: its thread still waits for Kafka", runner.added.stream.stream_id)

    def _partition(self, stream_id: str) -> int:
        return partition_of(stream_id, self._settings.kafka.partitions)

    def _close(self, consumer: KafkaConsumer) -> None:
        self._end(list(self._runners))
        consumer.close(timeout_ms=2000)
        self._log.close(timeout_s=2.0)
        self._control.stop(timeout_s=1.0)


class _Ownership(ConsumerRebalanceListener):
    """Called within `poll`."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.consumer: KafkaConsumer | None = None

    def on_partitions_assigned(self, assigned: list[TopicPartition]) -> None:
        """The loop looks at the whole assignment after each poll; here it is only kept from being fetched."""
        assert self.consumer is not None
        self.consumer.pause(*assigned)
        for partition in assigned:
            # Without a position the client would look for a committed one, of which there is none.
            self.consumer.seek(partition, 0)

    def on_partitions_revoked(self, revoked: list[TopicPartition]) -> None:
        self._worker.leave({partition.partition for partition in revoked})

    def on_partitions_lost(self, lost: list[TopicPartition]) -> None:
        self._worker.leave({partition.partition for partition in lost})


def frame_budget(settings: Settings) -> FrameBudget:
    """The size of frames that the model wants.

    Raises InvalidInput where it is not there, or too large for a record.
    """
    try:
        budget = FrameBudget.load(settings.model.path)
    except (OSError, ValueError) as error:
        raise InvalidInput(
            f"model.path: no frame size can be read from {settings.model.path}: {error}"
        ) from error
    if settings.ingest.pixel_format == "rgb24" and budget.max_pixels * 3 > MAX_RECORD_BYTES - OVERHEAD_BYTES:
        raise InvalidInput(
            f"ingest.pixel_format: raw frames of {budget.max_pixels} pixels do not fit a Kafka record of "
            f"{MAX_RECORD_BYTES} bytes; set it to jpeg, or lower max_pixels in preprocessor_config.json"
        )
    return budget


def _partitions(consumer: KafkaConsumer) -> set[int]:
    return {partition.partition for partition in consumer.assignment()}


def _on_unreadable(offset: int, reason: str) -> None:
    _LOG.error("control record %d is passed over: %s", offset, reason)
