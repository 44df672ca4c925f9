"""One owned partition: its streams, what they have to say, and its commits."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from kafka import TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from kafka.structs import ConsumerGroupMetadata

from models.engine.round import Decision, Reply
from services.llm.committer import Aborted, Committed, CommitterPort, OutgoingRecord, Transaction
from services.llm.frame import Frame, Unreadable
from services.llm.frame_reader import FrameReader, stream_id_of
from services.llm.outbox import Outbox, OutgoingEvent
from services.llm.parts import Parts
from services.llm.record_queue import LoadPicture
from services.llm.recovery import Standing
from services.llm.session import Session
from services.llm.stream import Stream
from services.llm.stream_health import StreamHealth
from services.shared.control_log import ControlView
from services.shared.kafka import trace_headers
from services.shared.telemetry import Metrics, Spans
from services.shared.topics import MAX_RECORD_BYTES, Topics, partition_of
from streamo.v1.event_pb2 import EventKind, Reason
from streamo.v1.state_pb2 import Checkpoint, StreamState, WindowReplies
from streamo.v1.task_pb2 import Task

log = logging.getLogger(__name__)

# Leaves room for the key, and for the headers that say where a quarantined record was.
_MAX_QUARANTINED_BYTES = MAX_RECORD_BYTES - 64 * 1024
_MAX_QUARANTINED_KEY_BYTES = 1024

# A rebalance is the usual reason; it takes a moment.
_ABORT_PAUSE_S = 0.05

SaveCheckpoints = Callable[[Sequence[Checkpoint]], None]


class Partition:
    """Not thread-safe; never blocks. All that its streams tell becomes visible with a commit, or not at all."""

    def __init__(
        self,
        number: int,
        standing: Standing,
        num_partitions: int,
        topics: Topics,
        parts: Parts,
        reader: FrameReader,
        committer: CommitterPort,
        cluster_id: str,
        save_checkpoints: SaveCheckpoints,
        load_picture: LoadPicture,
    ) -> None:
        self.number = number
        self.next_offset = standing.next_offset  # to be read from `frames`
        self._num_partitions = num_partitions
        self._topics = topics
        self._parts = parts
        self._reader = reader
        self._committer = committer
        self._cluster_id = cluster_id
        self._save_checkpoints = save_checkpoints
        self._load_picture = load_picture
        self._streams: dict[str, Stream] = {}
        self._outbox = Outbox()
        self._frames = TopicPartition(topics.frames, number)
        self._committed_offset = standing.next_offset
        self._events_end = standing.events_end  # no event of a later commit stands below
        self._view = ControlView()
        self._last_commit_s = parts.monotonic_s()
        self._held: Transaction | None = None  # aborted, to be given again
        self._held_since_s = 0.0
        self._given_since_s: float | None = None
        self._given_events: list[OutgoingEvent] = []
        self._num_given_quarantined = 0
        self._given_states: list[tuple[StreamState, Sequence[WindowReplies]]] = []

    @property
    def num_waiting(self) -> int:
        return sum(stream.num_waiting for stream in self._streams.values())

    @property
    def num_sessions(self) -> int:
        return sum(len(stream.roster.sessions) for stream in self._streams.values())

    @property
    def num_watches_waiting(self) -> int:
        """For room in the engine."""
        return sum(stream.roster.num_waiting for stream in self._streams.values())

    @property
    def lag_s(self) -> float:
        """Age of the oldest frame that is still to be decided; 0 where all are decided."""
        waiting_since_us = [
            since_us for stream in self._streams.values() if (since_us := stream.waiting_since_us) is not None
        ]
        now_us = self._parts.wall_us()
        return max(0.0, (now_us - min(waiting_since_us, default=now_us)) / 1e6)

    @property
    def is_waiting(self) -> bool:
        """Something that is not told by the consumer will come soon: an embedding, or the end of a commit."""
        return not self._committer.is_idle or any(stream.is_encoding for stream in self._streams.values())

    @property
    def needs_takeover(self) -> bool:
        """It has to be taken over anew before it can commit again, from what was committed until now."""
        return self._committer.is_tainted and self._committer.is_idle

    @property
    def commit_busy_s(self) -> float:
        """How long the transaction under way has been so, aborted tries included; 0 where there is none."""
        since_s = self._given_since_s
        return 0.0 if since_s is None else self._parts.monotonic_s() - since_s

    def restore(self, standing: Standing, view: ControlView) -> None:
        """To be called once, before anything else."""
        for stream_id, state in standing.states.items():
            windows = {
                watch_id: past
                for (of_stream, watch_id), past in standing.windows.items()
                if of_stream == stream_id
            }
            self._stream(stream_id).restore(state, windows, standing.is_expired, view)
        if self.num_sessions:
            self._parts.telemetry.count(Metrics.SESSIONS_REBUILT, self.num_sessions)

    def health(self) -> list[StreamHealth]:
        """Of its streams that `control` holds."""
        told = [stream.health() for stream in self._streams.values()]
        return [one for one in told if one is not None]

    def sessions(self) -> dict[str, tuple[Stream, Session]]:
        """By the engine's session id."""
        return {
            session.engine_id: (stream, session)
            for stream in self._streams.values()
            for session in stream.roster.sessions.values()
        }

    def receive(self, records: Sequence[ConsumerRecord]) -> None:
        for record in records:
            if record.offset < self.next_offset:
                continue
            self.next_offset = record.offset + 1
            stream_id = stream_id_of(record.key)
            if stream_id is not None and not self._is_own(stream_id):
                # Its stream has another owner, and must not have two.
                self._outbox.quarantined.append(_misplaced(record))
                continue
            for item in self._reader.read(record):
                if isinstance(item, Frame):
                    self._note_received(item)
                if stream_id is None:
                    assert isinstance(item, Unreadable)
                    self._outbox.quarantined.append(item)
                else:
                    self._stream(stream_id).offer(item)

    def advance(self, view: ControlView, at_end: bool) -> bool:
        """Leads what was received on its way; whether anything moved."""
        if view is not self._view:
            self._view = view
            for stream_id in view.streams:
                if self._is_own(stream_id):
                    self._stream(stream_id)
        moved = False
        for stream in self._streams.values():
            moved |= stream.advance(view, at_end)
        return moved

    def decided(self, stream: Stream, session: Session, decision: Decision) -> None:
        now_us = self._parts.wall_us()
        round_, event = session.decide(decision, now_us)
        round_.context = self._parts.telemetry.span(
            Spans.DECIDE,
            round_.ready_at_us,
            now_us,
            round_.context,
            state=decision.state.name,
            stream_id=stream.stream_id,
            watch_id=session.watch.watch_id,
        )
        task, state = Task.Name(session.watch.task), decision.state.name
        self._parts.telemetry.count(Metrics.ROUNDS_DECIDED, 1, state=state, task=task)
        self._parts.telemetry.record(Metrics.DECISION_MS, (now_us - round_.captured_at_us) / 1000)
        if event is not None:
            stream.ledger.tell(event, round_.context)
        if session.next_frame > round_.mark.id:
            stream.ledger.count_round()
            stream.settle()

    def replied(self, stream: Stream, session: Session, reply: Reply) -> None:
        now_us = self._parts.wall_us()
        round_, event = session.reply(reply, now_us, self._events_end)
        round_.context = self._parts.telemetry.span(
            Spans.REPLY,
            round_.decided_at_us,
            now_us,
            round_.context,
            stream_id=stream.stream_id,
            watch_id=session.watch.watch_id,
        )
        stream.ledger.tell(event, round_.context)
        stream.ledger.count_round()
        stream.settle()
        if session.watch.once and event.kind == EventKind.EVENT_KIND_ANSWER:
            stream.end_ask(session.watch, Reason.REASON_ANSWERED)

    def commit_if_due(self, group: ConsumerGroupMetadata) -> None:
        """Takes the result of the last commit and begins the next one where it is due. Raises CommitFailed."""
        result = self._committer.take_result()
        if isinstance(result, Committed):
            self._note_committed(result)
        elif isinstance(result, Aborted):
            self._held, self._held_since_s = result.transaction, self._parts.monotonic_s()
            self._parts.telemetry.count(Metrics.COMMITS_ABORTED)
        if not self._committer.is_idle or group.generation_id < 0 or not group.member_id:
            return
        if self.needs_takeover:
            return
        if self._held is not None:
            if self._parts.monotonic_s() - self._held_since_s >= _ABORT_PAUSE_S:
                transaction, self._held = self._held, None
                self._committer.give(transaction, group)
        elif self._is_commit_due():
            self._given_since_s = self._parts.monotonic_s()
            self._committer.give(self._snapshot(), group)

    def commit_last(self, group: ConsumerGroupMetadata, timeout_s: float) -> None:
        """Commits what there is, if it can be done in time. Raises CommitFailed."""
        deadline_s = self._parts.monotonic_s() + timeout_s
        self._last_commit_s = -self._parts.settings.commit_period_s
        for _ in range(2):  # the one under way, and one more
            self._committer.wait_idle(max(0.0, deadline_s - self._parts.monotonic_s()))
            self.commit_if_due(group)

    def wait_idle(self, timeout_s: float) -> bool:
        return self._committer.wait_idle(timeout_s)

    def close(self, timeout_s: float) -> None:
        """Lets go of everything; what was not committed is for the next owner to do again."""
        for stream in self._streams.values():
            stream.drop()
        self._committer.close(timeout_s)

    def _is_commit_due(self) -> bool:
        if self._outbox.events or self._outbox.tombstones or self._outbox.quarantined:
            return True
        if self._parts.monotonic_s() - self._last_commit_s < self._parts.settings.commit_period_s:
            return False
        return self._needed_offset() > self._committed_offset or any(
            stream.ledger.is_dirty for stream in self._streams.values()
        )

    def _needed_offset(self) -> int:
        needed = (stream.needed_offset for stream in self._streams.values())
        return min((offset for offset in needed if offset is not None), default=self.next_offset)

    def _snapshot(self) -> Transaction:
        """What was told since the last commit, and every stream as it stands now."""
        outbox = self._outbox
        self._given_events = list(outbox.events)
        records = [self._event_record(outgoing) for outgoing in outbox.events]
        records += [OutgoingRecord(self._topics.control, 0, key, None, []) for key in outbox.tombstones]
        records += [self._quarantine_record(unreadable) for unreadable in outbox.quarantined]
        self._num_given_quarantined = len(outbox.quarantined)
        self._given_states = []
        for stream in self._streams.values():
            if stream.ledger.is_dirty:
                stream.ledger.is_dirty = False
                state = stream.state()
                replies = [session.replies() for session in stream.roster.sessions.values()]
                self._given_states.append((state, replies))
        records += [
            OutgoingRecord(
                self._topics.state, self.number, state.stream_id.encode(), state.SerializeToString(), []
            )
            for state, _ in self._given_states
        ]
        outbox.events, outbox.tombstones, outbox.quarantined = [], [], []
        return Transaction(records, self._frames, self._needed_offset())

    def _note_committed(self, committed: Committed) -> None:
        self._committed_offset = committed.transaction.next_offset
        self._last_commit_s = self._parts.monotonic_s()
        telemetry, now_us = self._parts.telemetry, self._parts.wall_us()
        telemetry.record(Metrics.COMMIT_MS, (committed.ended_s - committed.started_s) * 1000)
        for outgoing in self._given_events:
            kind = EventKind.Name(outgoing.event.kind)
            telemetry.count(Metrics.EVENTS_COMMITTED, 1, event_kind=kind)
            if outgoing.context is not None:
                telemetry.span(Spans.COMMIT, outgoing.made_at_us, now_us, outgoing.context, event_kind=kind)
        if self._num_given_quarantined:
            telemetry.count(Metrics.RECORDS_QUARANTINED, self._num_given_quarantined)
        if self._given_events:
            self._events_end = committed.offsets[len(self._given_events) - 1] + 1
        if self._given_states:
            state_offsets = committed.offsets[-len(self._given_states) :]
            self._save_checkpoints(
                [
                    Checkpoint(
                        cluster_id=self._cluster_id,
                        committed_frames_offset=self._committed_offset,
                        state_offset=offset,
                        state=state,
                        replies=replies,
                        vocabulary=self._parts.dialogue.vocabulary,
                    )
                    for offset, (state, replies) in zip(state_offsets, self._given_states, strict=True)
                ]
            )
        self._given_events, self._given_states, self._given_since_s = [], [], None
        self._num_given_quarantined = 0

    def _event_record(self, outgoing: OutgoingEvent) -> OutgoingRecord:
        event = outgoing.event
        headers = [] if outgoing.context is None else trace_headers(outgoing.context)
        return OutgoingRecord(
            self._topics.events, self.number, event.stream_id.encode(), event.SerializeToString(), headers
        )

    def _quarantine_record(self, unreadable: Unreadable) -> OutgoingRecord:
        key, value = unreadable.key, unreadable.value
        headers = [
            ("source.topic", self._topics.frames.encode()),
            ("source.partition", str(self.number).encode()),
            ("source.offset", str(unreadable.offset).encode()),
            ("reason", unreadable.reason.encode()[:4096]),
        ]
        if value is not None and len(value) > _MAX_QUARANTINED_BYTES:
            headers.append(("truncated.bytes", str(len(value)).encode()))
            value = value[:_MAX_QUARANTINED_BYTES]
        if key is not None:
            key = key[:_MAX_QUARANTINED_KEY_BYTES]
        # Without a key the value must be there.
        return OutgoingRecord(self._topics.quarantine, 0, key, value or b"", headers)

    def _note_received(self, frame: Frame) -> None:
        self._parts.telemetry.span(
            Spans.RECEIVE,
            frame.captured_at_us,
            self._parts.wall_us(),
            frame.context,
            partition=str(self.number),
            epoch=frame.id.epoch,
            frame_seq=frame.id.frame_seq,
        )

    def _is_own(self, stream_id: str) -> bool:
        return partition_of(stream_id, self._num_partitions) == self.number

    def _stream(self, stream_id: str) -> Stream:
        stream = self._streams.get(stream_id)
        if stream is None:
            stream = self._streams[stream_id] = Stream(
                stream_id, self._parts, self._outbox, self._load_picture
            )
        return stream


def _misplaced(record: ConsumerRecord) -> Unreadable:
    reason = "the record's key is of a stream of another partition"
    return Unreadable(record.offset, reason, record.key, record.value, tuple(record.headers or ()))
