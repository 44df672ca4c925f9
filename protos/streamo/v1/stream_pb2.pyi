from streamo.v1 import frame_pb2 as _frame_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Stream(_message.Message):
    __slots__ = ("stream_id", "source", "username", "password", "added_at_us")
    STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    USERNAME_FIELD_NUMBER: _ClassVar[int]
    PASSWORD_FIELD_NUMBER: _ClassVar[int]
    ADDED_AT_US_FIELD_NUMBER: _ClassVar[int]
    stream_id: str
    source: str
    username: str
    password: str
    added_at_us: int
    def __init__(self, stream_id: _Optional[str] = ..., source: _Optional[str] = ..., username: _Optional[str] = ..., password: _Optional[str] = ..., added_at_us: _Optional[int] = ...) -> None: ...

class StreamStatus(_message.Message):
    __slots__ = ("stream", "source_state", "source_detail", "media_time_ms", "counters", "num_watches")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    SOURCE_STATE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_DETAIL_FIELD_NUMBER: _ClassVar[int]
    MEDIA_TIME_MS_FIELD_NUMBER: _ClassVar[int]
    COUNTERS_FIELD_NUMBER: _ClassVar[int]
    NUM_WATCHES_FIELD_NUMBER: _ClassVar[int]
    stream: Stream
    source_state: _frame_pb2.SourceState
    source_detail: str
    media_time_ms: int
    counters: StreamCounters
    num_watches: int
    def __init__(self, stream: _Optional[_Union[Stream, _Mapping]] = ..., source_state: _Optional[_Union[_frame_pb2.SourceState, str]] = ..., source_detail: _Optional[str] = ..., media_time_ms: _Optional[int] = ..., counters: _Optional[_Union[StreamCounters, _Mapping]] = ..., num_watches: _Optional[int] = ...) -> None: ...

class StreamCounters(_message.Message):
    __slots__ = ("frames_seen", "frames_kept", "rounds_decided", "frames_skipped")
    FRAMES_SEEN_FIELD_NUMBER: _ClassVar[int]
    FRAMES_KEPT_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_DECIDED_FIELD_NUMBER: _ClassVar[int]
    FRAMES_SKIPPED_FIELD_NUMBER: _ClassVar[int]
    frames_seen: int
    frames_kept: int
    rounds_decided: int
    frames_skipped: int
    def __init__(self, frames_seen: _Optional[int] = ..., frames_kept: _Optional[int] = ..., rounds_decided: _Optional[int] = ..., frames_skipped: _Optional[int] = ...) -> None: ...

class AddStreamRequest(_message.Message):
    __slots__ = ("stream",)
    STREAM_FIELD_NUMBER: _ClassVar[int]
    stream: Stream
    def __init__(self, stream: _Optional[_Union[Stream, _Mapping]] = ...) -> None: ...

class AddStreamResponse(_message.Message):
    __slots__ = ("stream",)
    STREAM_FIELD_NUMBER: _ClassVar[int]
    stream: Stream
    def __init__(self, stream: _Optional[_Union[Stream, _Mapping]] = ...) -> None: ...

class RemoveStreamRequest(_message.Message):
    __slots__ = ("stream_id",)
    STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    stream_id: str
    def __init__(self, stream_id: _Optional[str] = ...) -> None: ...

class RemoveStreamResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListStreamsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListStreamsResponse(_message.Message):
    __slots__ = ("streams",)
    STREAMS_FIELD_NUMBER: _ClassVar[int]
    streams: _containers.RepeatedCompositeFieldContainer[StreamStatus]
    def __init__(self, streams: _Optional[_Iterable[_Union[StreamStatus, _Mapping]]] = ...) -> None: ...
