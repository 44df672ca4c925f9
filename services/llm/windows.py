"""The windows of a partition's sessions, put together again from state, checkpoints, events and frames."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from opentelemetry.context import Context

from models.vlm.state import State
from services.llm.frame import Frame, FrameId, FrameMark, round_start_ms
from services.llm.frame_reader import FrameReader
from services.llm.partition_logs import PartitionLogs
from services.llm.parts import EncoderPort
from services.llm.session import DialoguePort, PastRound, unpack_states
from services.shared.topics import Topics
from streamo.v1.event_pb2 import Event, EventKind
from streamo.v1.state_pb2 import Checkpoint, StreamState, WatchState, Window

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

# Windows further apart than this are read each for itself.
_MAX_READ_THROUGH = 200
# Embeddings asked for at a time: enough to fill the encoder's batches, and few for the frames of running streams to
# wait behind.
_MAX_ENCODING = 64

WindowKey = tuple[str, str]  # stream id, watch id


@dataclass
class _PlannedRound:
    offset: int
    state: State
    token_ids: tuple[int, ...] | None = ()  # of the text; None: not found yet
    frame: Frame | None = None


@dataclass
class _Plan:
    stream_id: str
    watch: WatchState
    rounds: list[_PlannedRound] = field(default_factory=list)

    @property
    def key(self) -> WindowKey:
        return self.stream_id, self.watch.watch_id

    @property
    def lacks_replies(self) -> bool:
        return any(planned.token_ids is None for planned in self.rounds)


class Windows:
    """Made from the committed states; `use` what Redis holds, then `read` the rest.

    Frames that are not kept any more shorten a window; a reply that is nowhere to be found empties it, and is counted.
    Of a reply that a model with another vocabulary made only the text is good.
    """

    def __init__(
        self,
        states: Mapping[str, StreamState],
        topics: Topics,
        dialogue: DialoguePort,
        count: Callable[[str, int], None],
    ) -> None:
        self._states = states
        self._topics = topics
        self._dialogue = dialogue
        self._count = count
        self._plans = [
            _plan(state.stream_id, watch)
            for state in states.values()
            for watch in state.watches
            if watch.HasField("window") and not watch.ended
        ]

    @property
    def streams_without_replies(self) -> list[str]:
        return sorted({plan.stream_id for plan in self._plans if plan.lacks_replies})

    def use(self, stream_id: str, checkpoint: Checkpoint, cluster_id: str, state_offset: int) -> None:
        """Takes the replies from what Redis holds for the stream, if it is of exactly what Kafka has committed."""
        state = self._states[stream_id]
        stamp = (checkpoint.cluster_id, checkpoint.state_offset)
        if stamp != (cluster_id, state_offset) or checkpoint.state != state:
            self._count("stale", 1)
            return
        if checkpoint.vocabulary != self._dialogue.vocabulary:
            self._count("other vocabulary", 1)
            return
        self._count("used", 1)
        plans = {plan.key: plan for plan in self._plans}
        # Ended watches come last in a state and have no replies.
        for watch, window in zip(checkpoint.state.watches, checkpoint.replies, strict=False):
            plan = plans.get((stream_id, watch.watch_id))
            if plan is not None and len(plan.rounds) == len(window.replies):
                for planned, reply in zip(plan.rounds, window.replies, strict=True):
                    planned.token_ids = tuple(reply.token_ids[1:])

    def read(
        self, logs: PartitionLogs, frame_reader: FrameReader, encoder: EncoderPort, timeout_s: float
    ) -> dict[WindowKey, list[PastRound]]:
        """Blocks. Raises what the encoder raises, and TimeoutError where it gives none for longer than `timeout_s`."""
        self._read_frames(logs, frame_reader)
        self._read_replies(logs)
        for plan in self._plans:
            if plan.lacks_replies:
                log.warning("a reply in the window of %s/%s is nowhere to be found", *plan.key)
                self._count("reply lost", 1)
                plan.rounds = []
        tokens = self._encode(encoder, timeout_s)
        return {plan.key: list(_past_rounds(plan, lambda frame: tokens[id(frame)])) for plan in self._plans}

    def _read_frames(self, logs: PartitionLogs, frame_reader: FrameReader) -> None:
        wanted = {planned.offset for plan in self._plans for planned in plan.rounds}
        frames: dict[int, list[Frame]] = {}
        for first, last in _stretches(sorted(wanted)):
            for record in logs.records(self._topics.frames, first, last + 1):
                if record.offset in wanted:
                    items = frame_reader.read(record)
                    frames[record.offset] = [item for item in items if isinstance(item, Frame)]
        for plan in self._plans:
            _fill(plan, frames)

    def _read_replies(self, logs: PartitionLogs) -> None:
        lacking = [plan for plan in self._plans if plan.lacks_replies]
        if not lacking:
            return
        wanted = {
            (plan.stream_id, plan.watch.watch_id, plan.watch.version, planned.frame.id): planned
            for plan in lacking
            for planned in plan.rounds
            if planned.token_ids is None and planned.frame is not None
        }
        topic = self._topics.events
        first = min(plan.watch.window.events_offset for plan in lacking)
        for record in logs.records(topic, first, logs.end(topic)):
            event = Event.FromString(record.value)
            planned = wanted.get(
                (event.stream_id, event.watch_id, event.watch_version, FrameId.of(event.frame))
            )
            if planned is not None and event.kind in (
                EventKind.EVENT_KIND_CLOSE,
                EventKind.EVENT_KIND_ANSWER,
            ):
                planned.token_ids = self._token_ids(event)

    def _token_ids(self, event: Event) -> tuple[int, ...]:
        if event.vocabulary == self._dialogue.vocabulary:
            return tuple(event.token_ids)
        return tuple(self._dialogue.reply(State.RESPONSE, event.text)[1:])

    def _encode(self, encoder: EncoderPort, timeout_s: float) -> dict[int, torch.Tensor]:
        """By id() of the frame: each once, however many watches its stream has."""
        frames = {id(p.frame): p.frame for plan in self._plans for p in plan.rounds if p.frame is not None}
        tokens: dict[int, torch.Tensor] = {}
        under_way: deque[tuple[int, Future[torch.Tensor]]] = deque()
        for key, frame in frames.items():
            if len(under_way) == _MAX_ENCODING:
                done, embedding = under_way.popleft()
                tokens[done] = embedding.result(timeout_s)
            under_way.append((key, encoder.submit(frame.pixels, Context())))
        return tokens | {done: embedding.result(timeout_s) for done, embedding in under_way}


def _plan(stream_id: str, watch: WatchState) -> _Plan:
    plan = _Plan(stream_id, watch)
    for offset, state in zip(_offsets(watch.window), unpack_states(watch.window), strict=True):
        plan.rounds.append(_PlannedRound(offset, state, None if state is State.RESPONSE else ()))
    return plan


def _fill(plan: _Plan, frames: Mapping[int, Sequence[Frame]]) -> None:
    """Gives each round its frame, and drops the rounds up to the last one that has none."""
    first, next_frame = FrameId.of(plan.watch.window.first), FrameId.of(plan.watch.next_frame)
    by_offset: dict[int, list[_PlannedRound]] = {}
    for planned in plan.rounds:
        by_offset.setdefault(planned.offset, []).append(planned)
    for offset, rounds in by_offset.items():
        # A window may begin or end within a record. Of one that was decided in part nobody can say which frames were.
        decided = [frame for frame in frames.get(offset, ()) if first <= frame.id < next_frame]
        if len(decided) == len(rounds):
            for planned, frame in zip(rounds, decided, strict=True):
                planned.frame = frame
    lost = [index for index, planned in enumerate(plan.rounds) if planned.frame is None]
    plan.rounds = plan.rounds[lost[-1] + 1 :] if lost else plan.rounds


def _past_rounds(plan: _Plan, embedding: Callable[[Frame], torch.Tensor]) -> Iterator[PastRound]:
    previous: FrameMark | None = None
    window = plan.watch.window
    for planned in plan.rounds:
        assert planned.frame is not None and planned.token_ids is not None
        mark = planned.frame.mark
        is_first = mark.id == FrameId.of(window.first)
        start_ms = window.start_ms if is_first else round_start_ms(previous, mark)
        yield PastRound(
            mark,
            planned.offset,
            start_ms,
            planned.state,
            planned.token_ids,
            embedding(planned.frame),
            planned.frame.grid,
        )
        previous = mark


def _offsets(window: Window) -> list[int]:
    """Of the rounds' records. ValueError where there is not one for each round."""
    if len(window.offset_steps) != window.num_rounds:
        raise ValueError(f"{window.num_rounds} rounds with {len(window.offset_steps)} offsets")
    offsets, offset = [], window.frames_offset
    for step in window.offset_steps:
        offset += step
        offsets.append(offset)
    return offsets


def _stretches(offsets: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Runs of rising offsets that are worth reading through, as (first, last)."""
    begin = 0
    for index in range(1, len(offsets) + 1):
        if index == len(offsets) or offsets[index] - offsets[index - 1] > _MAX_READ_THROUGH:
            yield offsets[begin], offsets[index - 1]
            begin = index
