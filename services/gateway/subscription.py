"""One subscriber's way through the events: what to send next, and the token that goes on after it."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from services.gateway.event_filter import Filter
from services.gateway.event_log import EventLog
from services.gateway.event_ring import EventRecord, Slice
from services.gateway.resume_token import TokenIssuer
from services.shared.errors import DataLoss, Exhausted, Unavailable
from services.shared.settings import GatewaySettings
from services.shared.telemetry import Metrics, Telemetry
from streamo.v1.event_pb2 import Bookmark, StreamProgress, SubscribeResponse


class Cursor:
    """Positions in `events`, moved record by record past a filter, checking that `seq` leaves nothing out.

    `loss` is what was found lost right before the positions, where it is still to be told.
    """

    def __init__(self, wanted: Filter, positions: Mapping[int, int], loss: str = "") -> None:
        self.wanted = wanted
        self.positions = dict(positions)
        self.loss = loss
        self._last_seqs: dict[str, int] = {}

    def advance(self, slices: Iterable[Slice]) -> Iterator[EventRecord]:
        """The matching events of slices read from `positions`; at each, `positions` go on right after it.

        Raises DataLoss at a hole, before the event that shows it, and behind a record that cannot be read; before
        all that, and once, for a `loss`.
        """
        if self.loss:
            loss, self.loss = self.loss, ""
            raise DataLoss(loss)
        for found in slices:
            for record in found.records:
                if record.event is None:
                    self.positions[found.partition] = record.offset + 1
                    raise DataLoss(
                        f"event record {record.offset} of partition {record.partition} {record.fault}; "
                        "the resume token that comes with this error goes on after it"
                    )
                if self.wanted.covers(record.event.stream_id):
                    self._check(record)
                self.positions[found.partition] = record.offset + 1
                if self.wanted.passes(record.event):
                    yield record
            self.positions[found.partition] = found.next_offset

    def _check(self, record: EventRecord) -> None:
        assert record.event is not None
        stream_id, seq = record.event.stream_id, record.event.seq
        last = self._last_seqs.get(stream_id)
        if last is not None and seq != last + 1:
            self.positions[record.partition] = record.offset
            raise DataLoss(
                f"stream {stream_id}: seq {seq} comes after {last}; "
                "the resume token that comes with this error goes on behind the hole"
            )
        self._last_seqs[stream_id] = seq


@dataclass(frozen=True, slots=True)
class Message:
    """What is sent next; `record` is None for a bookmark."""

    response: SubscribeResponse
    record: EventRecord | None


class Subscription:
    """Holds at most `max_queued_messages` events, and reads on only when all of them were taken.

    Whoever takes nothing is read nothing for. Made on a place of `Subscriptions`.
    """

    def __init__(self, subscriptions: "Subscriptions", cursor: Cursor) -> None:
        self._subscriptions = subscriptions
        self._log = subscriptions.log
        self._settings = subscriptions.settings
        self._cursor = cursor

    def token(self) -> bytes:
        """Goes on after the last message taken."""
        cursor = self._cursor
        return self._subscriptions.issuer.issue(cursor.wanted, cursor.positions, cursor.loss)

    async def messages(self) -> AsyncGenerator[Message]:
        """Without end; the first is a bookmark, and one follows every `bookmark_period_s`.

        Raises DataLoss, TokenExpired and Unavailable; `token` is then where to go on.
        """
        yield self._bookmark()
        bookmark_at = time.monotonic() + self._settings.bookmark_period_s
        with self._log.news(self._cursor.positions) as news:
            while True:
                news.clear()
                if self._subscriptions.draining:
                    raise Unavailable("this gateway is stopping: go on at another with the resume token")
                slices = await self._log.read(self._cursor.positions, self._settings.max_queued_messages)
                for record in self._cursor.advance(slices):
                    yield self._event(record)
                if not slices:
                    await self._wait(news, bookmark_at - time.monotonic())
                if time.monotonic() >= bookmark_at:
                    bookmark_at = time.monotonic() + self._settings.bookmark_period_s
                    yield self._bookmark()
                # A long history that matches nothing must leave the loop to others too.
                await asyncio.sleep(0)

    @staticmethod
    async def _wait(news: asyncio.Event, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, timeout_s)):
                await news.wait()
        except TimeoutError:
            pass  # a bookmark is due

    def _event(self, record: EventRecord) -> Message:
        return Message(SubscribeResponse(event=record.event, resume_token=self.token()), record)

    def _bookmark(self) -> Message:
        wanted, positions = self._cursor.wanted, self._cursor.positions
        points = self._log.progress(wanted.stream_ids or None)
        progress = [
            StreamProgress(stream_id=point.stream_id, media_time_ms=point.media_time_ms)
            for point in points
            if positions[point.partition] >= point.events_offset
        ]
        return Message(
            SubscribeResponse(bookmark=Bookmark(progress=progress), resume_token=self.token()), None
        )


class Subscriptions:
    """All open subscriptions of this gateway, at most `max_subscribers`. For one event loop."""

    def __init__(
        self, log: EventLog, issuer: TokenIssuer, settings: GatewaySettings, telemetry: Telemetry
    ) -> None:
        self.log = log
        self.issuer = issuer
        self.settings = settings
        self.draining = False
        self.num_open = 0
        telemetry.gauge(Metrics.SUBSCRIBERS, lambda: self.num_open)

    def ends(self, wanted: Filter) -> dict[int, int]:
        """Where a subscription from now on begins."""
        return self.log.ends(wanted.partitions(self.issuer.num_partitions))

    @contextmanager
    def place(self) -> Iterator[Callable[[Cursor], Subscription]]:
        """A place among the subscribers, and what opens a subscription on it.

        Raises Exhausted or Unavailable.
        """
        if self.draining:
            raise Unavailable("this gateway is stopping: go to another")
        if self.num_open >= self.settings.max_subscribers:
            raise Exhausted(
                f"this gateway has all its {self.settings.max_subscribers} subscribers: go to another"
            )
        self.num_open += 1
        try:
            yield lambda cursor: Subscription(self, cursor)
        finally:
            self.num_open -= 1

    def drain(self) -> None:
        """Every subscription ends as soon as it is not in the middle of a message."""
        self.draining = True
        self.log.wake()
