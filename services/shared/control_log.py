"""The `control` log: every change to streams and watches in one order, and a service's view of it."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TypeVar

from google.protobuf.message import DecodeError
from kafka import KafkaProducer, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from kafka.errors import KafkaTimeoutError

from services.shared.errors import TimedOut, Unavailable
from services.shared.kafka import abandon, producer, reader
from services.shared.settings import KafkaSettings
from services.shared.topics import Topics
from streamo.v1.control_pb2 import ControlRecord
from streamo.v1.stream_pb2 import Stream
from streamo.v1.watch_pb2 import Watch

WatchKey = tuple[str, str]  # stream id, watch id
Change = tuple[bytes, ControlRecord | None]  # key, record; None takes the key away

K = TypeVar("K")
V = TypeVar("V")


def stream_key(stream_id: str) -> bytes:
    return f"stream/{stream_id}".encode()


def watch_key(stream_id: str, watch_id: str) -> bytes:
    return f"watch/{stream_id}/{watch_id}".encode()


def epoch_key(stream_id: str) -> bytes:
    return f"epoch/{stream_id}".encode()


def end_key(stream_id: str) -> bytes:
    return f"end/{stream_id}".encode()


@dataclass(frozen=True)
class AddedStream:
    stream: Stream
    version: int  # offset of its record


@dataclass(frozen=True)
class ControlView:
    """What the log says up to `next_offset`. Immutable: a change makes a new view."""

    streams: Mapping[str, AddedStream] = field(default_factory=dict)
    watches: Mapping[WatchKey, Watch] = field(default_factory=dict)  # with `version` set
    epochs: Mapping[str, int] = field(default_factory=dict)
    ended: Mapping[str, int] = field(default_factory=dict)  # stream id -> stream version read to its end
    next_offset: int = 0

    def watches_of(self, stream_id: str) -> dict[str, Watch]:
        return {key[1]: watch for key, watch in self.watches.items() if key[0] == stream_id}

    def is_ended(self, stream_id: str) -> bool:
        added = self.streams.get(stream_id)
        return added is not None and self.ended.get(stream_id) == added.version

    def after(self, key: bytes, value: bytes | None, offset: int) -> "ControlView":
        """The view after one more record. Raises ValueError for a record that is none of ours."""
        kind, _, name = key.decode().partition("/")
        record = None
        if value is not None:
            try:
                record = ControlRecord.FromString(value)
            except DecodeError as error:
                raise ValueError(f"control record {offset} does not parse: {error}") from error
            if _key_of(record) != key:
                raise ValueError(
                    f"control record {offset} has the key {key!r}, but its content that of {_key_of(record)!r}"
                )
        view = replace(self, next_offset=offset + 1)
        match kind:
            case "stream":
                added = None if record is None else AddedStream(record.stream, offset)
                return replace(view, streams=_with(self.streams, name, added))
            case "watch":
                stream_id, _, watch_id = name.partition("/")
                watch = None
                if record is not None:
                    watch = Watch()
                    watch.CopyFrom(record.watch)
                    watch.version = offset
                return replace(view, watches=_with(self.watches, (stream_id, watch_id), watch))
            case "epoch":
                epoch = None if record is None else offset
                return replace(view, epochs=_with(self.epochs, name, epoch))
            case "end":
                ended = None if record is None else record.end.stream_version
                return replace(view, ended=_with(self.ended, name, ended))
        raise ValueError(f"control record {offset} has the unknown key {key!r}")


class ControlReader:
    """Follows `control` in a thread of its own; `view` is always a consistent state of some offset.

    A record that cannot be read is told to `on_unreadable` (offset, reason) and passed over.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        on_unreadable: Callable[[int, str], None] | None = None,
    ) -> None:
        self._topic = TopicPartition(Topics.of(settings).control, 0)
        self._settings = settings
        self._on_unreadable = on_unreadable
        self._view = ControlView()
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._follow, name="control-reader", daemon=True)

    @property
    def view(self) -> ControlView:
        """Raises Unavailable once the reader has failed: a view that no longer moves must not be trusted."""
        self._check()
        return self._view

    def start(self, timeout_s: float = 30.0) -> None:
        """Returns when everything that was in the log at the start has been read."""
        self._thread.start()
        with reader(self._settings, [self._topic]) as probe:
            end = probe.end_offsets([self._topic])[self._topic]
        self.wait_for(end, timeout_s)

    def wait_for(self, next_offset: int, timeout_s: float) -> ControlView:
        """Waits until the log has been read up to `next_offset`. Raises TimedOut."""
        with self._changed:
            reached = self._changed.wait_for(
                lambda: self._failure is not None or self._view.next_offset >= next_offset, timeout_s
            )
        self._check()
        if not reached:
            raise TimedOut(
                f"control was read to {self._view.next_offset}, not to {next_offset}, in {timeout_s:g} s"
            )
        return self._view

    def stop(self, timeout_s: float = 5.0) -> None:
        self._stopping.set()
        self._thread.join(timeout_s)

    def _check(self) -> None:
        if self._failure is not None:
            raise Unavailable(f"the control log cannot be followed: {self._failure}") from self._failure

    def _follow(self) -> None:
        try:
            with reader(self._settings, [self._topic]) as consumer:
                consumer.seek_to_beginning(self._topic)
                while not self._stopping.is_set():
                    records = consumer.poll(timeout_ms=200).get(self._topic, [])
                    self._apply(records, consumer.position(self._topic))
        except BaseException as error:
            with self._changed:
                self._failure = error
                self._changed.notify_all()
            if not isinstance(error, Exception):
                raise

    def _apply(self, records: list[ConsumerRecord], position: int) -> None:
        view = self._view
        for record in records:
            try:
                view = view.after(record.key, record.value, record.offset)
            except ValueError as error:
                if self._on_unreadable is not None:
                    self._on_unreadable(record.offset, str(error))
        # Transaction markers and compaction leave offsets without a record; the position passes them.
        view = replace(view, next_offset=max(view.next_offset, position))
        with self._changed:
            self._view = view
            self._changed.notify_all()


