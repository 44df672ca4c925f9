"""The books of one stream: how far it was taken, what was told, and the state that is committed of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from opentelemetry.context import Context

from services.llm.frame import Frame, FrameId
from services.llm.gaps import Missing, Position
from services.llm.life_cycle import event_id
from services.llm.outbox import Outbox, OutgoingEvent
from services.llm.parts import Parts
from services.shared.telemetry import Metrics
from streamo.v1.event_pb2 import Event, EventKind, Reason
from streamo.v1.frame_pb2 import SourceState, SourceStatus
from streamo.v1.state_pb2 import StreamState, WatchState
from streamo.v1.stream_pb2 import StreamCounters


class Ledger:
    """Gives events their `seq` and puts them into the outbox. Not thread-safe."""

    def __init__(self, stream_id: str, parts: Parts, outbox: Outbox) -> None:
        self.stream_id = stream_id
        self.is_dirty = False  # whether what `state` gives has changed since it was last committed
        self.version: int | None = None  # none before `control` or a committed state named it
        self.removed = False
        self.position = Position()
        self.next_offset = 0
        self._parts = parts
        self._outbox = outbox
        self._last_seq = 0
        self._captured_at_us = 0
        self._source_state = SourceState.SOURCE_STATE_UNSPECIFIED
        self._source_detail = ""
        self._counters = StreamCounters()

    def restore(self, state: StreamState, is_expired: bool) -> None:
        self.version, self.removed, self._last_seq = state.stream_version, state.removed, state.last_seq
        self.position = Position(
            state.epoch,
            state.next_frame_seq,
            state.media_time_ms,
            state.num_unreadable,
            is_begun=state.captured_at_us > 0 or state.next_frame_seq > 0,
            is_expired=is_expired,
        )
        self.next_offset = state.next_offset
        self._captured_at_us = state.captured_at_us
        self._source_state, self._source_detail = state.source_state, state.source_detail
        self._counters.CopyFrom(state.counters)

    @property
    def source_state(self) -> SourceState:
        return self._source_state

    @property
    def frames_skipped(self) -> int:
        """Since the stream was added."""
        return self._counters.frames_skipped

    def state(self, watches: Sequence[WatchState]) -> StreamState:
        return StreamState(
            stream_id=self.stream_id,
            stream_version=self.version or 0,
            removed=self.removed,
            last_seq=self._last_seq,
            epoch=self.position.epoch,
            next_frame_seq=self.position.next_frame_seq,
            media_time_ms=self.position.media_time_ms,
            captured_at_us=self._captured_at_us,
            source_state=self._source_state,
            source_detail=self._source_detail,
            counters=self._counters,
            watches=watches,
            num_unreadable=self.position.num_unreadable,
            next_offset=self.next_offset,
        )

    def reset(self, version: int, removed: bool) -> None:
        """Another stream under the same id, or none: only `seq` and what was read of the partition go on."""
        self.version, self.removed = version, removed
        self.position = Position()
        self._captured_at_us = 0
        self._source_state, self._source_detail = SourceState.SOURCE_STATE_UNSPECIFIED, ""
        self._counters = StreamCounters()
        self.is_dirty = True

    def tell(self, event: Event, context: Context | None) -> None:
        self._last_seq += 1
        event.seq = self._last_seq
        self._outbox.events.append(OutgoingEvent(event, context, self._parts.wall_us()))
        self.is_dirty = True

    def tell_missing(self, missing: Missing) -> None:
        """A GAP; the position moves past the frames it names, if it was not."""
        event = self._stream_event(EventKind.EVENT_KIND_GAP)
        event.reason, event.detail = missing.reason, missing.detail
        event.gap.CopyFrom(missing.gap())
        self.tell(event, None)
        if missing.last is None:
            return
        self._counters.frames_skipped += missing.num_frames
        self._parts.telemetry.count(
            Metrics.FRAMES_SKIPPED, missing.num_frames, reason=Reason.Name(missing.reason)
        )
        is_new = missing.last >= self.position.next_frame  # else they were counted when they were taken
        if missing.was_seen and is_new:
            self.count_kept(missing.num_frames, missing.num_seen)
        if not missing.is_guess:
            if is_new:
                self.advance_to(missing.last.following)
            # Where the frames themselves were seen, their time is known.
            media_time_ms = missing.to_ms if missing.was_seen else self.position.media_time_ms
            self.position = replace(self.position, media_time_ms=media_time_ms, is_begun=True)

    def tell_source(self, status: SourceStatus) -> bool:
        """A SOURCE event, if the state is another one than before; whether it is."""
        changed = status.state != self._source_state
        if changed or status.detail != self._source_detail:
            self._source_state, self._source_detail = status.state, status.detail
            self.is_dirty = True
        if changed:
            event = self._stream_event(EventKind.EVENT_KIND_SOURCE)
            event.source_state, event.detail = status.state, status.detail
            self.tell(event, None)
        return changed

    def advance_to(self, frame: FrameId) -> None:
        self.position = replace(
            self.position,
            epoch=frame.epoch,
            next_frame_seq=frame.frame_seq,
            num_unreadable=0,
            is_expired=False,
        )
        self.is_dirty = True

    def take(self, frame: Frame) -> None:
        """The frame is handed to the watches, or there are none."""
        self.advance_to(frame.id.following)
        self.position = replace(self.position, is_begun=True)
        self.count_kept(1, frame.num_seen)

    def count_kept(self, num_frames: int, num_seen: int) -> None:
        # A source that gives frames is well, so that its next failure is news.
        self._source_state, self._source_detail = SourceState.SOURCE_STATE_LIVE, ""
        self._counters.frames_kept += num_frames
        self._counters.frames_seen += num_seen

    def count_round(self) -> None:
        self._counters.rounds_decided += 1

    def finish(self, frame: Frame) -> None:
        """Every watch is done with the frame."""
        media_time_ms = max(self.position.media_time_ms, frame.mark.media_time_ms)
        self.position = replace(self.position, media_time_ms=media_time_ms)
        self._captured_at_us = max(self._captured_at_us, frame.captured_at_us)
        self.is_dirty = True

    def _stream_event(self, kind: EventKind) -> Event:
        unique = event_id(self.stream_id, EventKind.Name(kind), self._last_seq + 1)
        return Event(stream_id=self.stream_id, kind=kind, event_id=unique)
