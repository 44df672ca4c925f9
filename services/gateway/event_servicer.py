"""Events over gRPC: what is told from now on, and what was told."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import aclosing

import grpc
from opentelemetry import trace
from opentelemetry.trace import SpanKind

from services.gateway.event_filter import Filter
from services.gateway.event_ring import EventRecord
from services.gateway.history import Bounds, History
from services.gateway.subscription import Cursor, Message, Subscriptions
from services.shared.enum_name import enum_name
from services.shared.errors import DataLoss, Exhausted, InvalidInput, ServiceError, TokenExpired
from services.shared.kafka import trace_context
from services.shared.telemetry import Metrics, Spans, Telemetry
from streamo.v1 import event_pb2 as pb
from streamo.v1.event_pb2_grpc import EventServiceServicer
from streamo.v1.task_pb2 import Task

RESUME_TOKEN_KEY = "resume-token-bin"
DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000

# A page of history stays below what clients accept by default (4 MiB), and is answered in good time even where
# the filter matches almost nothing.
_MAX_PAGE_BYTES = 2 * 1024 * 1024
_MAX_PAGE_S = 5.0
_SCAN_RECORDS = 256


class _TooSlow(Exhausted):
    pass


class EventServicer(EventServiceServicer):
    def __init__(
        self,
        subscriptions: Subscriptions,
        history: History,
        telemetry: Telemetry,
        clock_us: Callable[[], int],
    ) -> None:
        self._subscriptions = subscriptions
        self._log = subscriptions.log
        self._issuer = subscriptions.issuer
        self._history = history
        self._telemetry = telemetry
        self._clock_us = clock_us

    async def Subscribe(self, request: pb.SubscribeRequest, context: grpc.aio.ServicerContext) -> None:
        wanted = Filter.of(request.filter)
        with self._subscriptions.place() as subscribe:
            opened_at_us = self._clock_us()
            subscription = subscribe(await self._start(request, wanted))
            delivered = subscription.token()
            try:
                async with aclosing(subscription.messages()) as messages:
                    async for message in messages:
                        await self._send(context, message, opened_at_us)
                        delivered = message.response.resume_token
            except ServiceError as error:
                token = delivered if isinstance(error, _TooSlow) else subscription.token()
                context.set_trailing_metadata(((RESUME_TOKEN_KEY, token),))
                self._telemetry.count(Metrics.SUBSCRIBERS_CUT, reason=error.status.lower())
                raise

    async def GetEvents(
        self, request: pb.GetEventsRequest, context: grpc.aio.ServicerContext
    ) -> pb.GetEventsResponse:
        wanted = Filter.of(request.filter)
        page_size = request.page_size or DEFAULT_PAGE_SIZE
        if page_size > MAX_PAGE_SIZE:
            raise InvalidInput(f"page_size must be 1 to {MAX_PAGE_SIZE}, or 0 for {DEFAULT_PAGE_SIZE}")
        bounds = await self._history.bounds(wanted.partitions(self._issuer.num_partitions))
        if request.page_token:
            token = self._issuer.open(request.page_token, wanted)
            _check_bounds(token.positions, bounds)
            cursor = Cursor(wanted, token.positions, token.loss)
        else:
            cursor = Cursor(wanted, _begins(bounds))
        try:
            events = await self._page(cursor, bounds, page_size)
        except DataLoss:
            behind = self._issuer.issue(wanted, cursor.positions)
            context.set_trailing_metadata(((RESUME_TOKEN_KEY, behind),))
            raise
        at_end = all(cursor.positions[partition] >= bound.end for partition, bound in bounds.items())
        is_last = at_end and not cursor.loss
        next_page = b"" if is_last else self._issuer.issue(wanted, cursor.positions, cursor.loss)
        return pb.GetEventsResponse(events=events, next_page_token=next_page)

    async def _start(self, request: pb.SubscribeRequest, wanted: Filter) -> Cursor:
        match request.WhichOneof("start"):
            case "resume_token":
                token = self._issuer.open(request.resume_token, wanted)
                if not self._log.in_memory(token.positions):
                    _check_bounds(token.positions, await self._history.bounds(token.positions))
                return Cursor(wanted, token.positions, token.loss)
            case "earliest" if request.earliest:
                bounds = await self._history.bounds(wanted.partitions(self._issuer.num_partitions))
                return Cursor(wanted, _begins(bounds))
            case "earliest":
                raise InvalidInput("earliest must be true; to subscribe from now on, leave it out")
        return Cursor(wanted, self._subscriptions.ends(wanted))

    async def _page(self, cursor: Cursor, bounds: Mapping[int, Bounds], page_size: int) -> list[pb.Event]:
        """Moves `cursor` past what it returns, and past what does not match.

        Events before a loss are a page of their own: the loss stays with the cursor, for the next page to raise.
        """
        events: list[pb.Event] = []
        num_bytes = 0
        until = asyncio.get_running_loop().time() + _MAX_PAGE_S
        while asyncio.get_running_loop().time() < until:
            left = {p: at for p, at in cursor.positions.items() if at < bounds[p].end}
            slices = await self._log.read(left, _SCAN_RECORDS)
            try:
                for record in cursor.advance(slices):
                    assert record.event is not None
                    events.append(record.event)
                    num_bytes += record.num_bytes
                    if len(events) >= page_size or num_bytes >= _MAX_PAGE_BYTES:
                        return events
            except DataLoss as error:
                if not events:
                    raise
                cursor.loss = str(error)
                break
            if not left:
                break
            if not slices:  # Kafka has it, the log's own thread has not yet
                await asyncio.sleep(0.01)
        return events

    async def _send(self, context: grpc.aio.ServicerContext, message: Message, opened_at_us: int) -> None:
        slow_s = self._subscriptions.settings.slow_subscriber_s
        try:
            async with asyncio.timeout(slow_s):
                await context.write(message.response)
        except TimeoutError:
            raise _TooSlow(
                f"this subscriber took nothing for {slow_s:g} s: read faster, narrow the filter, "
                "and go on with the resume token that comes with this error"
            ) from None
        if message.record is not None:
            self._observe(message.record, opened_at_us)

    def _observe(self, record: EventRecord, opened_at_us: int) -> None:
        event = record.event
        assert event is not None
        now_us = self._clock_us()
        kind, task = enum_name(pb.EventKind, event.kind), enum_name(Task, event.task)
        self._telemetry.count(Metrics.EVENTS_DELIVERED, kind=kind, task=task)
        if record.read_at_us < opened_at_us:
            return  # history: it says nothing of how fast we are
        if event.stamps.captured_at_us:
            self._telemetry.record(Metrics.EVENT_MS, (now_us - event.stamps.captured_at_us) / 1000, task=task)
        parent = trace_context(record.headers)
        if trace.get_current_span(parent).get_span_context().is_valid:
            self._telemetry.span(
                Spans.DELIVER,
                record.read_at_us,
                now_us,
                parent,
                SpanKind.SERVER,
                stream_id=event.stream_id,
                watch_id=event.watch_id,
                event_kind=kind,
                event_seq=event.seq,
            )


def _begins(bounds: Mapping[int, Bounds]) -> dict[int, int]:
    return {partition: bound.begin for partition, bound in bounds.items()}


def _check_bounds(positions: Mapping[int, int], bounds: Mapping[int, Bounds]) -> None:
    """Raises TokenExpired for a position that lies before or behind what Kafka holds."""
    for partition, offset in positions.items():
        bound = bounds[partition]
        if offset < bound.begin:
            raise TokenExpired(
                f"resume token has expired: events after it were deleted by retention (partition {partition} begins "
                f"at {bound.begin}, the token goes on at {offset}); subscribe from `earliest`"
            )
        if offset > bound.end:
            raise TokenExpired(
                f"resume token is from the future: partition {partition} ends at {bound.end}, the token goes on "
                f"at {offset}; the log was cut or restored since, subscribe from `earliest`"
            )
