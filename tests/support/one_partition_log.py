"""The gateway's event log without Kafka: one partition, whose events a test says."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from services.gateway.event_ring import EventRecord, Slice
from services.gateway.progress import StreamPoint
from streamo.v1.event_pb2 import Event
from streamo.v1.state_pb2 import StreamState


class OnePartitionLog:
    """Events are to be said before anybody waits for them."""

    def __init__(self, states: Iterable[StreamState] = ()) -> None:
        self._states = {state.stream_id: state for state in states}
        self._records: list[EventRecord] = []

    def say(self, event: Event) -> None:
        self._records.append(EventRecord(0, len(self._records), event, "", 1, [], 0))

    def ends(self, partitions: Iterable[int]) -> dict[int, int]:
        return dict.fromkeys(partitions, len(self._records))

    @contextmanager
    def news(self, partitions: Iterable[int]) -> Iterator[asyncio.Event]:
        yield asyncio.Event()

    def progress(self, stream_ids: Iterable[str] | None = None) -> list[StreamPoint]:
        return []

    def state(self, stream_id: str) -> StreamState | None:
        return self._states.get(stream_id)

    async def read(self, positions: Mapping[int, int], limit: int) -> list[Slice]:
        found = self._records[positions[0] :][:limit]
        return [Slice(0, found, positions[0] + len(found))] if found else []
