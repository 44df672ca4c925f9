from streamo.v1 import event_pb2 as _event_pb2
from streamo.v1 import frame_pb2 as _frame_pb2
from streamo.v1 import stream_pb2 as _stream_pb2
from streamo.v1 import task_pb2 as _task_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StreamState(_message.Message):
    __slots__ = ("stream_id", "stream_version", "removed", "last_seq", "epoch", "next_frame_seq", "media_time_ms", "captured_at_us", "source_state", "source_detail", "counters", "watches", "num_unreadable", "next_offset")
    STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    STREAM_VERSION_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQ_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    NEXT_FRAME_SEQ_FIELD_NUMBER: _ClassVar[int]
    MEDIA_TIME_MS_FIELD_NUMBER: _ClassVar[int]
    CAPTURED_AT_US_FIELD_NUMBER: _ClassVar[int]
    SOURCE_STATE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_DETAIL_FIELD_NUMBER: _ClassVar[int]
    COUNTERS_FIELD_NUMBER: _ClassVar[int]
    WATCHES_FIELD_NUMBER: _ClassVar[int]
    NUM_UNREADABLE_FIELD_NUMBER: _ClassVar[int]
    NEXT_OFFSET_FIELD_NUMBER: _ClassVar[int]
    stream_id: str
    stream_version: int
    removed: bool
    last_seq: int
    epoch: int
    next_frame_seq: int
    media_time_ms: int
    captured_at_us: int
    source_state: _frame_pb2.SourceState
    source_detail: str
    counters: _stream_pb2.StreamCounters
    watches: _containers.RepeatedCompositeFieldContainer[WatchState]
    num_unreadable: int
    next_offset: int
    def __init__(self, stream_id: _Optional[str] = ..., stream_version: _Optional[int] = ..., removed: _Optional[bool] = ..., last_seq: _Optional[int] = ..., epoch: _Optional[int] = ..., next_frame_seq: _Optional[int] = ..., media_time_ms: _Optional[int] = ..., captured_at_us: _Optional[int] = ..., source_state: _Optional[_Union[_frame_pb2.SourceState, str]] = ..., source_detail: _Optional[str] = ..., counters: _Optional[_Union[_stream_pb2.StreamCounters, _Mapping]] = ..., watches: _Optional[_Iterable[_Union[WatchState, _Mapping]]] = ..., num_unreadable: _Optional[int] = ..., next_offset: _Optional[int] = ...) -> None: ...

class WatchState(_message.Message):
    __slots__ = ("watch_id", "version", "activation", "next_frame", "rounds_decided", "open", "window", "ended", "task")
    WATCH_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ACTIVATION_FIELD_NUMBER: _ClassVar[int]
    NEXT_FRAME_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_DECIDED_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    watch_id: str
    version: int
    activation: _event_pb2.FrameRef
    next_frame: _event_pb2.FrameRef
    rounds_decided: int
    open: OpenEvent
    window: Window
    ended: _event_pb2.Reason
    task: _task_pb2.Task
    def __init__(self, watch_id: _Optional[str] = ..., version: _Optional[int] = ..., activation: _Optional[_Union[_event_pb2.FrameRef, _Mapping]] = ..., next_frame: _Optional[_Union[_event_pb2.FrameRef, _Mapping]] = ..., rounds_decided: _Optional[int] = ..., open: _Optional[_Union[OpenEvent, _Mapping]] = ..., window: _Optional[_Union[Window, _Mapping]] = ..., ended: _Optional[_Union[_event_pb2.Reason, str]] = ..., task: _Optional[_Union[_task_pb2.Task, str]] = ...) -> None: ...

class OpenEvent(_message.Message):
    __slots__ = ("event_id", "since")
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    event_id: str
    since: _event_pb2.FrameRef
    def __init__(self, event_id: _Optional[str] = ..., since: _Optional[_Union[_event_pb2.FrameRef, _Mapping]] = ...) -> None: ...

class Window(_message.Message):
    __slots__ = ("frames_offset", "events_offset", "first", "num_rounds", "states", "start_ms", "offset_steps")
    FRAMES_OFFSET_FIELD_NUMBER: _ClassVar[int]
    EVENTS_OFFSET_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    NUM_ROUNDS_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    START_MS_FIELD_NUMBER: _ClassVar[int]
    OFFSET_STEPS_FIELD_NUMBER: _ClassVar[int]
    frames_offset: int
    events_offset: int
    first: _event_pb2.FrameRef
    num_rounds: int
    states: bytes
    start_ms: int
    offset_steps: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, frames_offset: _Optional[int] = ..., events_offset: _Optional[int] = ..., first: _Optional[_Union[_event_pb2.FrameRef, _Mapping]] = ..., num_rounds: _Optional[int] = ..., states: _Optional[bytes] = ..., start_ms: _Optional[int] = ..., offset_steps: _Optional[_Iterable[int]] = ...) -> None: ...

class Checkpoint(_message.Message):
    __slots__ = ("cluster_id", "committed_frames_offset", "state_offset", "state", "replies", "vocabulary")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_FRAMES_OFFSET_FIELD_NUMBER: _ClassVar[int]
    STATE_OFFSET_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REPLIES_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_FIELD_NUMBER: _ClassVar[int]
    cluster_id: str
    committed_frames_offset: int
    state_offset: int
    state: StreamState
    replies: _containers.RepeatedCompositeFieldContainer[WindowReplies]
    vocabulary: str
    def __init__(self, cluster_id: _Optional[str] = ..., committed_frames_offset: _Optional[int] = ..., state_offset: _Optional[int] = ..., state: _Optional[_Union[StreamState, _Mapping]] = ..., replies: _Optional[_Iterable[_Union[WindowReplies, _Mapping]]] = ..., vocabulary: _Optional[str] = ...) -> None: ...

class WindowReplies(_message.Message):
    __slots__ = ("replies",)
    REPLIES_FIELD_NUMBER: _ClassVar[int]
    replies: _containers.RepeatedCompositeFieldContainer[Reply]
    def __init__(self, replies: _Optional[_Iterable[_Union[Reply, _Mapping]]] = ...) -> None: ...

class Reply(_message.Message):
    __slots__ = ("token_ids",)
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, token_ids: _Optional[_Iterable[int]] = ...) -> None: ...
