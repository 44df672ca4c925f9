"""A gateway in a thread of its own, and a writer of events that commits as an LLM replica does."""

import asyncio
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Self

from kafka import KafkaProducer

from services.gateway.server import Gateway
from services.shared.kafka import Headers, producer
from services.shared.settings import KafkaSettings, Settings
from services.shared.telemetry import Telemetry
from services.shared.topics import Topics, partition_of
from streamo.v1.event_pb2 import Event, EventKind, FrameRef, SubscribeResponse
from streamo.v1.state_pb2 import StreamState
from streamo.v1.task_pb2 import Task


def now_us() -> int:
    return time.time_ns() // 1000


class RunningGateway:
    """A whole gateway on a free port of loopback."""

    def __init__(self, settings: Settings, telemetry: Telemetry | None = None) -> None:
        self._settings = settings
        self._telemetry = telemetry or Telemetry("gateway", settings.telemetry)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="gateway", daemon=True)
        self._stopped = False

    def __enter__(self) -> Self:
        self._thread.start()

        async def make() -> Gateway:
            gateway = Gateway(self._settings, self._telemetry, now_us)
            await gateway.start()
            return gateway

        self.gateway = asyncio.run_coroutine_threadsafe(make(), self._loop).result(60)
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop(grace_s=0.1)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.gateway.port}"

    @property
    def num_open(self) -> int:
        assert self.gateway._subscriptions is not None
        return self.gateway._subscriptions.num_open

    def stop(self, grace_s: float = 5.0) -> None:
        if self._stopped:
            return
        self._stopped = True
        asyncio.run_coroutine_threadsafe(self.gateway.stop(grace_s), self._loop).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


class Replica:
    """Writes events and states of any stream, each call in one transaction of the stream's partition."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._topics = Topics.of(settings)
        self._producers: dict[int, KafkaProducer] = {}
        self._last_seqs: dict[str, int] = {}

    def close(self) -> None:
        for made in self._producers.values():
            made.close(timeout=10)

    def say(
        self, stream_id: str, texts: Iterable[str], headers: Headers | None = None, **values: object
    ) -> list[Event]:
        """Events with these texts and the stream's next seqs, committed together with its state."""
        events = [self._event(stream_id, text, **values) for text in texts]
        self.commit(stream_id, events, headers=headers)
        return events

    def quiet(self, stream_id: str, media_time_ms: int, **values: object) -> None:
        """A state without events."""
        self.commit(stream_id, [], media_time_ms=media_time_ms, **values)

    def commit(
        self,
        stream_id: str,
        events: list[Event],
        media_time_ms: int = 0,
        headers: Headers | None = None,
        **values: object,
    ) -> None:
        with self._transaction(stream_id) as (made, partition):
            self._send_events(made, partition, events, headers)
            last_seq = events[-1].seq if events else self._last_seqs.get(stream_id, 0)
            media_time_ms = media_time_ms or max((event.frame.media_time_ms for event in events), default=0)
            state = StreamState(stream_id=stream_id, last_seq=last_seq, media_time_ms=media_time_ms, **values)
            made.send(
                self._topics.state,
                key=stream_id.encode(),
                value=state.SerializeToString(),
                partition=partition,
            )
        self._last_seqs[stream_id] = last_seq

    def give_up(self, stream_id: str, texts: Iterable[str]) -> None:
        """Events that are written, and then aborted: nobody may ever see them."""
        seqs = dict(self._last_seqs)
        made, partition = self._producer(stream_id)
        made.begin_transaction()
        self._send_events(made, partition, [self._event(stream_id, text) for text in texts])
        made.flush(timeout=20)
        made.abort_transaction()
        self._last_seqs = seqs

    def skip(self, stream_id: str) -> None:
        """Leaves out one seq, as only a bug would."""
        self._last_seqs[stream_id] += 1

    def write_raw(self, stream_id: str, value: bytes) -> None:
        with self._transaction(stream_id) as (made, partition):
            made.send(self._topics.events, key=stream_id.encode(), value=value, partition=partition)

    def _event(self, stream_id: str, text: str, **values: object) -> Event:
        seq = self._last_seqs.get(stream_id, 0) + 1
        self._last_seqs[stream_id] = seq
        given = {
            "kind": EventKind.EVENT_KIND_ANSWER,
            "watch_id": "w",
            "task": Task.TASK_QA,
            "event_id": f"{stream_id}-{seq}",
            "frame": FrameRef(epoch=1, frame_seq=seq, media_time_ms=seq * 1000),
        }
        return Event(**{**given, **values, "stream_id": stream_id, "seq": seq, "text": text})

    def _send_events(
        self, made: KafkaProducer, partition: int, events: list[Event], headers: Headers | None = None
    ) -> None:
        for event in events:
            made.send(
                self._topics.events,
                key=event.stream_id.encode(),
                value=event.SerializeToString(),
                partition=partition,
                headers=headers or [],
            )

    @contextmanager
    def _transaction(self, stream_id: str) -> Iterator[tuple[KafkaProducer, int]]:
        made, partition = self._producer(stream_id)
        made.begin_transaction()
        yield made, partition
        made.commit_transaction()

    def _producer(self, stream_id: str) -> tuple[KafkaProducer, int]:
        partition = partition_of(stream_id, self._settings.partitions)
        if partition not in self._producers:
            made = producer(self._settings, f"replica-{partition}")
            made.init_transactions()
            self._producers[partition] = made
        return self._producers[partition], partition


def texts(messages: Iterable[SubscribeResponse], count: int) -> list[str]:
    """The texts of the next `count` events; bookmarks are passed over."""
    return [message.event.text for message in take_events(messages, count)]


def take_events(messages: Iterable[SubscribeResponse], count: int) -> list[SubscribeResponse]:
    found: list[SubscribeResponse] = []
    if count:
        for message in messages:
            if message.HasField("event"):
                found.append(message)
                if len(found) == count:
                    break
    assert len(found) == count, f"the subscription ended after {len(found)} of {count} events"
    return found
