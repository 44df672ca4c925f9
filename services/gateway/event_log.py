"""What the gateway knows of `events` and `state`: one thread follows their ends for everybody.

Subscribers keep positions of their own and pull: from the ring where they are near the end, else from Kafka.
So the two join without a gap, a slow one holds nobody up, and no position is state of the gateway.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from logging import getLogger

from google.protobuf.message import DecodeError
from kafka import KafkaConsumer, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from kafka.errors import KafkaError, OffsetOutOfRangeError

from services.gateway.event_ring import EventRing, Slice
from services.gateway.history import History, event_record
from services.gateway.progress import ProgressBook, StreamPoint
from services.shared.errors import TimedOut, Unavailable
from services.shared.kafka import reader
from services.shared.kafka_connection import connection
from services.shared.settings import KafkaSettings
from services.shared.telemetry import Metrics, Telemetry
from services.shared.topics import Topics
from streamo.v1.event_pb2 import Event
from streamo.v1.state_pb2 import StreamState

_log = getLogger(__name__)

# Per partition. A subscriber within these bounds is served from memory.
_RING_RECORDS = 1000
_RING_BYTES = 4 * 1024 * 1024
# Read at the start, so that subscribers of a gateway that ended find their place in memory.
_WARM_UP_OFFSETS = 500
_POLL_MS = 250
_ALL_POSITIONS_S = 1.0


@dataclass(frozen=True)
class _Start:
    """Where one partition stood when the thread began."""

    events_end: int  # committed
    state_end: int
    # Of what was written, committed or not, measured after `state_end`: every event that a state record below
    # `state_end` knows of lies below it.
    events_written: int


class EventLog:
    """Follows `events` and `state`, all partitions, committed records only.

    `start` and `stop` block. All else is for one event loop, the one given to `start`. A log that has failed
    says so through `on_failure` (from its own thread) and raises Unavailable from then on.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        history: History,
        telemetry: Telemetry,
        clock_us: Callable[[], int],
        on_failure: Callable[[], None],
    ) -> None:
        topics = Topics.of(settings)
        self._settings = settings
        self._events = {p: TopicPartition(topics.events, p) for p in range(settings.partitions)}
        self._states = {p: TopicPartition(topics.state, p) for p in range(settings.partitions)}
        self._history = history
        self._telemetry = telemetry
        telemetry.start_at_zero(Metrics.SEQ_VIOLATIONS)
        self._clock_us = clock_us
        self._on_failure = on_failure
        self._lock = threading.Lock()  # of the rings, the book and the states
        self._rings: dict[int, EventRing] = {}
        self._book = ProgressBook()
        self._newest_states: dict[str, StreamState] = {}
        self._last_seqs: dict[str, int] = {}
        self._news: dict[asyncio.Event, frozenset[int]] = {}
        self._told: set[int] = set()  # partitions whose news is on its way to the loop
        self._loop: asyncio.AbstractEventLoop | None = None
        self._caught_up = threading.Event()
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._follow, name="event-log", daemon=True)

    def start(self, loop: asyncio.AbstractEventLoop, timeout_s: float = 60.0) -> None:
        """Returns when `state` and `events` have been read to their ends. Raises TimedOut or Unavailable."""
        self._loop = loop
        self._thread.start()
        if not self._caught_up.wait(timeout_s):
            raise TimedOut(f"events and state were not read to their ends in {timeout_s:g} s")
        self._check()

    def stop(self, timeout_s: float = 5.0) -> None:
        self._stopping.set()
        self._thread.join(timeout_s)

    def ends(self, partitions: Iterable[int]) -> dict[int, int]:
        """Where the next event will be read."""
        self._check()
        with self._lock:
            return {partition: self._rings[partition].next_offset for partition in partitions}

    def in_memory(self, positions: Mapping[int, int]) -> bool:
        """Whether every position lies in what the gateway has read and still holds."""
        with self._lock:
            return all(
                self._rings[partition].start_offset <= offset <= self._rings[partition].next_offset
                for partition, offset in positions.items()
            )

    async def read(self, positions: Mapping[int, int], limit: int) -> list[Slice]:
        """At most `limit` events after `positions`, older ones first; empty where there is nothing new.

        In a partition the slices are in order and leave nothing out. Raises what `History.read` raises.
        """
        self._check()
        with self._lock:
            behind = {p: offset for p, offset in positions.items() if offset < self._rings[p].start_offset}
        slices = await self._history.read(behind, limit) if behind else []
        room = limit - sum(len(found.records) for found in slices)
        with self._lock:
            for partition, offset in positions.items():
                found = None if partition in behind else self._rings[partition].after(offset, room)
                if found is not None and found.next_offset > offset:
                    slices.append(found)
                    room -= len(found.records)
        return slices

    @contextmanager
    def news(self, partitions: Iterable[int]) -> Iterator[asyncio.Event]:
        """Set whenever one of `partitions` has moved on; the caller clears it before it reads."""
        event = asyncio.Event()
        self._news[event] = frozenset(partitions)
        try:
            yield event
        finally:
            del self._news[event]

    def wake(self) -> None:
        """Sets the event of everybody who waits for news."""
        for event in self._news:
            event.set()

    def progress(self, stream_ids: Iterable[str] | None = None) -> list[StreamPoint]:
        """How far the given streams (all, by default) have been decided, as far as it is known safely."""
        with self._lock:
            return self._book.points(stream_ids)

    def state(self, stream_id: str) -> StreamState | None:
        """The newest state of a stream, without its watches."""
        with self._lock:
            return self._newest_states.get(stream_id)

    def _check(self) -> None:
        if self._failure is not None:
            raise Unavailable(
                f"the event log cannot be followed: {type(self._failure).__name__}"
            ) from self._failure

    # In the thread of its own

    def _follow(self) -> None:
        try:
            with reader(self._settings, [*self._events.values(), *self._states.values()]) as consumer:
                starts = self._begin(consumer)
                all_positions_at = 0.0
                while not self._stopping.is_set():
                    all_positions = bool(starts) or time.monotonic() >= all_positions_at
                    if all_positions:
                        all_positions_at = time.monotonic() + _ALL_POSITIONS_S
                    self._step(consumer, all_positions)
                    self._settle(consumer, starts)
        except BaseException as error:
            self._failure = error
            _log.error("the event log cannot be followed: %s", type(error).__name__)
            self._caught_up.set()
            self._tell(set(self._events))
            self._on_failure()
            if not isinstance(error, Exception):
                raise

    def _begin(self, consumer: KafkaConsumer) -> dict[int, _Start]:
        events, states = list(self._events.values()), list(self._states.values())
        begins = consumer.beginning_offsets(events)
        ends = consumer.end_offsets(events)
        state_ends = consumer.end_offsets(states)
        written = self._written_ends()
        for partition, at in self._events.items():
            offset = max(begins[at], ends[at] - _WARM_UP_OFFSETS)
            consumer.seek(at, offset)
            with self._lock:
                self._rings[partition] = EventRing(partition, offset, _RING_RECORDS, _RING_BYTES)
        consumer.seek_to_beginning(*states)
        return {
            p: _Start(ends[at], state_ends[self._states[p]], written[at]) for p, at in self._events.items()
        }

    def _written_ends(self) -> dict[TopicPartition, int]:
        with KafkaConsumer(**connection(self._settings), group_id=None) as uncommitted:
            return uncommitted.end_offsets(list(self._events.values()))

    def _step(self, consumer: KafkaConsumer, all_positions: bool) -> None:
        """`all_positions`: look at partitions without records too; markers move them. Dear with many of them."""
        try:
            polled = consumer.poll(timeout_ms=_POLL_MS)
        except OffsetOutOfRangeError as error:
            self._start_again(consumer, error.args[0])
            return
        except KafkaError as error:
            if not error.retriable:
                raise
            _log.warning("reading events: %s, trying again", type(error).__name__)
            self._stopping.wait(_POLL_MS / 1000)
            return
        read_at_us = self._clock_us()
        moved = set()
        for partition, at in self._events.items():
            if at not in polled and not all_positions:
                continue
            records = [event_record(record, read_at_us) for record in polled.get(at, [])]
            position = consumer.position(at, timeout_ms=_POLL_MS)
            with self._lock:
                if position == self._rings[partition].next_offset:
                    continue
                self._rings[partition].append(records, position)
                for record in records:
                    if record.event is not None:
                        self._book.passed(record.event.stream_id, record.event.seq, record.offset + 1)
            for record in records:
                self._count_violation(record.event)
            moved.add(partition)
        for partition, at in self._states.items():
            newest = {record.key: record for record in polled.get(at, [])}
            for record in newest.values():
                self._take_state(partition, record)
        if moved:
            self._tell(moved)

    def _settle(self, consumer: KafkaConsumer, starts: dict[int, _Start]) -> None:
        """Beyond all that was written by the start, all that the states of the start know of has been passed."""
        if not starts:
            return
        behind = False
        for partition, start in list(starts.items()):
            events = consumer.position(self._events[partition])
            states = consumer.position(self._states[partition])
            behind |= events < start.events_end or states < start.state_end
            if events >= start.events_written and states >= start.state_end:
                with self._lock:
                    self._book.passed_all(partition, start.state_end, start.events_written)
                del starts[partition]
        if not behind:
            self._caught_up.set()

    def _take_state(self, partition: int, record: ConsumerRecord) -> None:
        stream_id = record.key.decode()
        state = None
        if record.value is not None:
            try:
                state = StreamState.FromString(record.value)
            except DecodeError:
                _log.error("state record %d of partition %d does not parse", record.offset, partition)
                return
            state.ClearField("watches")
        with self._lock:
            if state is None or state.removed:
                self._newest_states.pop(stream_id, None)
                self._book.forget(stream_id)
            else:
                self._newest_states[stream_id] = state
                self._book.decided(partition, record.offset, state)

    def _count_violation(self, event: Event | None) -> None:
        if event is None:
            self._telemetry.count(Metrics.SEQ_VIOLATIONS)
            return
        last = self._last_seqs.get(event.stream_id)
        if last is not None and event.seq != last + 1:
            self._telemetry.count(Metrics.SEQ_VIOLATIONS)
            _log.error("stream %s: seq %d comes after %d", event.stream_id, event.seq, last)
        self._last_seqs[event.stream_id] = event.seq

    def _start_again(self, consumer: KafkaConsumer, lost: Mapping[TopicPartition, int]) -> None:
        """Retention has overtaken this reader; subscribers that stood there are told when they read on."""
        begins = consumer.beginning_offsets(list(lost))
        for at, begin in begins.items():
            _log.error("%s-%d was deleted up to %d before it was read from %d", *at, begin, lost[at])
            consumer.seek(at, begin)
            if at in self._events.values():
                with self._lock:
                    self._rings[at.partition] = EventRing(at.partition, begin, _RING_RECORDS, _RING_BYTES)

    def _tell(self, partitions: set[int]) -> None:
        loop = self._loop
        if loop is None or loop.is_closed():
            return
        with self._lock:
            on_its_way = bool(self._told)
            self._told |= partitions
        if not on_its_way:
            loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        with self._lock:
            moved, self._told = self._told, set()
        for event, partitions in self._news.items():
            if not partitions.isdisjoint(moved):
                event.set()
