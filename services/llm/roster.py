"""The watches of one stream: which run, which wait for room, which ended for good, and which are still to start."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from opentelemetry.context import Context

from models.engine.errors import EngineFull
from services.llm.frame import FrameId, FrameMark
from services.llm.life_cycle import LifeCycle
from services.llm.outbox import Outbox
from services.llm.parts import Parts
from services.llm.session import PastRound, Session, life_cycle_of
from services.shared.control_log import watch_key
from services.shared.telemetry import Metrics
from streamo.v1.event_pb2 import Event, Reason
from streamo.v1.state_pb2 import WatchState
from streamo.v1.task_pb2 import Task
from streamo.v1.watch_pb2 import Watch

log = logging.getLogger(__name__)

Tell = Callable[[Event, Context | None], None]

# Between two tries to start a watch that there was no room for; doubled each time. A try costs an encoded frame.
_MIN_RETRY_S, _MAX_RETRY_S = 1.0, 30.0


@dataclass(frozen=True)
class _Waiting:
    """A watch that there was no room for."""

    version: int
    try_at_s: float
    pause_s: float


class Roster:
    """Follows what `control` asks for. Not thread-safe; events go to `tell` in their order.

    A question that ends for good is taken out of `control`, whatever ended it.
    """

    def __init__(self, parts: Parts, tell: Tell, outbox: Outbox) -> None:
        self.sessions: dict[str, Session] = {}
        self._parts = parts
        self._tell = tell
        self._outbox = outbox
        self._wanted: Mapping[str, Watch] = {}
        self._stream_is_wanted = True
        # Watches that `control` may still hold, but that do not start again: id -> (version, why).
        self._ended: dict[str, tuple[int, Reason]] = {}
        self._waiting: dict[str, _Waiting] = {}

    def follow(self, wanted: Mapping[str, Watch], stream_is_wanted: bool) -> bool:
        """Takes note of what `control` holds now; whether those to remember have changed."""
        self._wanted, self._stream_is_wanted = wanted, stream_is_wanted
        versions = {watch_id: watch.version for watch_id, watch in wanted.items()}
        ended = {id: ended for id, ended in self._ended.items() if versions.get(id) == ended[0]}
        waiting = {id: one for id, one in self._waiting.items() if versions.get(id) == one.version}
        changed = (ended, waiting) != (self._ended, self._waiting)
        self._ended, self._waiting = ended, waiting
        return changed

    @property
    def num_waiting(self) -> int:
        """Watches that wait for room."""
        return len(self._waiting)

    @property
    def has_rounds_under_way(self) -> bool:
        return any(session.has_rounds_under_way for session in self.sessions.values())

    @property
    def to_end(self) -> list[tuple[str, Reason]]:
        """Running watches that `control` does not hold any more in this version."""
        ends = []
        for watch_id, session in self.sessions.items():
            wanted = self._wanted.get(watch_id)
            if not self._stream_is_wanted:
                ends.append((watch_id, Reason.REASON_STREAM_REMOVED))
            elif wanted is None:
                ends.append((watch_id, Reason.REASON_WATCH_REMOVED))
            elif wanted.version != session.watch.version:
                ends.append((watch_id, Reason.REASON_WATCH_CHANGED))
        return ends

    @property
    def to_start(self) -> list[Watch]:
        """Watches that take effect at the next frame if there is room, in the order in which they were added."""
        now_s = self._parts.monotonic_s()
        paused = {watch_id for watch_id, one in self._waiting.items() if one.try_at_s > now_s}
        others = self.sessions.keys() | self._ended.keys() | paused
        waiting = [watch for watch in self._wanted.values() if watch.watch_id not in others]
        return sorted(waiting, key=lambda watch: watch.version)

    def takers(self, frame: FrameId) -> list[Session]:
        return [session for session in self.sessions.values() if session.next_to_append <= frame]

    def skip_to(self, frame: FrameId) -> None:
        """Frames below are no watch's any more. Only while no round is under way."""
        for session in self.sessions.values():
            session.skip_to(frame)

    def start(self, watch: Watch, frame: FrameMark) -> Session | None:
        """Starts a watch at this frame. One that is refused is ended at once, or waits for room; then None."""
        if watch.task not in Task.values():
            self._refuse(watch, LifeCycle(watch), _unknown_task(watch))
            return None
        session = self._session(watch)
        try:
            started = session.open(frame)
        except (EngineFull, ValueError) as error:
            self._refuse(watch, LifeCycle(watch), error)
            return None
        self.sessions[watch.watch_id] = session
        self._waiting.pop(watch.watch_id, None)
        self._tell(started, None)
        return session

    def resume(self, watch: Watch, state: WatchState, past: Sequence[PastRound]) -> None:
        """Goes on after a takeover; without the past rounds where the engine does not take them, as may happen when it
        has another model than before.
        """
        if watch.task not in Task.values():
            self._refuse(watch, life_cycle_of(watch, state), _unknown_task(watch))
            return
        session = self._session(watch)
        try:
            session.resume(state, past)
        except (EngineFull, ValueError) as error:
            if past and isinstance(error, ValueError):
                log.warning("%s/%s starts with an empty window: %s", watch.stream_id, watch.watch_id, error)
                self._parts.telemetry.count(Metrics.CHECKPOINTS, reason="window refused")
                self.resume(watch, state, ())
                return
            self._refuse(watch, life_cycle_of(watch, state), error)
            return
        self.sessions[watch.watch_id] = session

    def end_former(self, stream_id: str, state: WatchState, reason: Reason) -> None:
        """Ends what ran before a takeover and is not wanted any more."""
        watch = Watch(stream_id=stream_id, watch_id=state.watch_id, version=state.version, task=state.task)
        for event in life_cycle_of(watch, state).end(reason, None):
            self._tell(event, None)

    def restore_ended(self, state: WatchState) -> None:
        if state.ended == Reason.REASON_NO_ROOM:
            now_s = self._parts.monotonic_s()
            self._waiting[state.watch_id] = _Waiting(state.version, now_s, _MIN_RETRY_S)
        else:
            self._ended[state.watch_id] = (state.version, state.ended)

    def end(self, watch_id: str, reason: Reason, detail: str = "", *, for_good: bool = False) -> None:
        """Ends a running watch. `for_good`: it does not start again though `control` holds it."""
        session = self.sessions.pop(watch_id)
        for event in session.close(reason, detail):
            self._tell(event, None)
        if for_good:
            self._note_ended(session.watch, reason)

    def end_unstarted(self, watch: Watch, reason: Reason) -> None:
        for event in LifeCycle(watch).end(reason, None):
            self._tell(event, None)
        self._note_ended(watch, reason)

    def retract_all(self, reason: Reason) -> None:
        """Ends what is open in every running watch."""
        for session in self.sessions.values():
            event = session.life_cycle.retract(reason, session.last_decided)
            if event is not None:
                self._tell(event, None)

    def expired_asks(self, now_us: int) -> list[Watch]:
        """Asks whose time is over. One that is replying may finish: its answer is under way."""
        return [
            watch
            for watch in self._wanted.values()
            if watch.once and 0 < watch.expires_at_us <= now_us and watch.watch_id not in self._ended
            if watch.watch_id not in self.sessions or not self.sessions[watch.watch_id].is_replying
        ]

    def states(self) -> list[WatchState]:
        running = [session.state() for session in self.sessions.values()]
        ended = [
            WatchState(watch_id=watch_id, version=version, ended=reason)
            for watch_id, (version, reason) in self._ended.items()
        ]
        waiting = [
            WatchState(watch_id=watch_id, version=one.version, ended=Reason.REASON_NO_ROOM)
            for watch_id, one in self._waiting.items()
        ]
        return running + ended + waiting

    def drop(self) -> None:
        for session in self.sessions.values():
            session.drop()
        self.sessions.clear()

    def _session(self, watch: Watch) -> Session:
        return Session(self._parts.engine, watch, self._parts.dialogue, self._parts.window_rounds)

    def _refuse(self, watch: Watch, life_cycle: LifeCycle, error: EngineFull | ValueError) -> None:
        if isinstance(error, ValueError) or watch.once:  # who asks a question wants to know now
            for event in life_cycle.end(Reason.REASON_REFUSED, None, str(error)):
                self._tell(event, None)
            self._note_ended(watch, Reason.REASON_REFUSED)
            return
        before = self._waiting.get(watch.watch_id)
        if before is None:
            for event in life_cycle.end(Reason.REASON_NO_ROOM, None, str(error)):
                self._tell(event, None)
        pause_s = _MIN_RETRY_S if before is None else min(2 * before.pause_s, _MAX_RETRY_S)
        try_at_s = self._parts.monotonic_s() + pause_s
        self._waiting[watch.watch_id] = _Waiting(watch.version, try_at_s, pause_s)

    def _note_ended(self, watch: Watch, reason: Reason) -> None:
        """It does not start again."""
        self._ended[watch.watch_id] = (watch.version, reason)
        if watch.once:
            self._outbox.tombstones.append(watch_key(watch.stream_id, watch.watch_id))


def _unknown_task(watch: Watch) -> ValueError:
    """Another version added the watch."""
    return ValueError(f"task {watch.task} is not known to this version: update it, then add the watch again")
