"""A gRPC server that plays scripts instead of a gateway."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc

from services.cli.client import RESUME_TOKEN_KEY
from streamo.v1 import event_pb2, event_pb2_grpc, stream_pb2, stream_pb2_grpc, watch_pb2, watch_pb2_grpc
from streamo.v1.event_pb2 import (
    Bookmark,
    Event,
    EventKind,
    GetEventsResponse,
    SubscribeRequest,
    SubscribeResponse,
)

Step = SubscribeResponse | tuple[grpc.StatusCode, str, bytes] | Callable[[], object]


def event(seq: int, stream_id: str = "a") -> SubscribeResponse:
    return SubscribeResponse(
        event=Event(stream_id=stream_id, seq=seq, kind=EventKind.EVENT_KIND_ANSWER),
        resume_token=f"{stream_id}{seq}".encode(),
    )


BOOKMARK = SubscribeResponse(bookmark=Bookmark(), resume_token=b"start")
GONE = (grpc.StatusCode.UNAVAILABLE, "going down", b"")
HUNG = GetEventsResponse(next_page_token=b"never sent")
FULL = (grpc.StatusCode.RESOURCE_EXHAUSTED, "no place left", b"")


class ScriptedGateway(
    event_pb2_grpc.EventServiceServicer,
    stream_pb2_grpc.StreamServiceServicer,
    watch_pb2_grpc.WatchServiceServicer,
):
    """Plays one script a subscription; the last one ends by holding the call open."""

    def __init__(self) -> None:
        self.scripts: list[list[Step]] = []
        self.requests: list[SubscribeRequest] = []
        self.added: list[stream_pb2.Stream] = []
        self.removals: list[grpc.StatusCode] = []
        self.pages: list[GetEventsResponse | grpc.StatusCode] = []
        self.page_tokens: list[bytes] = []
        self.asked: list[str] = []
        self.over = threading.Event()
        self._server = grpc.server(ThreadPoolExecutor(8))
        event_pb2_grpc.add_EventServiceServicer_to_server(self, self._server)
        stream_pb2_grpc.add_StreamServiceServicer_to_server(self, self._server)
        watch_pb2_grpc.add_WatchServiceServicer_to_server(self, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def Subscribe(
        self, request: SubscribeRequest, context: grpc.ServicerContext
    ) -> Iterator[SubscribeResponse]:
        self.requests.append(request)
        script = self.scripts.pop(0) if self.scripts else []
        for step in script:
            if isinstance(step, SubscribeResponse):
                yield step
            elif callable(step):
                step()
            else:
                code, text, token = step
                context.set_trailing_metadata(((RESUME_TOKEN_KEY, token),) if token else ())
                context.abort(code, text)
        ended = threading.Event()
        if context.add_callback(ended.set):
            while not ended.wait(0.05) and not self.over.is_set():
                pass

    def AddStream(
        self, request: stream_pb2.AddStreamRequest, context: grpc.ServicerContext
    ) -> stream_pb2.AddStreamResponse:
        self.added.append(request.stream)
        return stream_pb2.AddStreamResponse(stream=request.stream)

    def RemoveStream(
        self, request: stream_pb2.RemoveStreamRequest, context: grpc.ServicerContext
    ) -> stream_pb2.RemoveStreamResponse:
        _abort_unless_ok(self.removals.pop(0), context)
        return stream_pb2.RemoveStreamResponse()

    def GetEvents(
        self, request: event_pb2.GetEventsRequest, context: grpc.ServicerContext
    ) -> GetEventsResponse:
        self.page_tokens.append(request.page_token)
        page = self.pages.pop(0)
        if isinstance(page, grpc.StatusCode):
            _abort_unless_ok(page, context)
        if page is HUNG:
            self.over.wait()
        return page

    def Ask(self, request: watch_pb2.AskRequest, context: grpc.ServicerContext) -> watch_pb2.AskResponse:
        self.asked.append(request.question)
        context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "the stream shows no answer")

    def stop(self) -> None:
        self.over.set()
        self._server.stop(0).wait(10)


def _abort_unless_ok(code: grpc.StatusCode, context: grpc.ServicerContext) -> None:
    if code != grpc.StatusCode.OK:
        context.abort(code, code.name.lower())
