from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PixelFormat(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PIXEL_FORMAT_UNSPECIFIED: _ClassVar[PixelFormat]
    PIXEL_FORMAT_RGB24: _ClassVar[PixelFormat]
    PIXEL_FORMAT_JPEG: _ClassVar[PixelFormat]

class SourceState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SOURCE_STATE_UNSPECIFIED: _ClassVar[SourceState]
    SOURCE_STATE_CONNECTING: _ClassVar[SourceState]
    SOURCE_STATE_LIVE: _ClassVar[SourceState]
    SOURCE_STATE_DISCONNECTED: _ClassVar[SourceState]
    SOURCE_STATE_ENDED: _ClassVar[SourceState]
    SOURCE_STATE_AUTH_FAILED: _ClassVar[SourceState]
    SOURCE_STATE_NOT_FOUND: _ClassVar[SourceState]
    SOURCE_STATE_UNSUPPORTED: _ClassVar[SourceState]
PIXEL_FORMAT_UNSPECIFIED: PixelFormat
PIXEL_FORMAT_RGB24: PixelFormat
PIXEL_FORMAT_JPEG: PixelFormat
SOURCE_STATE_UNSPECIFIED: SourceState
SOURCE_STATE_CONNECTING: SourceState
SOURCE_STATE_LIVE: SourceState
SOURCE_STATE_DISCONNECTED: SourceState
SOURCE_STATE_ENDED: SourceState
SOURCE_STATE_AUTH_FAILED: SourceState
SOURCE_STATE_NOT_FOUND: SourceState
SOURCE_STATE_UNSUPPORTED: SourceState

class FrameRecord(_message.Message):
    __slots__ = ("stream_id", "epoch", "frames", "status", "is_recording")
    STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    IS_RECORDING_FIELD_NUMBER: _ClassVar[int]
    stream_id: str
    epoch: int
    frames: FrameBatch
    status: SourceStatus
    is_recording: bool
    def __init__(self, stream_id: _Optional[str] = ..., epoch: _Optional[int] = ..., frames: _Optional[_Union[FrameBatch, _Mapping]] = ..., status: _Optional[_Union[SourceStatus, _Mapping]] = ..., is_recording: _Optional[bool] = ...) -> None: ...

class FrameBatch(_message.Message):
    __slots__ = ("frames",)
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    frames: _containers.RepeatedCompositeFieldContainer[Frame]
    def __init__(self, frames: _Optional[_Iterable[_Union[Frame, _Mapping]]] = ...) -> None: ...

class Frame(_message.Message):
    __slots__ = ("frame_seq", "media_time_ms", "captured_at_us", "width", "height", "format", "data", "num_seen")
    FRAME_SEQ_FIELD_NUMBER: _ClassVar[int]
    MEDIA_TIME_MS_FIELD_NUMBER: _ClassVar[int]
    CAPTURED_AT_US_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    NUM_SEEN_FIELD_NUMBER: _ClassVar[int]
    frame_seq: int
    media_time_ms: int
    captured_at_us: int
    width: int
    height: int
    format: PixelFormat
    data: bytes
    num_seen: int
    def __init__(self, frame_seq: _Optional[int] = ..., media_time_ms: _Optional[int] = ..., captured_at_us: _Optional[int] = ..., width: _Optional[int] = ..., height: _Optional[int] = ..., format: _Optional[_Union[PixelFormat, str]] = ..., data: _Optional[bytes] = ..., num_seen: _Optional[int] = ...) -> None: ...

class SourceStatus(_message.Message):
    __slots__ = ("state", "detail", "at_us", "retry_in_ms", "num_kept")
    STATE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    AT_US_FIELD_NUMBER: _ClassVar[int]
    RETRY_IN_MS_FIELD_NUMBER: _ClassVar[int]
    NUM_KEPT_FIELD_NUMBER: _ClassVar[int]
    state: SourceState
    detail: str
    at_us: int
    retry_in_ms: int
    num_kept: int
    def __init__(self, state: _Optional[_Union[SourceState, str]] = ..., detail: _Optional[str] = ..., at_us: _Optional[int] = ..., retry_in_ms: _Optional[int] = ..., num_kept: _Optional[int] = ...) -> None: ...