class ControlWriter:
    """Writes changes to `control`, one record each, acknowledged before it returns. Threads may share it."""

    def __init__(self, settings: KafkaSettings, timeout_s: float = 10.0) -> None:
        self._topic = Topics.of(settings).control
        self._settings = settings
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._producer: KafkaProducer | None = producer(settings)

    def write(self, key: bytes, record: ControlRecord | None) -> int:
        """Returns the record's offset. Raises what `write_all` raises."""
        return self.write_all([(key, record)])

    def write_all(self, changes: Sequence[Change]) -> int:
        """In their order, without waiting in between; returns the last one's offset.

        Raises Unavailable; whether Kafka has the changes, all or the first of them, is then not known, but none comes
        later.
        """
        writing = None
        try:
            writing = self._current()
            sent = [
                writing.send(
                    self._topic,
                    key=key,
                    value=None if record is None else record.SerializeToString(),
                    partition=0,
                )
                for key, record in changes
            ]
            deadline_s = time.monotonic() + self._timeout_s
            offsets = [one.get(timeout=max(0.0, deadline_s - time.monotonic())).offset for one in sent]
            return int(offsets[-1])
        except Exception as error:
            self._give_up(writing)
            raise Unavailable(
                f"Kafka did not take the change within {self._timeout_s:g} s: {error}"
            ) from error

    def close(self) -> None:
        with self._lock:
            closing, self._producer = self._producer, None
        if closing is not None:
            try:
                closing.close(timeout=self._timeout_s)
            except KafkaTimeoutError:
                abandon(closing)

    def _current(self) -> KafkaProducer:
        with self._lock:
            if self._producer is None:
                self._producer = producer(self._settings)
            return self._producer

    def _give_up(self, failed: KafkaProducer | None) -> None:
        with self._lock:
            if failed is None or self._producer is not failed:
                return
            self._producer = None
        abandon(failed)


def _key_of(record: ControlRecord) -> bytes:
    """The one key that a record with this body has; empty where it has none that we know."""
    match record.WhichOneof("body"):
        case "stream":
            return stream_key(record.stream.stream_id)
        case "watch":
            return watch_key(record.watch.stream_id, record.watch.watch_id)
        case "epoch":
            return epoch_key(record.epoch.stream_id)
        case "end":
            return end_key(record.end.stream_id)
    return b""


def _with(mapping: Mapping[K, V], key: K, value: V | None) -> Mapping[K, V]:
    changed = dict(mapping)
    if value is None:
        changed.pop(key, None)
    else:
        changed[key] = value
    return MappingProxyType(changed)
