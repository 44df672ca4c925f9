"""Streams over gRPC."""

from collections.abc import Callable

import grpc

from services.gateway.control_desk import ControlDesk, known_stream
from services.gateway.event_log import EventLog
from services.gateway.validation import check_id, checked_stream
from services.shared.control_log import AddedStream, ControlView, end_key, epoch_key, stream_key, watch_key
from services.shared.errors import AlreadyExists
from services.shared.source_address import public_address
from streamo.v1 import stream_pb2 as pb
from streamo.v1.control_pb2 import ControlRecord
from streamo.v1.stream_pb2_grpc import StreamServiceServicer


class StreamServicer(StreamServiceServicer):
    def __init__(self, desk: ControlDesk, log: EventLog, clock_us: Callable[[], int]) -> None:
        self._desk = desk
        self._log = log
        self._clock_us = clock_us

    async def AddStream(
        self, request: pb.AddStreamRequest, context: grpc.aio.ServicerContext
    ) -> pb.AddStreamResponse:
        stream = checked_stream(request.stream)
        async with self._desk.lock(stream.stream_id):
            view = await self._desk.view()
            added = view.streams.get(stream.stream_id)
            if added is not None:
                _refuse_other(stream, added.stream)
                return pb.AddStreamResponse(stream=_public(added.stream))
            stream.added_at_us = self._clock_us()
            await self._desk.write_all(
                [
                    *((key, None) for key in _belongings(view, stream.stream_id)),
                    (stream_key(stream.stream_id), ControlRecord(stream=stream)),
                ]
            )
        return pb.AddStreamResponse(stream=_public(stream))

    async def RemoveStream(
        self, request: pb.RemoveStreamRequest, context: grpc.aio.ServicerContext
    ) -> pb.RemoveStreamResponse:
        stream_id = check_id("stream_id", request.stream_id)
        async with self._desk.lock(stream_id):
            view = await self._desk.view()
            belongings = _belongings(view, stream_id)
            if not belongings:  # of a removal that was cut short they are left, and it can be repeated
                known_stream(view, stream_id)
            # The stream first: its watches end with it, however far a reader has come, and are not removed from it.
            await self._desk.write_all([(key, None) for key in (stream_key(stream_id), *belongings)])
        return pb.RemoveStreamResponse()

    async def ListStreams(
        self, request: pb.ListStreamsRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListStreamsResponse:
        view = await self._desk.view()
        return pb.ListStreamsResponse(
            streams=[self._status(view, view.streams[stream_id]) for stream_id in sorted(view.streams)]
        )

    def _status(self, view: ControlView, added: AddedStream) -> pb.StreamStatus:
        stream_id = added.stream.stream_id
        status = pb.StreamStatus(stream=_public(added.stream), num_watches=len(view.watches_of(stream_id)))
        state = self._log.state(stream_id)
        # A stream removed and added again has no state of its own yet.
        if state is not None and state.stream_version == added.version:
            status.source_state = state.source_state
            status.source_detail = state.source_detail
            status.media_time_ms = state.media_time_ms
            status.counters.CopyFrom(state.counters)
        return status


def _belongings(view: ControlView, stream_id: str) -> list[bytes]:
    """The keys of what belongs to a stream, or is left of a former one."""
    keys = [watch_key(stream_id, watch_id) for watch_id in view.watches_of(stream_id)]
    keys += [epoch_key(stream_id)] if stream_id in view.epochs else []
    keys += [end_key(stream_id)] if stream_id in view.ended else []
    return keys


def _public(stream: pb.Stream) -> pb.Stream:
    """What may be told of a stream: no password, and of an address what holds none."""
    public = pb.Stream()
    public.CopyFrom(stream)
    public.ClearField("password")
    public.source = public_address(stream.source)
    return public


def _refuse_other(asked: pb.Stream, there: pb.Stream) -> None:
    differing = []
    if asked.source != there.source:
        differing.append("source")
    if (asked.username, asked.password) != (there.username, there.password):
        differing.append("credentials")
    if differing:
        raise AlreadyExists(
            f"stream {asked.stream_id} is there with another {' and other '.join(differing)}: "
            "remove it first, or choose another stream_id"
        )
