"""One watch on its stream: its session in the engine, the rounds of its window, and where it stands."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from opentelemetry.context import Context

from models.engine.engine_stats import EngineStats
from models.engine.round import Decision, Reply, RoundInput
from models.vlm.state import State
from services.llm.frame import Frame, FrameId, FrameMark, round_start_ms
from services.llm.life_cycle import LifeCycle
from streamo.v1.event_pb2 import Event, Reason, Stamps
from streamo.v1.state_pb2 import Reply as StoredReply
from streamo.v1.state_pb2 import WatchState, Window, WindowReplies
from streamo.v1.watch_pb2 import Watch

if TYPE_CHECKING:
    import torch

STATES_A_BYTE = 4


class EnginePort(Protocol):
    """What is used of models.engine.Engine; see there for the contract."""

    def open(
        self,
        session_id: str,
        instruction: str,
        past_rounds: Sequence[RoundInput] = (),
        *,
        stream_id: str = "",
        sensitivity: float = 0.0,
    ) -> None: ...
    def close(self, session_id: str) -> None: ...
    def can_append(self, session_id: str) -> bool: ...
    def append(self, session_id: str, round_input: RoundInput) -> int: ...
    def step(self) -> list[Decision | Reply]: ...
    @property
    def has_work(self) -> bool: ...
    @property
    def stats(self) -> EngineStats: ...


class DialoguePort(Protocol):
    """What is used of models.vlm.dialogue.Dialogue; see there for the contract."""

    @property
    def state_token_ids(self) -> tuple[int, int, int]: ...
    @property
    def vocabulary(self) -> str: ...
    def reply(self, state: State, text: str = "") -> list[int]: ...


@dataclass(frozen=True)
class PastRound:
    """A round that was decided and committed before; its reply is forced when the window is replayed."""

    mark: FrameMark
    offset: int
    start_ms: int
    state: State
    token_ids: tuple[int, ...]  # of the text, without the state token
    frame: torch.Tensor
    grid: tuple[int, int]


@dataclass
class Round:
    mark: FrameMark
    offset: int
    start_ms: int
    captured_at_us: int
    context: Context
    ready_at_us: int
    state: State | None = None
    token_ids: tuple[int, ...] = ()
    decided_at_us: int = 0
    # Lower bound of where its event stands in `events`.
    events_offset: int = 0


class Session:
    """Mirrors what the engine keeps: rounds appended and not finished, and the finished ones of the window.

    Not thread-safe. Its state speaks of finished rounds only, so that whatever was under way is decided anew.
    """

    def __init__(self, engine: EnginePort, watch: Watch, dialogue: DialoguePort, window_rounds: int) -> None:
        self.watch = watch
        self.engine_id = f"{watch.stream_id}/{watch.watch_id}/{watch.version}"
        self.life_cycle = LifeCycle(watch)
        self.activation: FrameMark | None = None
        self.next_frame = FrameId(0, 0)  # first not finished
        self.next_to_append = FrameId(0, 0)
        self.rounds_decided = 0
        self._engine = engine
        self._dialogue = dialogue
        self._window: deque[Round] = deque(maxlen=window_rounds)
        self._under_way: deque[tuple[int, Round]] = deque()

    def open(self, frame: FrameMark) -> Event:
        """Opens at `frame`, the first it will decide; the STARTED event. Raises EngineFull or ValueError."""
        self._open(())
        self.activation = frame
        self.skip_to(frame.id)
        return self.life_cycle.start(frame)

    def resume(self, state: WatchState, past: Sequence[PastRound]) -> None:
        """Goes on where `state` was committed, over the rounds that could be had back. Raises as `open`."""
        inputs = [
            RoundInput(
                round_.start_ms,
                round_.mark.media_time_ms,
                round_.frame,
                round_.grid,
                forced_reply=(self._dialogue.state_token_ids[round_.state], *round_.token_ids),
            )
            for round_ in past
        ]
        self._open(inputs)
        self.life_cycle = life_cycle_of(self.watch, state)
        self.activation = FrameMark.of(state.activation)
        self.rounds_decided = state.rounds_decided
        self.skip_to(FrameId.of(state.next_frame))
        for round_ in past:
            self._window.append(
                Round(
                    round_.mark,
                    round_.offset,
                    round_.start_ms,
                    0,
                    Context(),
                    0,
                    round_.state,
                    round_.token_ids,
                    events_offset=state.window.events_offset,
                )
            )

    @property
    def is_replying(self) -> bool:
        return bool(self._under_way) and self._under_way[0][1].state is State.RESPONSE

    @property
    def has_rounds_under_way(self) -> bool:
        return bool(self._under_way)

    @property
    def last_decided(self) -> FrameMark | None:
        """The last finished frame; None right after activation or where the window was lost."""
        return self._window[-1].mark if self._window else None

    def can_append(self) -> bool:
        return self._engine.can_append(self.engine_id)

    def append(
        self, frame: Frame, embedding: torch.Tensor, ready_at_us: int, deadline_ms: float = math.inf
    ) -> None:
        """`deadline_ms`: by when its decision is wanted, wall clock, Unix; infinite where it can wait."""
        start_ms = round_start_ms(self._last_appended, frame.mark)
        round_input = RoundInput(
            start_ms, frame.mark.media_time_ms, embedding, frame.grid, deadline_ms=deadline_ms
        )
        index = self._engine.append(self.engine_id, round_input)
        round_ = Round(frame.mark, frame.offset, start_ms, frame.captured_at_us, frame.context, ready_at_us)
        if not self._under_way:
            # What is under way begins here, also behind a hole of which a gap could only guess the frames.
            self.skip_to(frame.id)
        self._under_way.append((index, round_))
        self.next_to_append = frame.id.following

    def decide(self, decision: Decision, now_us: int) -> tuple[Round, Event | None]:
        """Takes the decision on the oldest round under way; it is finished unless it is a Response."""
        round_ = self._oldest(decision.round_index)
        round_.state, round_.decided_at_us = decision.state, now_us
        stamps = Stamps(captured_at_us=round_.captured_at_us, decided_at_us=now_us)
        event = self.life_cycle.decide(decision.state, round_.mark, stamps)
        if decision.state is not State.RESPONSE:
            self._finish(round_)
        return round_, event

    def reply(self, reply: Reply, now_us: int, events_offset: int) -> tuple[Round, Event]:
        """Takes the reply of the oldest round under way, which is then finished.

        Its event will stand at `events_offset` or after.
        """
        round_ = self._oldest(reply.round_index)
        if round_.state is not State.RESPONSE:
            raise RuntimeError(
                f"session {self.engine_id}: a reply to round {reply.round_index} that did not respond"
            )
        round_.token_ids, round_.events_offset = reply.token_ids, events_offset
        stamps = Stamps(
            captured_at_us=round_.captured_at_us, decided_at_us=round_.decided_at_us, replied_at_us=now_us
        )
        event = self.life_cycle.reply(round_.mark, round_.start_ms, reply.token_ids, reply.text, stamps)
        event.vocabulary = self._dialogue.vocabulary
        self._finish(round_)
        return round_, event

    def skip_to(self, frame: FrameId) -> None:
        """Frames below are not its own any more. Only while no round is under way."""
        self.next_frame = max(self.next_frame, frame)
        self.next_to_append = max(self.next_to_append, frame)

    def close(self, reason: Reason, detail: str = "", *, is_open: bool = True) -> list[Event]:
        """Ends the session, and with it the rounds under way. `is_open`: the engine holds it."""
        if is_open:
            self._engine.close(self.engine_id)
        self._under_way.clear()
        return self.life_cycle.end(reason, self.last_decided, detail)

    def drop(self) -> None:
        """Leaves the engine without a word: the stream has another owner now."""
        self._engine.close(self.engine_id)

    def state(self) -> WatchState:
        state = WatchState(
            watch_id=self.watch.watch_id,
            version=self.watch.version,
            task=self.watch.task,
            next_frame={"epoch": self.next_frame.epoch, "frame_seq": self.next_frame.frame_seq},
            rounds_decided=self.rounds_decided,
            open=self.life_cycle.opened,
        )
        if self.activation is not None:
            state.activation.CopyFrom(self.activation.ref())
        if self._window:
            state.window.CopyFrom(self._window_state())
        return state

    def replies(self) -> WindowReplies:
        """What every round of the window replied, state token first."""
        return WindowReplies(
            replies=[
                StoredReply(token_ids=(self._dialogue.state_token_ids[state], *round_.token_ids))
                for round_, state in self._decided()
            ]
        )

    def _open(self, past: Sequence[RoundInput]) -> None:
        watch = self.watch
        self._engine.open(
            self.engine_id,
            watch.instruction,
            past,
            stream_id=watch.stream_id,
            sensitivity=watch.sensitivity,
        )

    @property
    def _last_appended(self) -> FrameMark | None:
        return self._under_way[-1][1].mark if self._under_way else self.last_decided

    def _oldest(self, round_index: int) -> Round:
        if not self._under_way or self._under_way[0][0] != round_index:
            raise RuntimeError(f"session {self.engine_id}: round {round_index} is not the one under way")
        return self._under_way[0][1]

    def _finish(self, round_: Round) -> None:
        self._under_way.popleft()
        self._window.append(round_)
        self.rounds_decided += 1
        self.next_frame = max(self.next_frame, round_.mark.id.following)

    def _decided(self) -> Iterator[tuple[Round, State]]:
        for round_ in self._window:
            assert round_.state is not None
            yield round_, round_.state

    def _window_state(self) -> Window:
        states = bytearray(-(-len(self._window) // STATES_A_BYTE))
        offset_steps, previous = [], self._window[0].offset
        for index, (round_, state) in enumerate(self._decided()):
            states[index // STATES_A_BYTE] |= state << 2 * (index % STATES_A_BYTE)
            offset_steps.append(round_.offset - previous)
            previous = round_.offset
        return Window(
            frames_offset=self._window[0].offset,
            events_offset=min(
                (round_.events_offset for round_ in self._window if round_.state is State.RESPONSE), default=0
            ),
            first=self._window[0].mark.ref(),
            num_rounds=len(self._window),
            states=bytes(states),
            start_ms=self._window[0].start_ms,
            offset_steps=offset_steps,
        )


def life_cycle_of(watch: Watch, state: WatchState) -> LifeCycle:
    """As it was when `state` was committed."""
    return LifeCycle(
        watch,
        state.open if state.HasField("open") else None,
        FrameMark.of(state.activation) if state.HasField("activation") else None,
    )


def unpack_states(window: Window) -> list[State]:
    """The states of a window's rounds, oldest first. ValueError where the bytes cannot be those of the rounds."""
    if len(window.states) != -(-window.num_rounds // STATES_A_BYTE):
        raise ValueError(f"{window.num_rounds} rounds in {len(window.states)} bytes of states")
    return [
        State(window.states[index // STATES_A_BYTE] >> 2 * (index % STATES_A_BYTE) & 3)
        for index in range(window.num_rounds)
    ]
