"""The time that a call may take, without a server."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from services.gateway.interceptors import DeadlineInterceptor
from services.shared.errors import TimedOut

LIMITED, LONGER = "/streamo.v1.StreamService/ListStreams", "/streamo.v1.WatchService/Ask"


def intercepted(handler: Any, method: str = LIMITED) -> Any:
    """The handler that is served instead; calls may take 0.05 s, and LONGER ones an hour."""
    interceptor = DeadlineInterceptor(0.05, {LONGER: 3600.0})

    async def continuation(details: grpc.HandlerCallDetails) -> Any:
        return handler

    return asyncio.run(interceptor.intercept_service(continuation, SimpleNamespace(method=method)))


def call(behaviour: Callable[[Any, Any], Awaitable[Any]], method: str = LIMITED) -> Any:
    handler = intercepted(grpc.unary_unary_rpc_method_handler(behaviour), method)
    return asyncio.run(handler.unary_unary("request", None))


async def sleep_on(request: str, context: object) -> None:
    await asyncio.sleep(3600)


async def answer_late(request: str, context: object) -> str:
    await asyncio.sleep(0.2)
    return f"answer to {request}"


def test_a_call_that_takes_too_long_is_ended_and_told_so() -> None:
    with pytest.raises(TimedOut, match=r"longer than 0\.05 s; a change it asked for may still come"):
        call(sleep_on)


def test_a_method_may_have_a_limit_of_its_own() -> None:
    assert call(answer_late, LONGER) == "answer to request"


def test_what_timed_out_within_a_call_is_not_taken_for_the_calls_own_limit() -> None:
    async def time_out(request: str, context: object) -> None:
        raise TimeoutError("Kafka did not answer")

    with pytest.raises(TimeoutError, match="Kafka did not answer") as raised:
        call(time_out)
    assert not isinstance(raised.value, TimedOut)


def test_a_stream_and_what_is_not_ours_are_left_alone() -> None:
    async def subscribe(request: str, context: object) -> AsyncIterator[str]:
        yield "event"

    stream = grpc.unary_stream_rpc_method_handler(subscribe)
    assert intercepted(stream) is stream
    check = grpc.unary_unary_rpc_method_handler(sleep_on)
    assert intercepted(check, "/grpc.health.v1.Health/Check") is check
    assert intercepted(None) is None
