"""What surrounds every call: errors become statuses, and no call lasts for ever."""

import asyncio
import traceback
from collections.abc import Awaitable, Callable, Mapping
from logging import getLogger
from secrets import token_hex
from typing import Any, NoReturn

import grpc

from services.shared.errors import ServiceError, TimedOut

_log = getLogger(__name__)

# Health and reflection mind themselves.
_OURS = "/streamo.v1."

Behaviour = Callable[[Any, grpc.aio.ServicerContext], Awaitable[Any]]
# None: no such method.
Handler = Any
Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[Handler]]


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """A ServiceError becomes its status with its text. Anything else is a bug: INTERNAL, logged once.

    The log gets the type and the lines of code, never the message: it may quote what the caller sent.
    """

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler:
        handler = await continuation(handler_call_details)
        return _wrapped(handler, handler_call_details.method, self._around)

    def _around(self, method: str, behaviour: Behaviour) -> Behaviour:
        async def call(request: Any, context: grpc.aio.ServicerContext) -> Any:
            try:
                return await behaviour(request, context)
            except ServiceError as error:
                await context.abort(grpc.StatusCode[error.status], str(error))
            except grpc.aio.AbortError:
                raise
            except Exception as error:
                await _abort_internal(method, error, context)

        return call


class DeadlineInterceptor(grpc.aio.ServerInterceptor):
    """Ends unary calls after `default_s`, or what `of_method` says. Streams last as their subscriber does."""

    def __init__(self, default_s: float, of_method: Mapping[str, float]) -> None:
        self._default_s = default_s
        self._of_method = of_method

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler:
        handler = await continuation(handler_call_details)
        if handler is None or handler.response_streaming:
            return handler
        return _wrapped(handler, handler_call_details.method, self._around)

    def _around(self, method: str, behaviour: Behaviour) -> Behaviour:
        limit_s = self._of_method.get(method, self._default_s)

        async def call(request: Any, context: grpc.aio.ServicerContext) -> Any:
            try:
                async with asyncio.timeout(limit_s) as deadline:
                    return await behaviour(request, context)
            except TimeoutError:
                if not deadline.expired():
                    raise
                raise TimedOut(
                    f"the call took longer than {limit_s:g} s; a change it asked for may still come"
                ) from None

        return call


async def _abort_internal(method: str, error: Exception, context: grpc.aio.ServicerContext) -> NoReturn:
    reference = token_hex(4)
    lines = "".join(traceback.format_tb(error.__traceback__))
    _log.error("%s failed (reference %s): %s at\n%s", method, reference, type(error).__qualname__, lines)
    await context.abort(
        grpc.StatusCode.INTERNAL, f"internal error; the gateway's log tells more at {reference}"
    )
    raise AssertionError("abort returns never")


def _wrapped(handler: Handler, method: str, around: Callable[[str, Behaviour], Behaviour]) -> Handler:
    if handler is None or not method.startswith(_OURS):
        return handler
    coding = (handler.request_deserializer, handler.response_serializer)
    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler(around(method, handler.unary_stream), *coding)
    return grpc.unary_unary_rpc_method_handler(around(method, handler.unary_unary), *coding)
