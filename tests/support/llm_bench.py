"""What an LLM replica lives between: writes control records and frames, and reads what was committed."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from kafka import KafkaProducer

from models.vlm.state import State
from services.shared.control_log import ControlWriter, epoch_key, stream_key, watch_key
from services.shared.kafka import producer
from services.shared.settings import KafkaSettings
from services.shared.topics import Topics, partition_of
from streamo.v1.control_pb2 import ControlRecord, EpochBegin
from streamo.v1.event_pb2 import Event
from streamo.v1.frame_pb2 import Frame, FrameBatch, FrameRecord, PixelFormat, SourceState, SourceStatus
from streamo.v1.state_pb2 import StreamState
from streamo.v1.stream_pb2 import Stream
from streamo.v1.task_pb2 import Task
from streamo.v1.watch_pb2 import Watch
from support.promise import StreamRecords
from support.scripted_engine import picture
from support.topic_records import topic_records


class Bench:
    def __init__(self, settings: KafkaSettings) -> None:
        self.settings = settings
        self.topics = Topics.of(settings)
        self.control = ControlWriter(settings)
        self._producer: KafkaProducer = producer(settings)

    def close(self) -> None:
        self.control.close()
        self._producer.close(timeout=5)

    def add_stream(self, stream_id: str, source: str = "file.mp4") -> int:
        stream = Stream(stream_id=stream_id, source=source, added_at_us=time.time_ns() // 1000)
        return self.control.write(stream_key(stream_id), ControlRecord(stream=stream))

    def remove_stream(self, stream_id: str) -> int:
        return self.control.write(stream_key(stream_id), None)

    def begin_epoch(self, stream_id: str) -> int:
        begin = EpochBegin(stream_id=stream_id, worker_id="w", at_us=time.time_ns() // 1000)
        return self.control.write(epoch_key(stream_id), ControlRecord(epoch=begin))

    def add_watch(
        self,
        stream_id: str,
        watch_id: str,
        task: Task = Task.TASK_EVENT,
        instruction: str = "cars",
        **values: object,
    ) -> int:
        watch = Watch(stream_id=stream_id, watch_id=watch_id, task=task, instruction=instruction, **values)
        return self.control.write(watch_key(stream_id, watch_id), ControlRecord(watch=watch))

    def remove_watch(self, stream_id: str, watch_id: str) -> int:
        return self.control.write(watch_key(stream_id, watch_id), None)

    def send_frame(
        self, stream_id: str, epoch: int, frame_seq: int, pixels: np.ndarray | None = None, **values: object
    ) -> None:
        pixels = picture(State.SILENCE) if pixels is None else pixels
        fields: dict[str, object] = {
            "frame_seq": frame_seq,
            "media_time_ms": 1000 * frame_seq + 500,
            "captured_at_us": time.time_ns() // 1000,
            "height": pixels.shape[0],
            "width": pixels.shape[1],
            "format": PixelFormat.PIXEL_FORMAT_RGB24,
            "data": pixels.tobytes(),
            "num_seen": 3,
            **values,
        }
        batch = FrameBatch(frames=[Frame(**fields)])
        self.send(FrameRecord(stream_id=stream_id, epoch=epoch, frames=batch))

    def send_status(self, stream_id: str, epoch: int, state: SourceState, num_kept: int = 0) -> None:
        status = SourceStatus(state=state, at_us=time.time_ns() // 1000, num_kept=num_kept)
        self.send(FrameRecord(stream_id=stream_id, epoch=epoch, status=status))

    def send(self, record: FrameRecord) -> None:
        self.send_raw(record.stream_id, record.SerializeToString())

    def send_raw(self, stream_id: str, value: bytes) -> None:
        partition = partition_of(stream_id, self.settings.partitions)
        self._producer.send(self.topics.frames, key=stream_id.encode(), value=value, partition=partition)

    def flush(self) -> None:
        self._producer.flush(10)

    def read(self, topic: str, partition: int) -> list[tuple[bytes | None, bytes | None]]:
        """All that is committed, in log order."""
        return topic_records(self.settings, topic, partition)

    def events(self, stream_id: str) -> list[Event]:
        return [Event.FromString(value) for value in self._of(self.topics.events, stream_id)]

    def state(self, stream_id: str) -> StreamState:
        values = self._of(self.topics.state, stream_id)
        return StreamState.FromString(values[-1]) if values else StreamState()

    def records(self, stream_id: str) -> StreamRecords:
        state = self.state(stream_id)  # first: what it speaks of is then surely among the frames and events
        frames = []
        for value in self._of(self.topics.frames, stream_id):
            try:
                frames.append(FrameRecord.FromString(value))
            except Exception:
                continue  # planted by the test; it goes to quarantine
        events = [event for event in self.events(stream_id) if event.seq <= state.last_seq]
        return StreamRecords(frames, events, state)

    def _of(self, topic: str, stream_id: str) -> Sequence[bytes]:
        partition = partition_of(stream_id, self.settings.partitions)
        return [value or b"" for key, value in self.read(topic, partition) if key == stream_id.encode()]
