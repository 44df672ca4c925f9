"""The watches of one stream: which run, which ended for good, and which are still to start."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from opentelemetry.context import Context

from models.engine.errors import EngineFull
from services.llm.frame import FrameId, FrameMark
from services.llm.life_cycle import LifeCycle
from services.llm.parts import Parts
from services.llm.session import PastRound, Session
from streamo.v1.event_pb2 import Event, Reason
from streamo.v1.state_pb2 import WatchState
from streamo.v1.watch_pb2 import Watch

Tell = Callable[[Event, Context | None], None]


class Roster:
    """Follows what `control` asks for. Not thread-safe; events go to `tell` in their order."""

    def __init__(self, parts: Parts, tell: Tell) -> None:
        self.sessions: dict[str, Session] = {}
        self._parts = parts
        self._tell = tell
        self._wanted: Mapping[str, Watch] = {}
        self._stream_is_wanted = True
        # Watches that `control` may still hold, but that do not start again: id -> (version, why).
        self._ended: dict[str, tuple[int, Reason]] = {}

    def follow(self, wanted: Mapping[str, Watch], stream_is_wanted: bool) -> bool:
        """Takes note of what `control` holds now; whether the ended ones to remember have changed."""
        self._wanted, self._stream_is_wanted = wanted, stream_is_wanted
        kept = {
            watch_id: ended
            for watch_id, ended in self._ended.items()
            if watch_id in wanted and wanted[watch_id].version == ended[0]
        }
        changed, self._ended = kept != self._ended, kept
        return changed

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
        """Watches that take effect at the next frame, in the order in which they were added."""
        waiting = [w for w in self._wanted.values() if w.watch_id not in self.sessions | self._ended]
        return sorted(waiting, key=lambda watch: watch.version)

    def takers(self, frame: FrameId) -> list[Session]:
        return [session for session in self.sessions.values() if session.next_to_append <= frame]

    def start(self, watch: Watch, frame: FrameMark) -> Session | None:
        """Starts a watch at this frame. One that the engine refuses is ended at once; then None."""
        session = self._session(watch)
        try:
            started = session.open(frame)
        except (EngineFull, ValueError) as error:
            self._refuse(watch, LifeCycle(watch), error)
            return None
        self.sessions[watch.watch_id] = session
        self._tell(started, None)
        return session

    def resume(self, watch: Watch, state: WatchState, past: Sequence[PastRound]) -> None:
        """Goes on after a takeover."""
        session = self._session(watch)
        try:
            session.resume(state, past)
        except (EngineFull, ValueError) as error:
            opened = state.open if state.HasField("open") else None
            self._refuse(watch, LifeCycle(watch, opened), error)
            return
        self.sessions[watch.watch_id] = session

    def end_former(self, stream_id: str, state: WatchState, reason: Reason) -> None:
        """Ends what ran before a takeover and is not wanted any more."""
        watch = Watch(stream_id=stream_id, watch_id=state.watch_id, version=state.version, task=state.task)
        opened = state.open if state.HasField("open") else None
        for event in LifeCycle(watch, opened).end(reason, None):
            self._tell(event, None)

    def restore_ended(self, state: WatchState) -> None:
        self._ended[state.watch_id] = (state.version, state.ended)

    def end(self, watch_id: str, reason: Reason, detail: str = "", *, for_good: bool = False) -> None:
        """Ends a running watch. `for_good`: it does not start again though `control` holds it."""
        session = self.sessions.pop(watch_id)
        for event in session.close(reason, detail):
            self._tell(event, None)
        if for_good:
            self._ended[watch_id] = (session.watch.version, reason)

    def end_unstarted(self, watch: Watch, reason: Reason) -> None:
        for event in LifeCycle(watch).end(reason, None):
            self._tell(event, None)
        self._ended[watch.watch_id] = (watch.version, reason)

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
        return running + ended

    def drop(self) -> None:
        for session in self.sessions.values():
            session.drop()
        self.sessions.clear()

    def _session(self, watch: Watch) -> Session:
        return Session(self._parts.engine, watch, self._parts.state_token_ids, self._parts.window_rounds)

    def _refuse(self, watch: Watch, life_cycle: LifeCycle, error: Exception) -> None:
        for event in life_cycle.end(Reason.REASON_REFUSED, None, str(error)):
            self._tell(event, None)
        self._ended[watch.watch_id] = (watch.version, Reason.REASON_REFUSED)
