"""Takes a partition over: fences whoever had it, and reads back where its streams stand. Plain data comes out."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from opentelemetry.context import Context

from models.vlm.state import State
from services.llm.assignment import GROUP
from services.llm.frame import Frame, FrameId, FrameMark, round_start_ms
from services.llm.frame_reader import FrameReader
from services.llm.parts import EncoderPort
from services.llm.session import PastRound, unpack_states
from services.shared.checkpoints import CheckpointStore
from services.shared.control_log import ControlReader, ControlView
from services.shared.errors import TimedOut
from services.shared.kafka import producer, reader
from services.shared.settings import Settings
from services.shared.topics import Topics
from streamo.v1.event_pb2 import Event, EventKind
from streamo.v1.state_pb2 import Checkpoint, StreamState, WatchState, Window

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

_TIMEOUT_S = 60.0
# Windows further apart than this are read each for itself.
_MAX_READ_THROUGH = 200

WindowKey = tuple[str, str]  # stream id, watch id
EventKey = tuple[str, str, int, FrameId]  # stream id, watch id, watch version, frame


@dataclass(frozen=True)
class Takeover:
    """All that the owner of a partition needs to go on."""

    partition: int
    producer: KafkaProducer  # initialised; whoever owned the partition before is fenced
    next_offset: int  # of `frames`
    is_expired: bool  # records that are still needed were deleted
    events_end: int
    states: Mapping[str, StreamState]
    windows: Mapping[WindowKey, Sequence[PastRound]]
    view: ControlView


@dataclass
class _PlannedRound:
    offset: int
    state: State
    token_ids: tuple[int, ...] | None = ()  # None: not found yet
    frame: Frame | None = None


@dataclass
class _PlannedWindow:
    stream_id: str
    watch: WatchState
    rounds: list[_PlannedRound] = field(default_factory=list)

    @property
    def is_missing_replies(self) -> bool:
        return any(planned.token_ids is None for planned in self.rounds)


class Recovery:
    """Of one partition. Blocks; runs in a thread of its own, never inside `poll`.

    `is_wanted` tells whether the partition is still to be taken: what comes too late must not fence the right owner.
    """

    def __init__(
        self,
        settings: Settings,
        partition: int,
        control: ControlReader,
        checkpoints: CheckpointStore,
        cluster_id: str,
        frame_reader: FrameReader,
        encoder: EncoderPort,
        count: Callable[[str, int], None],
    ) -> None:
        self._settings = settings
        self._partition = partition
        self._control = control
        self._checkpoints = checkpoints
        self._cluster_id = cluster_id
        self._frame_reader = frame_reader
        self._encoder = encoder
        self._count = count
        topics = Topics.of(settings.kafka)
        self._frames = TopicPartition(topics.frames, partition)
        self._events = TopicPartition(topics.events, partition)
        self._state = TopicPartition(topics.state, partition)
        self._control_log = TopicPartition(topics.control, 0)
        self._deadline_s = time.monotonic() + _TIMEOUT_S
        self._found_replies: dict[WindowKey, dict[FrameId, tuple[int, ...]]] = {}

    def run(self, is_wanted: Callable[[], bool]) -> Takeover | None:
        """None where the partition was taken away meanwhile. Raises what Kafka raises, and TimedOut."""
        initialised = producer(self._settings.kafka, f"{GROUP}.{self._partition}")
        try:
            if not is_wanted():
                initialised.close(timeout=0)
                return None
            # Settles what the last owner had begun, and refuses it from now on. Everything below is read after.
            initialised.init_transactions()
            return self._read(initialised)
        except BaseException:
            initialised.close(timeout=0)
            raise

    def _read(self, initialised: KafkaProducer) -> Takeover:
        partitions = [self._frames, self._events, self._state, self._control_log]
        with reader(self._settings.kafka, partitions, group=GROUP) as consumer:
            ends = consumer.end_offsets(partitions)
            begins = consumer.beginning_offsets([self._frames, self._events, self._state])
            for partition in partitions:
                consumer.seek(partition, 0)
                consumer.pause(partition)
            view = self._control.wait_for(ends[self._control_log], self._left_s)
            committed = consumer.committed(self._frames)
            states, state_offsets = self._read_states(consumer, begins[self._state], ends[self._state])
            plans = self._plan(states)
            self._take_checkpoints(states, state_offsets, plans)
            self._read_replies(consumer, plans, begins[self._events], ends[self._events])
            self._read_frames(consumer, plans, begins[self._frames], ends[self._frames])
        needed = self._needed_offset(states) if committed is None else committed
        first = begins[self._frames]
        return Takeover(
            self._partition,
            initialised,
            first if needed is None else max(needed, first),
            needed is not None and needed < first,
            ends[self._events],
            states,
            self._encode(plans),
            view,
        )

    def _read_states(
        self, consumer: KafkaConsumer, begin: int, end: int
    ) -> tuple[dict[str, StreamState], dict[str, int]]:
        states: dict[str, StreamState] = {}
        offsets: dict[str, int] = {}
        for record in self._records(consumer, self._state, begin, end):
            stream_id = record.key.decode()
            states[stream_id], offsets[stream_id] = StreamState.FromString(record.value), record.offset
        return states, offsets

    def _plan(self, states: Mapping[str, StreamState]) -> dict[WindowKey, _PlannedWindow]:
        """The windows as the states tell them, replies and frames still missing."""
        plans = {}
        for stream_id, state in states.items():
            for watch in state.watches:
                if watch.ended or not watch.HasField("window"):
                    continue
                plan = _PlannedWindow(stream_id, watch)
                offsets = _offsets(watch.window)
                for offset, round_state in zip(offsets, unpack_states(watch.window), strict=True):
                    token_ids = None if round_state is State.RESPONSE else ()
                    plan.rounds.append(_PlannedRound(offset, round_state, token_ids))
                plans[stream_id, watch.watch_id] = plan
        return plans

    def _take_checkpoints(
        self,
        states: Mapping[str, StreamState],
        state_offsets: Mapping[str, int],
        plans: Mapping[WindowKey, _PlannedWindow],
    ) -> None:
        """Fills in the replies that Redis holds, of streams whose checkpoint is what Kafka has committed."""
        wanted = sorted({plan.stream_id for plan in plans.values() if plan.is_missing_replies})
        for stream_id, checkpoint in self._checkpoints.load(wanted).items():
            if not self._is_current(checkpoint, states[stream_id], state_offsets[stream_id]):
                self._count("stale", 1)
                continue
            self._count("used", 1)
            for watch, replies in zip(checkpoint.state.watches, checkpoint.replies, strict=False):
                plan = plans.get((stream_id, watch.watch_id))
                if plan is None or len(plan.rounds) != len(replies.replies):
                    continue
                for planned, reply in zip(plan.rounds, replies.replies, strict=True):
                    planned.token_ids = tuple(reply.token_ids[1:])

    def _is_current(self, checkpoint: Checkpoint, state: StreamState, state_offset: int) -> bool:
        return (
            checkpoint.cluster_id == self._cluster_id
            and checkpoint.state_offset == state_offset
            and checkpoint.state == state
        )

    def _read_replies(
        self, consumer: KafkaConsumer, plans: Mapping[WindowKey, _PlannedWindow], begin: int, end: int
    ) -> None:
        """Fills in, from `events`, the replies that are still missing."""
        missing = [plan for plan in plans.values() if plan.is_missing_replies]
        if not missing:
            return
        first = max(begin, min(plan.watch.window.events_offset for plan in missing))
        wanted = {(plan.stream_id, plan.watch.watch_id, plan.watch.version) for plan in missing}
        found: dict[EventKey, tuple[int, ...]] = {}
        for record in self._records(consumer, self._events, first, end):
            event = Event.FromString(record.value)
            key = (event.stream_id, event.watch_id, event.watch_version)
            is_reply = event.kind in (EventKind.EVENT_KIND_CLOSE, EventKind.EVENT_KIND_ANSWER)
            if key in wanted and is_reply:
                found[(*key, FrameId.of(event.frame))] = tuple(event.token_ids)
        # The frames' ids are only known once the frames are: kept for then.
        for plan in missing:
            self._found_replies[plan.stream_id, plan.watch.watch_id] = {
                key[3]: token_ids
                for key, token_ids in found.items()
                if key[:2] == (plan.stream_id, plan.watch.watch_id)
            }

    def _read_frames(
        self, consumer: KafkaConsumer, plans: Mapping[WindowKey, _PlannedWindow], begin: int, end: int
    ) -> None:
        offsets = sorted({planned.offset for plan in plans.values() for planned in plan.rounds})
        wanted = set(offsets)
        frames: dict[int, list[Frame]] = {}
        for first, last in _runs([offset for offset in offsets if begin <= offset < end]):
            for record in self._records(consumer, self._frames, first, last + 1):
                if record.offset in wanted:
                    items = self._frame_reader.read(record)
                    frames[record.offset] = [item for item in items if isinstance(item, Frame)]
        for plan in plans.values():
            self._fill_frames(plan, frames)

    def _fill_frames(self, plan: _PlannedWindow, frames: Mapping[int, Sequence[Frame]]) -> None:
        """Gives each round its frame. What cannot be had shortens the window, a lost reply empties it."""
        next_frame = FrameId.of(plan.watch.next_frame)
        by_offset: dict[int, list[_PlannedRound]] = {}
        for planned in plan.rounds:
            by_offset.setdefault(planned.offset, []).append(planned)
        for offset, rounds in by_offset.items():
            # A window begins and ends within a record at most, and holds all of the others.
            own = [frame for frame in frames.get(offset, ()) if frame.id < next_frame][-len(rounds) :]
            for planned, frame in zip(reversed(rounds), reversed(own), strict=False):
                planned.frame = frame
        replies = self._found_replies.get((plan.stream_id, plan.watch.watch_id), {})
        for planned in plan.rounds:
            if planned.token_ids is None and planned.frame is not None:
                planned.token_ids = replies.get(planned.frame.id)
        lost = [index for index, planned in enumerate(plan.rounds) if planned.frame is None]
        plan.rounds = plan.rounds[lost[-1] + 1 :] if lost else plan.rounds
        if plan.is_missing_replies:
            log.warning(
                "a reply in the window of %s/%s is nowhere to be found", plan.stream_id, plan.watch.watch_id
            )
            self._count("reply lost", 1)
            plan.rounds = []

    def _encode(self, plans: Mapping[WindowKey, _PlannedWindow]) -> dict[WindowKey, list[PastRound]]:
        embeddings = {
            (plan.stream_id, planned.frame.id): planned.frame
            for plan in plans.values()
            for planned in plan.rounds
            if planned.frame is not None
        }
        futures = {key: self._encoder.submit(frame.pixels, Context()) for key, frame in embeddings.items()}
        tokens = {key: future.result(timeout=self._left_s) for key, future in futures.items()}
        return {key: self._past_rounds(plan, tokens) for key, plan in plans.items()}

    def _past_rounds(
        self, plan: _PlannedWindow, tokens: Mapping[tuple[str, FrameId], torch.Tensor]
    ) -> list[PastRound]:
        past: list[PastRound] = []
        previous: FrameMark | None = None
        for planned in plan.rounds:
            assert planned.frame is not None and planned.token_ids is not None
            mark = planned.frame.mark
            start_ms = round_start_ms(previous, mark)
            if previous is None and mark.id == FrameId.of(plan.watch.window.first):
                start_ms = plan.watch.window.start_ms
            embedding = tokens[plan.stream_id, mark.id]
            past.append(
                PastRound(
                    mark,
                    planned.offset,
                    start_ms,
                    planned.state,
                    planned.token_ids,
                    embedding,
                    planned.frame.grid,
                )
            )
            previous = mark
        return past

    def _needed_offset(self, states: Mapping[str, StreamState]) -> int | None:
        """Without a committed offset: where every stream can go on, none decided twice."""
        offsets = [state.next_offset for state in states.values()]
        offsets += [
            watch.window.frames_offset
            for state in states.values()
            for watch in state.watches
            if watch.HasField("window")
        ]
        return min(offsets, default=None)

    def _records(
        self, consumer: KafkaConsumer, partition: TopicPartition, begin: int, end: int
    ) -> Iterator[ConsumerRecord]:
        """The records of begin <= offset < end. Raises TimedOut."""
        if begin >= end:
            return
        consumer.seek(partition, begin)
        consumer.resume(partition)
        while consumer.position(partition) < end:
            if self._left_s <= 0:
                raise TimedOut(f"{partition} could not be read up to {end} in {_TIMEOUT_S:g} s")
            for record in consumer.poll(timeout_ms=200).get(partition, ()):
                if record.offset < end:
                    yield record
        consumer.pause(partition)

    @property
    def _left_s(self) -> float:
        return max(0.0, self._deadline_s - time.monotonic())


def _offsets(window: Window) -> list[int]:
    """Of the rounds' records. ValueError where there is not one for each round."""
    if len(window.offset_steps) != window.num_rounds:
        raise ValueError(f"{window.num_rounds} rounds with {len(window.offset_steps)} offsets")
    offsets, offset = [], window.frames_offset
    for step in window.offset_steps:
        offset += step
        offsets.append(offset)
    return offsets


def _runs(offsets: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Stretches of rising offsets that are worth reading through, as (first, last)."""
    first = last = None
    for offset in offsets:
        if first is None or last is None:
            first = last = offset
        elif offset - last > _MAX_READ_THROUGH:
            yield first, last
            first = last = offset
        else:
            last = offset
    if first is not None and last is not None:
        yield first, last
