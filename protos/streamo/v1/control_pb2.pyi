from streamo.v1 import stream_pb2 as _stream_pb2
from streamo.v1 import watch_pb2 as _watch_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ControlRecord(_message.Message):
    __slots__ = ("stream", "watch", "epoch", "end")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    WATCH_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    stream: _stream_pb2.Stream
    watch: _watch_pb2.Watch
    epoch: EpochBegin
    end: FileEnd
    def __init__(self, stream: _Optional[_Union[_stream_pb2.Stream, _Mapping]] = ..., watch: _Optional[_Union[_watch_pb2.Watch, _Mapping]] = ..., epoch: _Optional[_Union[EpochBegin, _Mapping]] = ..., end: _Optional[_Union[FileEnd, _Mapping]] = ...) -> None: ...

class EpochBegin(_message.Message):
    __slots__ = ("stream_id", "worker_id", "at_us")
    STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    AT_US_FIELD_NUMBER: _ClassVar[int]
    stream_id: str
    worker_id: str
    at_us: int
    def __init__(self, stream_id: _Optional[str] = ..., worker_id: _Optional[str] = ..., at_us: _Optional[int] = ...) -> None: ...

class FileEnd(_message.Message):
    __slots__ = ("stream_id", "stream_version")
    STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    STREAM_VERSION_FIELD_NUMBER: _ClassVar[int]
    stream_id: str
    stream_version: int
    def __init__(self, stream_id: _Optional[str] = ..., stream_version: _Optional[int] = ...) -> None: ...
