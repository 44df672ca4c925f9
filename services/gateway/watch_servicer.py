"""Watches and one-off questions over gRPC."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from secrets import token_hex
from typing import NoReturn

import grpc

from services.gateway.control_desk import ControlDesk, known_stream
from services.gateway.event_filter import Filter
from services.gateway.subscription import Cursor, Subscription, Subscriptions
from services.gateway.validation import check_id, checked_ask_timeout_s, checked_instruction, checked_watch
from services.shared.control_log import ControlView, watch_key
from services.shared.enum_name import enum_name
from services.shared.errors import AlreadyExists, NotFound, Refused, ServiceError, TimedOut
from streamo.v1 import watch_pb2 as pb
from streamo.v1.control_pb2 import ControlRecord
from streamo.v1.event_pb2 import Event, EventKind, Reason
from streamo.v1.frame_pb2 import SourceState
from streamo.v1.task_pb2 import Task
from streamo.v1.watch_pb2_grpc import WatchServiceServicer

# The owner ends an overdue question itself; the gateway waits this much longer to hear of it.
_GRACE_S = 5.0
# Between two looks whether the stream of a question is still there.
_LOOK_PERIOD_S = 1.0


class WatchServicer(WatchServiceServicer):
    def __init__(self, desk: ControlDesk, subscriptions: Subscriptions, clock_us: Callable[[], int]) -> None:
        self._desk = desk
        self._subscriptions = subscriptions
        self._clock_us = clock_us
        self._removals: set[asyncio.Task[None]] = set()

    async def AddWatch(
        self, request: pb.AddWatchRequest, context: grpc.aio.ServicerContext
    ) -> pb.AddWatchResponse:
        watch = checked_watch(request.watch)
        async with self._desk.lock(watch.stream_id):
            view = await self._desk.view()
            known_stream(view, watch.stream_id)
            there = view.watches.get((watch.stream_id, watch.watch_id))
            if there is not None:
                watch.version = there.version
                if watch == there:
                    return pb.AddWatchResponse(watch=there)
                if not request.replace:
                    raise AlreadyExists(
                        f"watch {watch.watch_id} of stream {watch.stream_id} is there with another task, "
                        "instruction or sensitivity: set `replace`, or choose another watch_id"
                    )
            self._check_goes_on(view, watch.stream_id)
            await self._write(watch)
        return pb.AddWatchResponse(watch=watch)

    async def RemoveWatch(
        self, request: pb.RemoveWatchRequest, context: grpc.aio.ServicerContext
    ) -> pb.RemoveWatchResponse:
        stream_id = check_id("stream_id", request.stream_id)
        watch_id = check_id("watch_id", request.watch_id)
        async with self._desk.lock(stream_id):
            view = await self._desk.view()
            known_stream(view, stream_id)
            if (stream_id, watch_id) not in view.watches:
                raise NotFound(f"stream {stream_id} has no watch {watch_id}")
            await self._desk.write(watch_key(stream_id, watch_id), None)
        return pb.RemoveWatchResponse()

    async def ListWatches(
        self, request: pb.ListWatchesRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListWatchesResponse:
        view = await self._desk.view()
        if request.stream_id:
            known_stream(view, check_id("stream_id", request.stream_id))
        keys = sorted(key for key in view.watches if request.stream_id in ("", key[0]))
        return pb.ListWatchesResponse(watches=[view.watches[key] for key in keys])

    async def Ask(self, request: pb.AskRequest, context: grpc.aio.ServicerContext) -> pb.AskResponse:
        timeout_s: float = checked_ask_timeout_s(request.timeout_s)
        call_s = context.time_remaining()
        if call_s is not None:  # nobody waits longer for the answer
            timeout_s = min(timeout_s, call_s)
        watch = pb.Watch(
            watch_id=f"ask-{token_hex(16)}",
            stream_id=check_id("stream_id", request.stream_id),
            task=Task.TASK_QA,
            instruction=checked_instruction("question", request.question),
            once=True,
            expires_at_us=self._clock_us() + int(timeout_s * 1e6),
        )
        with self._subscriptions.place() as subscribe:
            async with self._desk.lock(watch.stream_id):
                view = await self._desk.view()
                self._check_goes_on(view, watch.stream_id)
                stream_version = view.streams[watch.stream_id].version
                wanted = Filter(frozenset({watch.stream_id}), frozenset({watch.watch_id}))
                subscription = subscribe(Cursor(wanted, self._subscriptions.ends(wanted)))
                try:
                    await self._write(watch)
                except BaseException:
                    self._remove(watch)  # it may have been written all the same
                    raise
            try:
                async with asyncio.timeout(timeout_s + _GRACE_S):
                    answer = await self._answer_while_there(subscription, watch, stream_version)
                    return pb.AskResponse(answer=answer)
            except _Ended as ended:
                raise _as_error(ended.event, watch, timeout_s) from None
            except TimeoutError:
                self._remove(watch)
                raise TimedOut(_no_answer(watch, timeout_s)) from None
            except BaseException:
                self._remove(watch)
                raise

    async def drain(self) -> None:
        """Until the questions that nobody waits for any more are taken away."""
        await asyncio.gather(*self._removals, return_exceptions=True)

    def _check_goes_on(self, view: ControlView, stream_id: str) -> None:
        """Raises NotFound, and Refused where no frame will be decided any more."""
        added = known_stream(view, stream_id)
        state = self._subscriptions.log.state(stream_id)
        # Ingest has read it to its end before its last frames are decided.
        is_decided = (
            state is not None
            and state.stream_version == added.version
            and state.source_state == SourceState.SOURCE_STATE_ENDED
        )
        if view.is_ended(stream_id) and is_decided:
            raise Refused(
                f"stream {stream_id} is a recording that has ended: no frame is left to decide at; "
                "remove the stream and add it again, and it is read from its beginning"
            )

    async def _write(self, watch: pb.Watch) -> None:
        """Sets `version`."""
        watch.ClearField("version")
        record = ControlRecord(watch=watch)
        watch.version = await self._desk.write(watch_key(watch.stream_id, watch.watch_id), record)

    async def _answer_while_there(
        self, subscription: Subscription, watch: pb.Watch, stream_version: int
    ) -> Event:
        """Raises _Ended, and NotFound where the stream is gone and its owner says nothing of the question: it does not
        where the question had not started."""
        answer = asyncio.ensure_future(_answer(subscription, watch))
        removal = asyncio.ensure_future(self._wait_for_removal(watch, stream_version))
        try:
            await asyncio.wait((answer, removal), return_when=asyncio.FIRST_COMPLETED)
            return await (answer if answer.done() else removal)
        finally:
            answer.cancel()
            removal.cancel()
            await asyncio.gather(answer, removal, return_exceptions=True)

    async def _wait_for_removal(self, watch: pb.Watch, stream_version: int) -> NoReturn:
        """Raises NotFound, a while after `control` last held the stream: what its owner says comes first."""
        while True:
            added = self._desk.newest_view.streams.get(watch.stream_id)
            if added is None or added.version != stream_version:
                break
            await asyncio.sleep(_LOOK_PERIOD_S)
        await asyncio.sleep(_GRACE_S)
        raise NotFound(_was_removed(watch))

    def _remove(self, watch: pb.Watch) -> None:
        """In the background: whoever asked is gone. The owner would end it too, but only at its time-out."""

        async def remove() -> None:
            async with self._desk.lock(watch.stream_id):
                await self._desk.write(watch_key(watch.stream_id, watch.watch_id), None)

        task = asyncio.ensure_future(remove())
        self._removals.add(task)
        task.add_done_callback(self._removals.discard)


class _Ended(Exception):
    def __init__(self, event: Event) -> None:
        self.event = event


async def _answer(subscription: Subscription, watch: pb.Watch) -> Event:
    async with aclosing(subscription.messages()) as messages:
        async for message in messages:
            event = message.response.event
            if event.watch_id == watch.watch_id and event.kind == EventKind.EVENT_KIND_ANSWER:
                return event
            if event.watch_id == watch.watch_id and event.kind == EventKind.EVENT_KIND_ENDED:
                raise _Ended(event)
    raise AssertionError("a subscription never ends by itself")


def _as_error(ended: Event, watch: pb.Watch, timeout_s: float) -> ServiceError:
    match ended.reason:
        case Reason.REASON_TIMED_OUT:
            return TimedOut(_no_answer(watch, timeout_s))
        case Reason.REASON_REFUSED:
            return Refused(f"the question cannot be asked: {ended.detail or 'no reason was given'}")
        case Reason.REASON_STREAM_REMOVED:
            return NotFound(_was_removed(watch))
    detail = f" ({ended.detail})" if ended.detail else ""
    return Refused(f"the question ended without an answer: {enum_name(Reason, ended.reason)}{detail}")


def _was_removed(watch: pb.Watch) -> str:
    return f"stream {watch.stream_id} was removed before there was an answer"


def _no_answer(watch: pb.Watch, timeout_s: float) -> str:
    return (
        f"stream {watch.stream_id} showed no answer within {timeout_s:g} s: "
        "ask with a longer timeout_s, or add a qa watch, which waits"
    )
