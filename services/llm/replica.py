"""The loop of an LLM replica: frames of the partitions it owns in, events out. Knows nothing of Ray."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from models.engine.errors import BadLogits
from models.engine.round import Decision
from services.llm.assignment import Assignment
from services.llm.autoscaling import ReplicaLoad
from services.llm.committer import Committer, FailPoint, no_failpoint
from services.llm.engine_meter import EngineMeter
from services.llm.frame_reader import FrameReader
from services.llm.load_meter import LoadMeter
from services.llm.partition import Partition
from services.llm.parts import Parts
from services.llm.picture_reader import PictureReader
from services.llm.recovery import Recovery, Takeover
from services.llm.session import Session
from services.llm.stream import Stream
from services.llm.stream_health import StreamMeter
from services.shared.checkpoints import CheckpointStore
from services.shared.control_log import ControlReader
from services.shared.errors import Unavailable
from services.shared.kafka import cluster_id
from services.shared.settings import Settings
from services.shared.telemetry import Metrics
from services.shared.topics import Topics
from streamo.v1.event_pb2 import Reason

log = logging.getLogger(__name__)

EXIT_CODE = 70
# Waits of the consumer while nothing else is expected, and while an embedding or a commit will end any moment.
_IDLE_POLL_MS, _WAITING_POLL_MS = 50, 3
_MAX_RECORDS = 64
# Frames of a partition that wait, nearly all without their pictures: about 1 KiB each, hours of a stream.
_MAX_WAITING = 32_768
_NUM_TAKEOVERS = 2
_STOP_TIMEOUT_S = 8.0


class Replica:
    """One member of the group. `run` is the whole life of it, in one thread; `stop` may be called from another.

    Crash-only: whatever goes wrong with a commit, a takeover or a rebalance ends the process by `exit_process`, and
    the next owner goes on from the last commit.
    """

    def __init__(
        self,
        settings: Settings,
        parts: Parts,
        frame_reader: FrameReader,
        *,
        exit_process: Callable[[int], None] = os._exit,
        failpoint: FailPoint = no_failpoint,
    ) -> None:
        self._settings = settings
        self._parts = parts
        self._frame_reader = frame_reader
        self._exit_process = exit_process
        self._failpoint = failpoint
        self._topics = Topics.of(settings.kafka)
        self._partitions: dict[int, Partition] = {}
        self._paused: set[int] = set()
        self._taking_over: list[tuple[int, float, Future[Takeover | None]]] = []
        self._taken_since_s: dict[int, float] = {}  # when each partition was assigned
        self._executor = ThreadPoolExecutor(_NUM_TAKEOVERS, thread_name_prefix="takeover")
        self._stopping = threading.Event()
        self._stopped = threading.Event()
        self._heartbeat_s = time.monotonic()
        self._failure: BaseException | None = None
        self._moved = False
        self._meter = EngineMeter(parts.engine, parts.telemetry, time.monotonic)
        self._load_meter = LoadMeter(self._meter, parts, settings.llm.max_sessions)

    @property
    def heartbeat_age_s(self) -> float:
        """Since the loop last went round."""
        return time.monotonic() - self._heartbeat_s

    @property
    def failure(self) -> BaseException | None:
        return self._failure

    @property
    def load(self) -> ReplicaLoad:
        """As of about a second ago."""
        return self._load_meter.load

    def run(self) -> None:
        """Returns after `stop`; on a failure it ends the process."""
        try:
            self._start()
            while not self._stopping.is_set():
                self._heartbeat_s = time.monotonic()
                self._receive()
                self._follow_assignment()
                self._advance()
                self._step()
                self._commit()
                self._load_meter.measure(self._partitions.values())
            self._shut_down()
        except BaseException as error:
            self._failure = error
            log.critical("the replica cannot go on, the process ends: %r", error, exc_info=True)
            self._exit_process(EXIT_CODE)
        finally:
            self._stopped.set()

    def stop(self, timeout_s: float = _STOP_TIMEOUT_S) -> bool:
        """Asks `run` to commit what is ready, leave the group and return; whether it has within `timeout_s`."""
        self._stopping.set()
        return self._stopped.wait(timeout_s)

    # The loop

    def _start(self) -> None:
        telemetry = self._parts.telemetry
        self._topics.create(self._settings.kafka)
        self._cluster_id = cluster_id(self._settings.kafka)
        self._control = ControlReader(
            self._settings.kafka,
            on_unreadable=lambda offset, reason: log.error("control record %d: %s", offset, reason),
        )
        self._control.start()
        self._checkpoints = CheckpointStore(
            self._settings.redis,
            self._settings.kafka.prefix,
            self._settings.kafka.frames_retention_s,
            lambda outcome, amount: telemetry.count(Metrics.CHECKPOINTS, amount, reason=outcome),
        )
        timeout_s = self._settings.encoder.timeout_s
        self._pictures = PictureReader(self._settings.kafka, self._frame_reader, timeout_s)
        telemetry.start_at_zero(
            Metrics.COMMITS_ABORTED,
            Metrics.FRAMES_OVERTAKEN,
            Metrics.RECORDS_QUARANTINED,
            Metrics.SESSIONS_REBUILT,
        )
        max_named = self._settings.telemetry.max_named_streams
        self._stream_meter = StreamMeter(telemetry, max_named, time.monotonic)
        self._assignment = Assignment(self._settings, self._wait_idle)
        telemetry.gauge(Metrics.PENDING_FRAMES, self._num_pending)

    def _receive(self) -> None:
        if self._moved or self._parts.engine.has_work:
            timeout_ms = 0
        elif self._taking_over or any(partition.is_waiting for partition in self._partitions.values()):
            timeout_ms = _WAITING_POLL_MS
        else:
            timeout_ms = _IDLE_POLL_MS
        records = self._assignment.poll(timeout_ms, _MAX_RECORDS)
        released = self._assignment.take_released()
        for number in released:
            self._release(number)
        for number, received in records.items():
            if number in self._partitions:
                self._partitions[number].receive(received)
        for number in self._assignment.take_expired():
            # From what is still kept it goes on with a gap; the other partitions have nothing to do with it.
            self._take_over_anew(number, "retention has deleted what was to be read next")
        self._hold_back()

    def _hold_back(self) -> None:
        """Pauses partitions in which as many frames wait as may, and resumes them when half are done."""
        for number, partition in self._partitions.items():
            if number not in self._paused and partition.num_waiting >= _MAX_WAITING:
                self._assignment.pause(number)
                self._paused.add(number)
            elif number in self._paused and partition.num_waiting <= _MAX_WAITING // 2:
                self._assignment.resume(number)
                self._paused.discard(number)

    def _follow_assignment(self) -> None:
        for number in self._assignment.take_assigned():
            self._take_over(number)
        for under_way in [*self._taking_over]:
            number, since_s, takeover = under_way
            if takeover.done():
                self._taking_over.remove(under_way)
                self._adopt(takeover.result(), since_s)

    def _advance(self) -> None:
        view = self._control.view
        self._moved = False
        for number, partition in self._partitions.items():
            at_end = partition.next_offset >= self._assignment.end_of(number)
            self._moved |= partition.advance(view, at_end)
        self._stream_meter.update(
            one for partition in self._partitions.values() for one in partition.health()
        )

    def _step(self) -> None:
        if not self._parts.engine.has_work:
            return
        try:
            outputs = self._meter.step()
        except BadLogits as error:
            self._break_off(error)
            return
        sessions = self._sessions() if outputs else {}
        for output in outputs:
            found = sessions.get(output.session_id)
            # An ask may have ended with an earlier output of this step.
            if found is None or found[2].watch.watch_id not in found[1].roster.sessions:
                continue
            partition, stream, session = found
            if isinstance(output, Decision):
                partition.decided(stream, session, output)
            else:
                partition.replied(stream, session, output)
        self._moved = True

    def _commit(self) -> None:
        if not self._partitions:
            return
        group = self._assignment.group_metadata()
        for number, partition in list(self._partitions.items()):
            partition.commit_if_due(group)
            if partition.needs_takeover:
                self._take_over_anew(number, "a connection was lost during a transaction")
            if partition.commit_busy_s > self._settings.llm.commit_timeout_s:
                raise Unavailable(
                    f"a commit of partition {number} took over {self._settings.llm.commit_timeout_s:g} s"
                )

    # Partitions come and go

    def _take_over(self, number: int) -> None:
        since_s = self._taken_since_s[number] = time.monotonic()
        takeover = self._executor.submit(self._recover, number, since_s)
        self._taking_over.append((number, since_s, takeover))

    def _take_over_anew(self, number: int, reason: str) -> None:
        log.warning("partition %d is taken over anew: %s", number, reason)
        self._release(number)
        self._assignment.pause(number)
        self._take_over(number)

    def _recover(self, number: int, since_s: float) -> Takeover | None:
        recovery = Recovery(
            self._settings,
            number,
            self._control,
            self._checkpoints,
            self._cluster_id,
            self._frame_reader,
            self._parts.encoder,
            self._parts.dialogue,
            lambda outcome, amount: self._parts.telemetry.count(Metrics.CHECKPOINTS, amount, reason=outcome),
        )
        return recovery.run(lambda: self._taken_since_s.get(number) == since_s)

    def _adopt(self, takeover: Takeover | None, since_s: float) -> None:
        if takeover is None:
            return
        number, standing = takeover.partition, takeover.standing
        if self._taken_since_s.get(number) != since_s:
            takeover.producer.close(timeout=0)
            return
        partition = Partition(
            number,
            standing,
            self._settings.kafka.partitions,
            self._topics,
            self._parts,
            self._frame_reader,
            Committer(takeover.producer, str(number), self._failpoint),
            self._cluster_id,
            self._checkpoints.save,
            partial(self._pictures.load, number),
        )
        partition.restore(standing, takeover.view)
        self._partitions[number] = partition
        self._assignment.start(number, standing.next_offset)
        took_ms = (time.monotonic() - since_s) * 1000
        self._parts.telemetry.record(Metrics.TAKEOVER_MS, took_ms)
        log.info("partition %d taken over in %.0f ms, from offset %d", number, took_ms, standing.next_offset)

    def _release(self, number: int) -> None:
        self._taken_since_s.pop(number, None)
        self._paused.discard(number)
        partition = self._partitions.pop(number, None)
        if partition is not None:
            partition.close(timeout_s=0.1)
            log.info("partition %d given up", number)

    def _wait_idle(self, number: int, timeout_s: float) -> None:
        """Called by the listener, while this thread waits in `poll`."""
        partition = self._partitions.get(number)
        if partition is not None:
            partition.wait_idle(timeout_s)

    def _break_off(self, error: BadLogits) -> None:
        log.error("sessions are ended: %s", error)
        sessions = self._sessions()
        for session_id in error.session_ids:
            _, stream, session = sessions[session_id]
            stream.break_off(session.watch.watch_id, Reason.REASON_REFUSED, error.detail)

    def _sessions(self) -> dict[str, tuple[Partition, Stream, Session]]:
        return {
            session_id: (partition, *found)
            for partition in self._partitions.values()
            for session_id, found in partition.sessions().items()
        }

    def _num_pending(self) -> int:
        return sum(partition.num_waiting for partition in list(self._partitions.values()))

    def _shut_down(self) -> None:
        """Commits what is ready, then leaves the group; a new owner finds nothing to do again."""
        deadline_s = time.monotonic() + _STOP_TIMEOUT_S / 2
        group = self._assignment.group_metadata()
        for partition in self._partitions.values():
            partition.commit_last(group, max(0.0, deadline_s - time.monotonic()))
        self._assignment.close(_STOP_TIMEOUT_S / 4)
        for number in list(self._partitions):
            self._release(number)
        self._executor.shutdown(wait=False, cancel_futures=True)
        self._control.stop(1.0)
        self._pictures.close(1.0)
        self._checkpoints.close()
