"""Reads of Kafka on demand: older events, how far topics reach. A bounded number of readers serves everybody.

A read is one bounded batch, not a lasting lease: a subscriber far behind takes turns with all others.
"""

import asyncio
import queue
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.message import DecodeError
from kafka import KafkaConsumer, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from kafka.errors import KafkaError, OffsetOutOfRangeError

from services.gateway.event_ring import EventRecord, Slice
from services.shared.errors import TokenExpired, Unavailable
from services.shared.kafka import reader
from services.shared.settings import KafkaSettings
from services.shared.topics import Topics
from streamo.v1.event_pb2 import Event

T = TypeVar("T")

# A few hundred events a fetch: what is fetched beyond a batch is thrown away.
_FETCH_BYTES = 128 * 1024
_POLL_MS = 200


@dataclass(frozen=True)
class Bounds:
    """Offset of the oldest record kept, and of the next one to be committed."""

    begin: int
    end: int


class History:
    """`num_readers` Kafka readers, each made at its first use. Its methods may be called from one event loop.

    Every call raises Unavailable where no reader is free within `timeout_s`, or Kafka does not answer in that time.
    """

    def __init__(
        self, settings: KafkaSettings, num_readers: int, timeout_s: float, clock_us: Callable[[], int]
    ) -> None:
        topics = Topics.of(settings)
        self._events = topics.events
        self._control = TopicPartition(topics.control, 0)
        self._settings = settings
        self._num_readers = num_readers
        self._timeout_s = timeout_s
        self._clock_us = clock_us
        self._idle: queue.LifoQueue[KafkaConsumer] = queue.LifoQueue()
        self._threads = ThreadPoolExecutor(num_readers, thread_name_prefix="history")

    async def read(self, positions: Mapping[int, int], limit: int) -> list[Slice]:
        """At most `limit` committed events after `positions`, by partition; some position has moved.

        Only for positions below the end. Raises TokenExpired where retention has passed one of them.
        """
        return await self._run(lambda consumer: self._read(consumer, positions, limit))

    async def bounds(self, partitions: Iterable[int]) -> dict[int, Bounds]:
        topic_partitions = [TopicPartition(self._events, partition) for partition in partitions]

        def find(consumer: KafkaConsumer) -> dict[int, Bounds]:
            timeout_ms = int(self._timeout_s * 1000)
            begins = consumer.beginning_offsets(topic_partitions, timeout_ms=timeout_ms)
            ends = consumer.end_offsets(topic_partitions, timeout_ms=timeout_ms)
            return {at.partition: Bounds(begins[at], ends[at]) for at in topic_partitions}

        return await self._run(find)

    async def control_end(self) -> int:
        """Offset after the last committed record of `control`."""
        timeout_ms = int(self._timeout_s * 1000)
        return await self._run(
            lambda consumer: int(consumer.end_offsets([self._control], timeout_ms=timeout_ms)[self._control])
        )

    def close(self) -> None:
        """Blocks until running reads are over."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        while not self._idle.empty():
            self._idle.get_nowait().close()

    async def _run(self, job: Callable[[KafkaConsumer], T]) -> T:
        running: Future[T] = self._threads.submit(self._with_reader, job)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.wrap_future(running)
        except TimeoutError:
            if running.cancelled():
                # Not Exhausted: in the middle of a subscription that is the subscriber's own fault.
                raise Unavailable(
                    f"all {self._num_readers} readers of history were busy for {self._timeout_s:g} s: try later"
                ) from None
            raise Unavailable(f"Kafka did not answer within {self._timeout_s:g} s") from None

    def _with_reader(self, job: Callable[[KafkaConsumer], T]) -> T:
        try:
            consumer = self._idle.get_nowait()
        except queue.Empty:
            try:
                consumer = reader(self._settings, [], _FETCH_BYTES)
            except KafkaError as error:
                raise Unavailable(f"Kafka does not answer: {type(error).__name__}") from error
        try:
            result = job(consumer)
        except OffsetOutOfRangeError as error:
            self._idle.put(consumer)
            raise TokenExpired(
                "events after this position have been deleted by retention: subscribe from `earliest`"
            ) from error
        except KafkaError as error:
            consumer.close()
            raise Unavailable(f"Kafka does not answer: {type(error).__name__}") from error
        except BaseException:
            consumer.close()
            raise
        self._idle.put(consumer)
        return result

    def _read(self, consumer: KafkaConsumer, positions: Mapping[int, int], limit: int) -> list[Slice]:
        starts = {TopicPartition(self._events, partition): offset for partition, offset in positions.items()}
        consumer.assign(list(starts))
        for at, offset in starts.items():
            consumer.seek(at, offset)
        deadline = time.monotonic() + self._timeout_s
        while time.monotonic() < deadline:
            polled = consumer.poll(timeout_ms=_POLL_MS, max_records=limit)
            ends = {at: consumer.position(at) for at in starts}
            if polled or any(ends[at] > starts[at] for at in starts):
                read_at_us = self._clock_us()
                return [
                    Slice(
                        at.partition,
                        [event_record(record, read_at_us) for record in polled.get(at, [])],
                        ends[at],
                    )
                    for at in starts
                    if ends[at] > starts[at]
                ]
        raise Unavailable(f"Kafka gave no older events within {self._timeout_s:g} s")


def event_record(record: ConsumerRecord, read_at_us: int) -> EventRecord:
    """What a record of `events` holds; one that does not parse keeps its place, with the reason."""
    event, fault = None, ""
    try:
        event = Event.FromString(record.value)
    except (DecodeError, TypeError) as error:
        fault = f"does not parse: {error}"
    else:
        if not event.stream_id or event.seq == 0:
            event, fault = None, "has no stream id or no seq"
    return EventRecord(
        record.partition,
        record.offset,
        event,
        fault,
        len(record.value or b""),
        list(record.headers or []),
        read_at_us,
    )
