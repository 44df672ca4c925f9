"""The life cycle of a watch's events: states and replies of its rounds in, events out. Pure: no clock, no I/O."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from models.vlm.state import State
from services.llm.frame import FrameMark
from streamo.v1.event_pb2 import Event, EventKind, Reason, Span, Stamps
from streamo.v1.state_pb2 import OpenEvent
from streamo.v1.task_pb2 import Task
from streamo.v1.watch_pb2 import Watch

# The other tasks have no open phase: their Standby tells subscribers nothing.
_OPENING_TASKS = frozenset({Task.TASK_ACTION, Task.TASK_EVENT, Task.TASK_GROUNDING})


class LifeCycle:
    """Of one watch version. Rounds must be told in their order, each by `decide`, a Response then by `reply`.

    Events come without `seq`. Every OPEN is ended by exactly one CLOSE or RETRACT that repeats its event_id.
    """

    def __init__(
        self, watch: Watch, opened: OpenEvent | None = None, activation: FrameMark | None = None
    ) -> None:
        self._watch = watch
        self._opened = opened
        self._activation = activation

    @property
    def opened(self) -> OpenEvent | None:
        """The OPEN that still waits for its end."""
        return self._opened

    def start(self, frame: FrameMark) -> Event:
        self._activation = frame
        event = self._event(EventKind.EVENT_KIND_STARTED, frame, self._id("started", frame))
        event.detail = self._watch.instruction
        return event

    def decide(self, state: State, frame: FrameMark, stamps: Stamps) -> Event | None:
        """What the state of a round tells; of a Response the event comes with the reply."""
        if state is State.SILENCE:
            return self.retract(Reason.REASON_MODEL, frame, stamps)
        if state is State.STANDBY and self._opened is None and self._watch.task in _OPENING_TASKS:
            event_id = self._id("span", frame)
            self._opened = OpenEvent(event_id=event_id, since=frame.ref())
            event = self._event(EventKind.EVENT_KIND_OPEN, frame, event_id)
            event.span.CopyFrom(Span(start_ms=frame.media_time_ms, end_ms=frame.media_time_ms))
            event.stamps.CopyFrom(stamps)
            return event
        return None

    def reply(
        self, frame: FrameMark, start_ms: int, token_ids: Sequence[int], text: str, stamps: Stamps
    ) -> Event:
        """CLOSE of what is open, else over the round's own span; ANSWER for the tasks that never open."""
        if self._watch.task in _OPENING_TASKS:
            if self._opened is not None:
                event_id, start_ms = self._opened.event_id, self._opened.since.media_time_ms
                self._opened = None
            else:
                event_id = self._id("span", frame)
            event = self._event(EventKind.EVENT_KIND_CLOSE, frame, event_id)
        else:
            event = self._event(EventKind.EVENT_KIND_ANSWER, frame, self._id("answer", frame))
        event.span.CopyFrom(Span(start_ms=start_ms, end_ms=max(start_ms, frame.media_time_ms)))
        event.text = text
        event.token_ids.extend(token_ids)
        event.stamps.CopyFrom(stamps)
        return event

    def retract(self, reason: Reason, frame: FrameMark | None, stamps: Stamps | None = None) -> Event | None:
        """RETRACT of what is open, if anything is."""
        if self._opened is None:
            return None
        event = self._event(EventKind.EVENT_KIND_RETRACT, frame, self._opened.event_id)
        start_ms = self._opened.since.media_time_ms
        end_ms = start_ms if frame is None else max(start_ms, frame.media_time_ms)
        event.span.CopyFrom(Span(start_ms=start_ms, end_ms=end_ms))
        event.reason = reason
        if stamps is not None:
            event.stamps.CopyFrom(stamps)
        self._opened = None
        return event

    def end(self, reason: Reason, frame: FrameMark | None, detail: str = "") -> list[Event]:
        """RETRACT of what is open, and ENDED. `frame` is the last one decided; None if there is none."""
        retracted = self.retract(reason, frame)
        # One that had to give up its place for a time ends more than once.
        ended = self._event(EventKind.EVENT_KIND_ENDED, frame, self._id("ended", self._activation))
        ended.reason = reason
        ended.detail = detail
        return [ended] if retracted is None else [retracted, ended]

    def _event(self, kind: EventKind, frame: FrameMark | None, event_id: str) -> Event:
        # A task that this version does not know is not told: whoever reads the event may not know it either.
        task = self._watch.task if self._watch.task in Task.values() else Task.TASK_UNSPECIFIED
        return Event(
            stream_id=self._watch.stream_id,
            kind=kind,
            event_id=event_id,
            watch_id=self._watch.watch_id,
            watch_version=self._watch.version,
            task=task,
            frame=None if frame is None else frame.ref(),
        )

    def _id(self, group: str, frame: FrameMark | None) -> str:
        at: tuple[object, ...] = () if frame is None else frame.id
        return event_id(self._watch.stream_id, self._watch.watch_id, self._watch.version, group, *at)


def event_id(*parts: object) -> str:
    """The same for the same parts, in any process; different for others."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:32]
