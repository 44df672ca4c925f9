"""Takes a partition over: fences whoever had it, and reads back where its streams stand. Plain data comes out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from kafka import KafkaProducer

from services.llm.assignment import GROUP
from services.llm.frame_reader import FrameReader
from services.llm.partition_logs import KafkaPartitionLogs, PartitionLogs
from services.llm.parts import EncoderPort
from services.llm.session import DialoguePort, PastRound
from services.llm.windows import WindowKey, Windows
from services.shared.checkpoints import CheckpointStore
from services.shared.control_log import ControlReader, ControlView
from services.shared.kafka import producer
from services.shared.settings import Settings
from services.shared.topics import Topics
from streamo.v1.state_pb2 import Checkpoint, StreamState

_TIMEOUT_S = 60.0
# A transaction may stay open for longer than a replica waits for its commit.
_TRANSACTION_SLACK_S = 5.0


@dataclass(frozen=True)
class Standing:
    """Where a partition's streams stand by what was committed."""

    next_offset: int  # of `frames`
    is_expired: bool  # records that are still needed were deleted
    events_end: int
    states: Mapping[str, StreamState]
    windows: Mapping[WindowKey, Sequence[PastRound]]


@dataclass(frozen=True)
class Takeover:
    """All that the owner of a partition needs to go on."""

    partition: int
    producer: KafkaProducer  # initialised; whoever owned the partition before is fenced
    standing: Standing
    view: ControlView


class Recovery:
    """Of one partition. Blocks; runs in a thread of its own, never inside `poll`."""

    def __init__(
        self,
        settings: Settings,
        partition: int,
        control: ControlReader,
        checkpoints: CheckpointStore,
        cluster_id: str,
        frame_reader: FrameReader,
        encoder: EncoderPort,
        dialogue: DialoguePort,
        count: Callable[[str, int], None],
    ) -> None:
        self._settings = settings
        self._partition = partition
        self._control = control
        self._checkpoints = checkpoints
        self._cluster_id = cluster_id
        self._frame_reader = frame_reader
        self._encoder = encoder
        self._dialogue = dialogue
        self._count = count
        self._topics = Topics.of(settings.kafka)

    def run(self, is_wanted: Callable[[], bool]) -> Takeover | None:
        """None where `is_wanted` says that the partition was taken away meanwhile: what comes too late must not
        fence the right owner. Raises what Kafka raises, and TimedOut."""
        deadline_s = time.monotonic() + _TIMEOUT_S
        initialised = producer(
            self._settings.kafka,
            f"{GROUP}.{self._partition}",
            # Else who waits until Kafka is back is fenced for it. A next owner waits for nothing, it fences at once.
            transaction_timeout_s=self._settings.llm.commit_timeout_s + _TRANSACTION_SLACK_S,
        )
        try:
            if not is_wanted():
                initialised.close(timeout=0)
                return None
            # Settles what the last owner had begun, and refuses it from now on. Everything below is read after.
            initialised.init_transactions()
            with KafkaPartitionLogs(self._settings.kafka, self._partition, deadline_s) as logs:
                left_s = max(0.0, deadline_s - time.monotonic())
                view = self._control.wait_for(logs.end(self._topics.control), left_s)
                standing = read_standing(
                    logs,
                    self._topics,
                    self._checkpoints.load,
                    self._cluster_id,
                    self._frame_reader,
                    self._encoder,
                    self._dialogue,
                    self._count,
                )
        except BaseException:
            initialised.close(timeout=0)
            raise
        return Takeover(self._partition, initialised, standing, view)


def read_standing(
    logs: PartitionLogs,
    topics: Topics,
    load_checkpoints: Callable[[Sequence[str]], Mapping[str, Checkpoint]],
    cluster_id: str,
    frame_reader: FrameReader,
    encoder: EncoderPort,
    dialogue: DialoguePort,
    count: Callable[[str, int], None],
) -> Standing:
    """Reads committed offset, states and windows. Only right once the last owner has been fenced."""
    committed = logs.committed()
    states: dict[str, StreamState] = {}
    state_offsets: dict[str, int] = {}
    for record in logs.records(topics.state, logs.begin(topics.state), logs.end(topics.state)):
        state = StreamState.FromString(record.value)
        states[state.stream_id], state_offsets[state.stream_id] = state, record.offset
    windows = Windows(states, topics, dialogue, count)
    for stream_id, checkpoint in load_checkpoints(windows.streams_without_replies).items():
        windows.use(stream_id, checkpoint, cluster_id, state_offsets[stream_id])
    past = windows.read(logs, frame_reader, encoder, _TIMEOUT_S)
    begin = logs.begin(topics.frames)
    needed = _needed_offset(states) if committed is None else committed
    next_offset = begin if needed is None else max(needed, begin)
    is_expired = needed is not None and needed < begin
    return Standing(next_offset, is_expired, logs.end(topics.events), states, past)


def _needed_offset(states: Mapping[str, StreamState]) -> int | None:
    """Where all streams can go on without a committed offset: frames are read twice then, but not decided."""
    offsets = [state.next_offset for state in states.values()]
    offsets += [
        watch.window.frames_offset
        for state in states.values()
        for watch in state.watches
        if watch.HasField("window")
    ]
    return min(offsets, default=None)
