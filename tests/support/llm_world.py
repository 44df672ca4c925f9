"""One partition's logs in memory, and an owner of it that can die at any point: Kafka's part of the promise, exactly.

Transactions are all or nothing, and offsets, states and events stand in them together. What a test learns here about
streams, gaps, commits and takeovers takes microseconds; that the real Kafka behaves so is for the integration tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
from kafka.structs import ConsumerGroupMetadata

from models.engine.round import Decision
from models.vlm.frame_size import FrameBudget
from services.llm.committer import Aborted, Committed, OutgoingRecord, Transaction
from services.llm.frame import Frame
from services.llm.frame_reader import FrameReader
from services.llm.partition import Partition
from services.llm.parts import EncoderPort, Parts
from services.llm.picture_reader import PictureExpired
from services.llm.recovery import read_standing
from services.llm.session import DialoguePort, EnginePort
from services.shared.control_log import ControlView, epoch_key, stream_key, watch_key
from services.shared.settings import KafkaSettings, LlmSettings
from services.shared.topics import Topics
from streamo.v1.control_pb2 import ControlRecord, EpochBegin
from streamo.v1.event_pb2 import Event
from streamo.v1.frame_pb2 import FrameRecord
from streamo.v1.state_pb2 import Checkpoint, StreamState
from streamo.v1.stream_pb2 import Stream
from streamo.v1.watch_pb2 import Watch
from support.counting_telemetry import CountingTelemetry
from support.promise import StreamRecords
from support.scripted_engine import (
    SIZE,
    VOCAB_SIZE,
    WINDOW_ROUNDS,
    ScriptedDialogue,
    ScriptedEncoder,
    ScriptedEngine,
)

KAFKA = KafkaSettings(partitions=1)
TOPICS = Topics.of(KAFKA)
GROUP = ConsumerGroupMetadata("llm", 1, "member", None)
CLUSTER_ID = "cluster"


@dataclass
class Logs:
    """Of partition 0, and `control`. Implements services.llm.partition_logs.PartitionLogs."""

    topics: dict[str, list[SimpleNamespace]] = field(default_factory=dict)
    begins: dict[str, int] = field(default_factory=dict)
    next_offset: int | None = None

    def append(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]] = ()
    ) -> int:
        records = self.topics.setdefault(topic, [])
        records.append(SimpleNamespace(offset=len(records), key=key, value=value, headers=list(headers)))
        return len(records) - 1

    def committed(self) -> int | None:
        return self.next_offset

    def begin(self, topic: str) -> int:
        return self.begins.get(topic, 0)

    def end(self, topic: str) -> int:
        return len(self.topics.get(topic, []))

    def records(self, topic: str, begin: int, end: int) -> Iterator[SimpleNamespace]:
        return iter(self.topics.get(topic, [])[max(begin, self.begin(topic)) : end])


class MemoryCommitter:
    """Ends a transaction when the test says so."""

    def __init__(self, logs: Logs) -> None:
        self._logs = logs
        self.given: Transaction | None = None
        self._result: Committed | Aborted | None = None

    @property
    def is_idle(self) -> bool:
        return self.given is None and self._result is None

    def give(self, transaction: Transaction, group: ConsumerGroupMetadata) -> None:
        assert self.is_idle
        self.given = transaction

    def take_result(self) -> Committed | Aborted | None:
        result, self._result = self._result, None
        return result

    def wait_idle(self, timeout_s: float) -> bool:
        return self.given is None

    def close(self, timeout_s: float) -> None:
        pass

    @property
    def is_tainted(self) -> bool:
        return False

    def commit(self) -> None:
        if self.given is not None:
            transaction, self.given = self.given, None
            offsets = [self._write(record) for record in transaction.records]
            assert transaction.next_offset >= (self._logs.next_offset or 0), "the offset went back"
            self._logs.next_offset = transaction.next_offset
            self._result = Committed(transaction, offsets, 0, 0)

    def abort(self) -> None:
        if self.given is not None:
            transaction, self.given = self.given, None
            self._result = Aborted(transaction, RuntimeError("aborted"))

    def _write(self, record: OutgoingRecord) -> int:
        return self._logs.append(record.topic, record.key, record.value, record.headers)


class World:
    """`engine` makes the engine of each owner, `encoder` serves them all; what is not given is scripted. The logs are
    those of partition 0 of `num_partitions`."""

    def __init__(
        self,
        engine: Callable[[], EnginePort] | None = None,
        encoder: EncoderPort | None = None,
        dialogue: DialoguePort | None = None,
        window_rounds: int = WINDOW_ROUNDS,
        num_partitions: int = 1,
        **llm: object,
    ) -> None:
        self.logs = Logs()
        self.view = ControlView()
        self.redis: dict[str, Checkpoint] = {}
        self.now_us = 1_000_000_000_000
        self.counts: dict[str, int] = {}
        self.telemetry = CountingTelemetry("llm")
        self.num_loaded = 0
        self.encoder = encoder or ScriptedEncoder()
        self.max_sessions, self.vocab_size = 1000, VOCAB_SIZE
        self.dialogue: DialoguePort = dialogue or ScriptedDialogue()
        self._make_engine = engine or (
            lambda: ScriptedEngine(self.max_sessions, self.vocab_size, self.dialogue)
        )
        self._window_rounds = window_rounds
        self._num_partitions = num_partitions
        self._settings = LlmSettings(commit_period_s=0.001, **llm)
        self.take_over()

    # What others write

    def control(self, key: bytes, record: ControlRecord | None) -> int:
        value = None if record is None else record.SerializeToString()
        offset = self.logs.append(TOPICS.control, key, value)
        self._read_control()
        return offset

    def add_stream(self, stream_id: str, source: str = "rtsp://gate/") -> int:
        return self.control(
            stream_key(stream_id), ControlRecord(stream=Stream(stream_id=stream_id, source=source))
        )

    def remove_stream(self, stream_id: str) -> None:
        self.control(stream_key(stream_id), None)

    def begin_epoch(self, stream_id: str) -> int:
        return self.control(epoch_key(stream_id), ControlRecord(epoch=EpochBegin(stream_id=stream_id)))

    def add_watch(self, watch: Watch) -> int:
        return self.control(watch_key(watch.stream_id, watch.watch_id), ControlRecord(watch=watch))

    def remove_watch(self, stream_id: str, watch_id: str) -> None:
        self.control(watch_key(stream_id, watch_id), None)

    def send(self, record: FrameRecord) -> None:
        self.logs.append(TOPICS.frames, record.stream_id.encode(), record.SerializeToString())

    def expire(self, begin: int) -> None:
        """Retention deletes the frames below `begin`; an owner that has not read up to there takes over anew."""
        self.logs.begins[TOPICS.frames] = max(begin, self.logs.begin(TOPICS.frames))
        if self._next_read < begin:
            self.take_over()

    # The owner

    def take_over(self, patch_size: int = 14) -> None:
        """A new owner goes on from what was committed; nothing else is left of the old one. `patch_size`: of its model;
        with another one than 14 it can read none of the scripted pictures."""
        self._reader = FrameReader(FrameBudget(SIZE * SIZE, 4 * SIZE * SIZE, patch_size))
        self._read_control()
        self.engine = self._make_engine()
        self.parts = Parts(
            self.engine,
            self.encoder,
            self.telemetry,
            self._settings,
            self.dialogue,
            self._window_rounds,
            lambda: self.now_us,
            lambda: self.now_us / 1e6,
        )
        self.committer = MemoryCommitter(self.logs)
        standing = read_standing(
            self.logs,
            TOPICS,
            lambda ids: {stream_id: self.redis[stream_id] for stream_id in ids if stream_id in self.redis},
            CLUSTER_ID,
            self._reader,
            self.encoder,
            self.dialogue,
            self._count,
        )
        self.partition = Partition(
            0,
            standing,
            self._num_partitions,
            TOPICS,
            self.parts,
            self._reader,
            self.committer,
            CLUSTER_ID,
            self._save,
            self._load_picture,
        )
        self.partition.restore(standing, self.view)
        self._next_read = standing.next_offset

    def receive(self, count: int) -> None:
        records = list(self.logs.records(TOPICS.frames, self._next_read, self._next_read + count))
        self._next_read = self._next_read + len(records)
        self.partition.receive(records)

    def advance(self) -> bool:
        self._read_control()
        return self.partition.advance(self.view, self._next_read >= self.logs.end(TOPICS.frames))

    def step(self) -> None:
        if not self.engine.has_work:
            return
        for output in self.engine.step():
            found = self.partition.sessions().get(output.session_id)
            if found is None:
                continue
            if isinstance(output, Decision):
                self.partition.decided(*found, output)
            else:
                self.partition.replied(*found, output)

    def begin_commit(self) -> None:
        self.now_us += 100_000
        self.partition.commit_if_due(GROUP)

    def finish(self) -> None:
        """Everything that was sent is decided and committed."""
        for _ in range(300):
            self.receive(5)
            moved = self.advance()
            self.step()
            self.begin_commit()
            self.committer.commit()
            is_read = self._next_read >= self.logs.end(TOPICS.frames)
            if is_read and not moved and not self.engine.has_work and self.partition.num_waiting == 0:
                break
        else:
            raise AssertionError("it never comes to an end")
        for _ in range(3):
            self.advance()
            self.begin_commit()
            self.committer.commit()
        self._read_control()

    # What is visible

    def events(self, stream_id: str) -> list[Event]:
        return [Event.FromString(value) for value in self._values(TOPICS.events, stream_id)]

    def state(self, stream_id: str) -> StreamState:
        values = self._values(TOPICS.state, stream_id)
        return StreamState.FromString(values[-1]) if values else StreamState()

    def records(self, stream_id: str, frames: Sequence[FrameRecord]) -> StreamRecords:
        """`frames` are those that could be read."""
        states = [StreamState.FromString(value) for value in self._values(TOPICS.state, stream_id)]
        last = states.pop() if states else StreamState()
        return StreamRecords(frames, self.events(stream_id), last, states)

    def _values(self, topic: str, stream_id: str) -> list[bytes]:
        return [
            record.value for record in self.logs.topics.get(topic, []) if record.key == stream_id.encode()
        ]

    def _read_control(self) -> None:
        """Tombstones that the owner wrote come back to it by the log."""
        for record in self.logs.topics.get(TOPICS.control, [])[self.view.next_offset :]:
            self.view = self.view.after(record.key, record.value, record.offset)

    def _save(self, checkpoints: Sequence[Checkpoint]) -> None:
        self.redis.update({checkpoint.state.stream_id: checkpoint for checkpoint in checkpoints})

    def _load_picture(self, frame: Frame) -> Future[np.ndarray]:
        self.num_loaded += 1
        loaded: Future[np.ndarray] = Future()
        kept = list(self.logs.records(TOPICS.frames, frame.offset, frame.offset + 1))
        if kept:
            (picture,) = [item.pixels for item in self._reader.read(kept[0]) if item.id == frame.id]
            loaded.set_result(picture)
        else:
            loaded.set_exception(PictureExpired("deleted"))
        return loaded

    def _count(self, outcome: str, amount: int) -> None:
        self.counts[outcome] = self.counts.get(outcome, 0) + amount


def kinds(events: Sequence[Event]) -> list[str]:
    from streamo.v1.event_pb2 import EventKind

    return [EventKind.Name(event.kind).removeprefix("EVENT_KIND_") for event in events]


Redis = Mapping[str, Checkpoint]
