"""What the gateway's servicers stand on, in memory instead of in Kafka."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from services.gateway.control_desk import ControlDesk
from services.gateway.event_ring import EventRecord, EventRing, Slice
from services.gateway.progress import StreamPoint
from services.gateway.resume_token import TokenIssuer
from services.gateway.subscription import Subscriptions
from services.shared.control_log import Change, ControlView
from services.shared.errors import Unavailable
from services.shared.settings import GatewaySettings, TelemetrySettings
from services.shared.telemetry import Telemetry
from streamo.v1.control_pb2 import ControlRecord
from streamo.v1.event_pb2 import Event
from streamo.v1.state_pb2 import StreamState


class ControlInMemory:
    """The `control` log, as reader, writer and history of a ControlDesk; takes `room` more records."""

    def __init__(self) -> None:
        self.views = [ControlView()]  # after each record
        self.room = 1000

    @property
    def view(self) -> ControlView:
        return self.views[-1]

    def desk(self) -> ControlDesk:
        return ControlDesk(self, self, self, timeout_s=10.0)  # type: ignore[arg-type]

    def write(self, key: bytes, record: ControlRecord | None) -> int:
        return self.write_all([(key, record)])

    def write_all(self, changes: Sequence[Change]) -> int:
        for key, record in changes:
            if self.room == 0:
                raise Unavailable("Kafka is away")
            self.room -= 1
            value = None if record is None else record.SerializeToString()
            self.views.append(self.view.after(key, value, self.view.next_offset))
        return self.view.next_offset - 1

    def wait_for(self, next_offset: int, timeout_s: float) -> ControlView:
        assert self.view.next_offset >= next_offset
        return self.view

    async def control_end(self) -> int:
        return self.view.next_offset


class EventsInMemory:
    """An EventLog of one partition, and the states that it has read."""

    def __init__(self) -> None:
        self.states: dict[str, StreamState] = {}
        self._ring = EventRing(0, 0, max_records=1000, max_bytes=1024 * 1024)
        self._news: set[asyncio.Event] = set()

    def subscriptions(self) -> Subscriptions:
        telemetry = Telemetry("gateway", TelemetrySettings())
        issuer = TokenIssuer("cluster", "events", 1)
        return Subscriptions(self, issuer, GatewaySettings(), telemetry)  # type: ignore[arg-type]

    def say(self, event: Event) -> None:
        offset = self._ring.next_offset
        self._ring.append([EventRecord(0, offset, event, "", event.ByteSize(), [], 0)], offset + 1)
        self.wake()

    def state(self, stream_id: str) -> StreamState | None:
        return self.states.get(stream_id)

    def ends(self, partitions: Iterable[int]) -> dict[int, int]:
        return dict.fromkeys(partitions, self._ring.next_offset)

    async def read(self, positions: Mapping[int, int], limit: int) -> list[Slice]:
        found = self._ring.after(positions[0], limit)
        return [found] if found is not None and found.next_offset > positions[0] else []

    @contextmanager
    def news(self, partitions: Iterable[int]) -> Iterator[asyncio.Event]:
        event = asyncio.Event()
        self._news.add(event)
        try:
            yield event
        finally:
            self._news.remove(event)

    def wake(self) -> None:
        for event in self._news:
            event.set()

    def progress(self, stream_ids: Iterable[str] | None = None) -> list[StreamPoint]:
        return []
