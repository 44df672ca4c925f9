"""One stream: takes its records in order and leads every frame to the watches."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING

from services.llm.frame import Frame, FrameId, FrameMark, Item, Status, Unreadable
from services.llm.gaps import Missing, Position
from services.llm.ledger import Ledger
from services.llm.outbox import Outbox
from services.llm.parts import Parts
from services.llm.picture_reader import PictureExpired
from services.llm.record_queue import LoadPicture, Queued, RecordQueue
from services.llm.roster import Roster
from services.llm.session import PastRound, Session
from services.llm.shed import Shed
from services.llm.stream_health import Condition, StreamHealth
from services.shared.control_log import AddedStream, ControlView
from services.shared.telemetry import Metrics
from streamo.v1.event_pb2 import Reason
from streamo.v1.frame_pb2 import SourceState
from streamo.v1.state_pb2 import StreamState
from streamo.v1.watch_pb2 import Watch

if TYPE_CHECKING:
    import torch

_LIVE_SCHEMES = ("rtsp://", "rtsps://", "http://", "https://")
# `control` is read within moments; an epoch it does not hold by then was never begun. But a replica that died with a
# transaction open holds it up: until another is assigned its partitions (session and rebalance), or until the broker
# ends what is over its time (15 s, looked at every 10 s).
_EPOCH_TIMEOUT_S = 60.0
# How long a stream that passed frames over counts as shedding.
_SHEDDING_S = 60.0
_FAILING = {
    SourceState.SOURCE_STATE_DISCONNECTED,
    SourceState.SOURCE_STATE_AUTH_FAILED,
    SourceState.SOURCE_STATE_NOT_FOUND,
    SourceState.SOURCE_STATE_UNSUPPORTED,
}


class Stream:
    """Not thread-safe; never blocks.

    A frame is taken when every watch has room for its round. Whatever is told between frames (gaps, changes of the
    source, watches that end) waits until no round is under way: so it stands in `events` where it happened, and the
    state committed with it has every watch past what it names.
    """

    def __init__(self, stream_id: str, parts: Parts, outbox: Outbox, load_picture: LoadPicture) -> None:
        self.stream_id = stream_id
        self.ledger = Ledger(stream_id, parts, outbox)
        self.roster = Roster(parts, self.ledger.tell, outbox)
        self._parts = parts
        self._outbox = outbox
        self._view = ControlView()
        self._added: AddedStream | None = None
        self._queue = RecordQueue(stream_id, parts, load_picture)
        self._under_way: deque[Frame] = deque()
        self._shed: Shed | None = None
        self._last_frame_s = parts.monotonic_s()
        self._last_shed_s = -math.inf
        self._is_recording = False  # by its newest frame
        self._waiting_for_epoch_since_s: float | None = None

    def restore(
        self,
        state: StreamState,
        windows: Mapping[str, Sequence[PastRound]],
        is_expired: bool,
        view: ControlView,
    ) -> None:
        """Goes on from what was committed. `is_expired`: records that are still needed were deleted."""
        self.ledger.restore(state, is_expired)
        added = view.streams.get(self.stream_id)
        is_current = added is not None and added.version == state.stream_version
        wanted = view.watches_of(self.stream_id) if is_current else {}
        for watch_state in state.watches:
            watch = wanted.get(watch_state.watch_id)
            if watch_state.ended:
                self.roster.restore_ended(watch_state)
            elif watch is not None and watch.version == watch_state.version:
                self.roster.resume(watch, watch_state, windows.get(watch_state.watch_id, ()))
            elif not is_current:
                self.roster.end_former(self.stream_id, watch_state, Reason.REASON_STREAM_REMOVED)
            elif watch is None:
                self.roster.end_former(self.stream_id, watch_state, Reason.REASON_WATCH_REMOVED)
            else:
                self.roster.end_former(self.stream_id, watch_state, Reason.REASON_WATCH_CHANGED)

    def offer(self, item: Item) -> None:
        """The next record, or the next frame of it."""
        if isinstance(item, Frame):
            self._last_frame_s = self._parts.monotonic_s()
            self._is_recording = item.is_recording
        self._queue.append(item)

    def advance(self, view: ControlView, at_end: bool) -> bool:
        """Takes what can be taken; whether anything was. `at_end`: nothing newer of the partition is to be read."""
        self._follow(view)
        self._time_out()
        moved = False
        while (queued := self._queue.head) is not None and self._pass(queued, at_end):
            moved = True
        if not self._queue and at_end:
            self._end_shed()
        if self.roster.sessions:
            self._queue.encode_ahead(self._is_to_be_decided)
        return moved

    def settle(self) -> None:
        """To be called when a round has finished or a watch has ended."""
        sessions = self.roster.sessions.values()
        while self._under_way and all(s.next_frame > self._under_way[0].id for s in sessions):
            self.ledger.finish(self._under_way.popleft())

    def end_ask(self, watch: Watch, reason: Reason) -> None:
        """An ask is answered or its time is over."""
        if watch.watch_id in self.roster.sessions:
            self.roster.end(watch.watch_id, reason, for_good=True)
        else:
            self.roster.end_unstarted(watch, reason)
        self.settle()

    def break_off(self, watch_id: str, reason: Reason, detail: str) -> None:
        """Ends a watch that cannot go on, for good."""
        self.roster.end(watch_id, reason, detail, for_good=True)
        self.settle()

    def state(self) -> StreamState:
        return self.ledger.state(self.roster.states())

    @property
    def num_waiting(self) -> int:
        return len(self._queue) + len(self._under_way)

    @property
    def waiting_since_us(self) -> int | None:
        """When the oldest frame that is still to be decided was captured; None: all are decided."""
        oldest = next(chain(self._under_way, self._queue.frames), None)
        return None if oldest is None else oldest.captured_at_us

    @property
    def is_encoding(self) -> bool:
        return self._queue.is_encoding

    @property
    def needed_offset(self) -> int | None:
        """The lowest record that is still needed; None: all that was offered is done with."""
        head = self._queue.head
        candidates = [] if head is None else [head.item.offset]
        if self._under_way:
            candidates.append(self._under_way[0].offset)
        if self._shed is not None:
            candidates.append(self._shed.first.offset)
        return min(candidates, default=None)

    def health(self) -> StreamHealth | None:
        """None where `control` has no such stream. Silence counts from the takeover at the earliest."""
        if self._added is None or self.ledger.removed:
            return None
        now_s, settings = self._parts.monotonic_s(), self._parts.settings
        silent_s = now_s - self._last_frame_s
        now_us, waiting_since_us = self._parts.wall_us(), self.waiting_since_us
        behind_s = max(0.0, now_us - (now_us if waiting_since_us is None else waiting_since_us)) / 1e6
        if self.ledger.source_state == SourceState.SOURCE_STATE_ENDED:
            condition, silent_s = Condition.ENDED, 0.0
        elif self.ledger.source_state in _FAILING:
            condition = Condition.FAILING
        elif silent_s > settings.source_lost_s:
            condition = Condition.SILENT
        elif now_s - self._last_shed_s < _SHEDDING_S:
            condition = Condition.SHEDDING
        elif self._is_live and behind_s > settings.max_lag_s / 2:
            condition = Condition.BEHIND
        else:
            condition = Condition.OK
        return StreamHealth(self.stream_id, condition, silent_s, behind_s, self.ledger.frames_skipped)

    def drop(self) -> None:
        """The stream has another owner: forget it without a word."""
        self.roster.drop()
        self._queue.clear()

    # What `control` asks for, and what time does

    def _follow(self, view: ControlView) -> None:
        if view is not self._view:
            self._view, self._added = view, view.streams.get(self.stream_id)
            self._follow_watches()
        if self.roster.has_rounds_under_way:
            return
        for watch_id, reason in self.roster.to_end:
            self.roster.end(watch_id, reason)
        self.settle()
        ledger, added = self.ledger, self._added
        if added is not None and (added.version != ledger.version or ledger.removed):
            self._reset(added.version, removed=False)
            self._follow_watches()
        elif added is None and ledger.version is not None and not ledger.removed:
            self._reset(ledger.version, removed=True)

    def _follow_watches(self) -> None:
        ledger, added = self.ledger, self._added
        is_current = added is not None and added.version == ledger.version and not ledger.removed
        wanted = self._view.watches_of(self.stream_id) if is_current else {}
        ledger.is_dirty |= self.roster.follow(wanted, is_current)

    def _reset(self, version: int, removed: bool) -> None:
        self._end_shed()
        self.ledger.reset(version, removed)

    def _time_out(self) -> None:
        for watch in self.roster.expired_asks(self._parts.wall_us()):
            self.end_ask(watch, Reason.REASON_TIMED_OUT)
        is_quiet = self._parts.monotonic_s() - self._last_frame_s > self._parts.settings.source_lost_s
        if is_quiet and self._is_live and not self._queue and not self.roster.has_rounds_under_way:
            self.roster.retract_all(Reason.REASON_SOURCE_LOST)

    @property
    def _is_live(self) -> bool:
        """Whether its frames lose their worth by waiting. What comes over HTTP may be either: its frames say."""
        if self._added is None or self._is_recording:
            return False
        return self._added.stream.source.lower().startswith(_LIVE_SCHEMES)

    # The records, in order

    def _pass(self, queued: Queued, at_end: bool) -> bool:
        """Takes the record at the head of the queue, or says that it cannot be taken now."""
        item = queued.item
        if not self._knows_epoch(item):
            return False
        if self._added is None:
            if isinstance(item, Unreadable):
                self._outbox.quarantined.append(item)
            self._pop()
            return True
        if gone := self._gone_before(item):
            if self.roster.has_rounds_under_way:
                return False
            self._tell_missing(gone)
        if isinstance(item, Frame):
            return self._pass_frame(queued, item, at_end)
        if item.offset >= self.ledger.next_offset or self._untold(item):
            if self.roster.has_rounds_under_way:
                return False
            self._end_shed()
            if isinstance(item, Status):
                self._apply_status(item)
            else:
                self._apply_unreadable(item)
        self._pop()
        return True

    def _knows_epoch(self, item: Item) -> bool:
        """Whether `control` has been read up to the record that began the epoch."""
        if isinstance(item, Unreadable):
            return True
        epoch = item.id.epoch if isinstance(item, Frame) else item.epoch
        if epoch < self._view.next_offset:
            self._waiting_for_epoch_since_s = None
            return True
        now_s = self._parts.monotonic_s()
        if self._waiting_for_epoch_since_s is None:
            self._waiting_for_epoch_since_s = now_s
        elif now_s - self._waiting_for_epoch_since_s > _EPOCH_TIMEOUT_S:
            value = item.pixels.tobytes() if isinstance(item, Frame) else item.status.SerializeToString()
            reason = f"epoch {epoch} was never begun in control"
            self._queue.replace_head(Unreadable(item.offset, reason, self.stream_id.encode(), value, ()))
        return False

    def _gone_before(self, item: Item) -> Sequence[Missing]:
        """Frames that were under way before a takeover and do not come again: retention has deleted them."""
        position = self.ledger.position
        owed = min((session.next_to_append for session in self.roster.sessions.values()), default=None)
        if owed is None or owed >= position.next_frame:
            return []
        marks = _marks(item)
        if marks:
            until, to_ms = min(marks[0].id, position.next_frame), marks[0].media_time_ms
        elif item.offset >= self.ledger.next_offset:
            until, to_ms = position.next_frame, position.media_time_ms
        else:
            return []
        return position.gone(owed, until, to_ms)

    def _untold(self, item: Item) -> Sequence[FrameMark]:
        """Frames that cannot be read and are neither told nor decided: those that no watch has had, and those that
        were under way before a takeover."""
        if not isinstance(item, Unreadable) or self._added is None:
            return []
        own = [mark for mark in item.frames if mark.id.epoch >= self._added.version]  # not of a former stream
        next_frame = self.ledger.position.next_frame
        return [mark for mark in own if mark.id >= next_frame or self.roster.takers(mark.id)]

    def _pass_frame(self, queued: Queued, frame: Frame, at_end: bool) -> bool:
        position = self._position_with_shed
        if self._added is not None and frame.id.epoch < self._added.version:
            self._pop()  # of a former stream of this id
            return True
        if frame.id.epoch < position.epoch and frame.offset >= self.ledger.next_offset:
            self._parts.telemetry.count(Metrics.FRAMES_OVERTAKEN)
            self._pop()  # of an ingest worker that was overtaken
            return True
        if frame.id < position.next_frame:
            # Read again after a takeover, or sent twice: whoever has not had it takes it.
            return self._take(queued, frame)
        missing = position.missing_before(frame.mark)
        if self._is_late(frame, at_end):
            if self.roster.has_rounds_under_way:
                return False
            self._pass_over(frame, missing)
            return True
        return self._take_new(queued, frame, missing)

    def _take(self, queued: Queued, frame: Frame) -> bool:
        """Appends the frame to the watches that have not had it, or changes nothing and says False."""
        if self.roster.to_end and self.roster.has_rounds_under_way:
            return False
        is_shed = self._shed is not None and frame.id >= self.ledger.position.next_frame
        takers = [] if is_shed else self.roster.takers(frame.id)
        if takers:
            embedding = self._queue.encode(queued, frame)
            if not embedding.done() or not all(session.can_append() for session in takers):
                return False
            error = embedding.exception()
            if isinstance(error, ValueError | PictureExpired):
                return self._give_up(frame, error)
            self._append(queued, frame, takers, embedding)
        self._pop()
        self._under_way.append(frame)
        self.settle()
        return True

    def _take_new(self, queued: Queued, frame: Frame, missing: Sequence[Missing]) -> bool:
        """As `_take`, for a frame that no watch has had; what is missing before it is told, new watches start."""
        is_turn = bool(missing) or self._shed is not None or bool(self.roster.to_end)
        if is_turn and self.roster.has_rounds_under_way:
            return False
        takers, to_start = self.roster.takers(frame.id), self.roster.to_start
        embedding: Future[torch.Tensor] | None = None
        if takers or to_start:
            embedding = self._queue.encode(queued, frame)
            if not embedding.done() or not all(session.can_append() for session in takers):
                return False
            error = embedding.exception()
            if isinstance(error, ValueError | PictureExpired):
                return self._give_up(frame, error)
        self._end_shed()
        self._tell_missing(missing)
        for watch in to_start:
            if (session := self.roster.start(watch, frame.mark)) is not None:
                takers.append(session)
        self.ledger.take(frame)
        if takers:
            assert embedding is not None
            self._append(queued, frame, takers, embedding)
        self._pop()
        self._under_way.append(frame)
        self.settle()
        return True

    def _append(
        self, queued: Queued, frame: Frame, takers: Sequence[Session], embedding: Future[torch.Tensor]
    ) -> None:
        deadline_ms = math.inf
        if self._is_live:
            deadline_ms = frame.captured_at_us / 1000 + self._parts.settings.decision_target_ms
        for session in takers:
            session.append(frame, embedding.result(), queued.ready_at_us, deadline_ms)

    def _give_up(self, frame: Frame, error: ValueError | PictureExpired) -> bool:
        """The encoder will not have this picture, or it is gone."""
        if self.roster.has_rounds_under_way:
            return False
        self._end_shed()
        position = self.ledger.position
        if isinstance(error, PictureExpired):
            self._tell_missing(position.missing_before(frame.mark))
            from_ms, to_ms = self.ledger.position.media_time_ms, frame.mark.media_time_ms
            gap = Missing(Reason.REASON_EXPIRED, from_ms, to_ms, frame.id, frame.id, 1, str(error))
            self._tell_missing([replace(gap, was_seen=True, num_seen=frame.num_seen)])
        else:
            value = frame.pixels.tobytes()
            self._apply_unreadable(
                Unreadable(frame.offset, str(error), self.stream_id.encode(), value, (), (frame.mark,))
            )
        self._pop()
        return True

    def _is_late(self, frame: Frame, at_end: bool) -> bool:
        """Whether the frame is to be passed over for a newer one."""
        if not self._is_live or not self.roster.sessions:
            return False
        if self._under_way and self._under_way[-1].offset == frame.offset:
            return False  # a record is decided or passed over as a whole
        if self._shed is not None and self._shed.last.offset == frame.offset:
            return True
        late_us = self._parts.wall_us() - frame.captured_at_us
        # Who passes frames over does so up to the newest: the next that is just not late would be late once encoded.
        if late_us <= self._parts.settings.max_lag_s * 1e6 and self._shed is None:
            return False
        has_newer = any(other.offset > frame.offset for other in self._queue.frames)
        return has_newer or not at_end

    def _is_to_be_decided(self, frame: Frame) -> bool:
        return bool(self.roster.takers(frame.id)) and not self._is_late(frame, at_end=False)

    def _pass_over(self, frame: Frame, missing: Sequence[Missing]) -> None:
        if missing:
            self._end_shed()
        if self._shed is None:
            self._shed = Shed(missing, frame)
        else:
            self._shed.add(frame)
        self._last_shed_s = self._parts.monotonic_s()
        self._queue.pop()

    def _end_shed(self) -> None:
        """Tells the frames passed over, if there are any. Only while no round is under way."""
        if self._shed is None:
            return
        shed, self._shed = self._shed, None
        self._tell_missing(shed.before)
        self._tell_missing([shed.gap(self.ledger.position)])
        self._note_taken(shed.last)

    def _apply_status(self, item: Status) -> None:
        if self._added is None or item.epoch < max(self.ledger.position.epoch, self._added.version):
            return  # of an ingest worker that was overtaken
        self._tell_missing(self.ledger.position.missing_at_end(item.epoch, item.status.num_kept))
        if item.epoch > self.ledger.position.epoch:
            self.ledger.advance_to(FrameId(item.epoch, 0))
            self.roster.skip_to(FrameId(item.epoch, 0))
        if self.ledger.tell_source(item.status) and item.status.state == SourceState.SOURCE_STATE_ENDED:
            for watch_id in list(self.roster.sessions):
                self.roster.end(watch_id, Reason.REASON_STREAM_ENDED, for_good=True)

    def _apply_unreadable(self, item: Unreadable) -> None:
        self._outbox.quarantined.append(item)
        position = self.ledger.position
        untold = self._untold(item)
        for marks in (
            [mark for mark in untold if mark.id < position.next_frame],
            [mark for mark in untold if mark.id >= position.next_frame],
        ):
            if marks:
                self._tell_missing(self.ledger.position.missing_before(marks[0]))
                from_ms, to_ms = self.ledger.position.media_time_ms, marks[-1].media_time_ms
                first, last, reason = marks[0].id, marks[-1].id, Reason.REASON_UNREADABLE
                gap = Missing(reason, from_ms, to_ms, first, last, len(marks), item.reason)
                self._tell_missing([replace(gap, was_seen=True)])
        if not item.frames and position.epoch:
            guess = FrameId(position.epoch, position.next_frame_seq + position.num_unreadable)
            at_ms = position.media_time_ms
            gap = Missing(Reason.REASON_UNREADABLE, at_ms, at_ms, guess, guess, 1, item.reason, is_guess=True)
            self._tell_missing([gap])
            self.ledger.position = replace(position, num_unreadable=position.num_unreadable + 1)

    # Books

    @property
    def _position_with_shed(self) -> Position:
        """The position as it will be when the frames passed over have been told."""
        return self.ledger.position if self._shed is None else self._shed.position_after

    def _tell_missing(self, missing: Sequence[Missing]) -> None:
        for gap in missing:
            self.ledger.tell_missing(gap)
            if gap.last is not None and not gap.is_guess:
                self.roster.skip_to(gap.last.following)

    def _pop(self) -> None:
        self._note_taken(self._queue.pop())

    def _note_taken(self, item: Item) -> None:
        is_whole = not isinstance(item, Frame) or item.is_last
        self.ledger.next_offset = max(self.ledger.next_offset, item.offset + 1 if is_whole else item.offset)


def _marks(item: Item) -> Sequence[FrameMark]:
    match item:
        case Frame():
            return (item.mark,)
        case Unreadable():
            return item.frames
        case Status():
            return ()
