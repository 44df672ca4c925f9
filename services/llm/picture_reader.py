"""Reads pictures from `frames` a second time: those that were let go of while their stream was far behind."""

from __future__ import annotations

import queue
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError, OffsetOutOfRangeError

from services.llm.frame import Frame
from services.llm.frame_reader import FrameReader
from services.shared.errors import Unavailable
from services.shared.kafka import reader
from services.shared.settings import KafkaSettings
from services.shared.topics import Topics

# Further ahead than this it is cheaper to seek than to read through.
_MAX_READ_THROUGH = 64


class PictureExpired(Exception):
    """Retention has deleted the record."""


@dataclass
class _Wanted:
    partition: TopicPartition
    frame: Frame
    picture: Future[np.ndarray] = field(default_factory=Future)


class PictureReader:
    """One reader for all partitions, in a thread of its own. Thread-safe."""

    def __init__(self, settings: KafkaSettings, frame_reader: FrameReader, timeout_s: float) -> None:
        self._settings = settings
        self._topic = Topics.of(settings).frames
        self._frame_reader = frame_reader
        self._timeout_s = timeout_s
        self._wanted: queue.SimpleQueue[_Wanted | None] = queue.SimpleQueue()
        self._consumer: KafkaConsumer | None = None
        self._at: TopicPartition | None = None
        self._thread = threading.Thread(target=self._run, name="picture-reader", daemon=True)
        self._thread.start()

    def load(self, partition: int, frame: Frame) -> Future[np.ndarray]:
        """The picture of a frame that was read from this partition; else PictureExpired, or Unavailable where
        Kafka does not give it in time."""
        wanted = _Wanted(TopicPartition(self._topic, partition), frame)
        self._wanted.put(wanted)
        return wanted.picture

    def close(self, timeout_s: float) -> None:
        self._wanted.put(None)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while (wanted := self._wanted.get()) is not None:
            if not wanted.picture.set_running_or_notify_cancel():
                continue
            try:
                wanted.picture.set_result(self._read(wanted))
            except BaseException as error:
                wanted.picture.set_exception(error)
        self._close()

    def _read(self, wanted: _Wanted) -> np.ndarray:
        deadline_s = time.monotonic() + self._timeout_s
        while True:
            try:
                return self._read_once(wanted, deadline_s)
            except OffsetOutOfRangeError:
                raise PictureExpired(_expired(wanted)) from None
            except KafkaError as error:
                self._close()
                if time.monotonic() > deadline_s:
                    raise Unavailable(f"Kafka did not give {wanted.partition} again: {error!r}") from error

    def _read_once(self, wanted: _Wanted, deadline_s: float) -> np.ndarray:
        consumer, offset = self._consumer_at(wanted.partition), wanted.frame.offset
        if self._at != wanted.partition or not 0 <= offset - consumer.position(wanted.partition) <= (
            _MAX_READ_THROUGH
        ):
            consumer.seek(wanted.partition, offset)
        self._at = wanted.partition
        while True:
            # One at a time: what is fetched and not taken yet serves the next call.
            for record in consumer.poll(timeout_ms=200, max_records=1).get(wanted.partition, ()):
                if record.offset > offset:
                    raise PictureExpired(_expired(wanted))
                if record.offset == offset:
                    for item in self._frame_reader.read(record):
                        if isinstance(item, Frame) and item.id == wanted.frame.id:
                            return item.pixels
                    raise PictureExpired(_expired(wanted))
            if time.monotonic() > deadline_s:
                raise Unavailable(f"{wanted.partition} did not give offset {offset} again in time")

    def _consumer_at(self, partition: TopicPartition) -> KafkaConsumer:
        if self._consumer is None:
            self._consumer = reader(self._settings, [partition])
        elif self._at != partition:
            self._consumer.assign([partition])
        return self._consumer

    def _close(self) -> None:
        consumer, self._consumer, self._at = self._consumer, None, None
        if consumer is not None:
            consumer.close(autocommit=False)


def _expired(wanted: _Wanted) -> str:
    return f"the frame was deleted by retention before its turn came (frames offset {wanted.frame.offset})"
