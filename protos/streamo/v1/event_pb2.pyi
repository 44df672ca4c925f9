from streamo.v1 import frame_pb2 as _frame_pb2
from streamo.v1 import task_pb2 as _task_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EventKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EVENT_KIND_UNSPECIFIED: _ClassVar[EventKind]
    EVENT_KIND_OPEN: _ClassVar[EventKind]
    EVENT_KIND_CLOSE: _ClassVar[EventKind]
    EVENT_KIND_RETRACT: _ClassVar[EventKind]
    EVENT_KIND_ANSWER: _ClassVar[EventKind]
    EVENT_KIND_STARTED: _ClassVar[EventKind]
    EVENT_KIND_ENDED: _ClassVar[EventKind]
    EVENT_KIND_GAP: _ClassVar[EventKind]
    EVENT_KIND_SOURCE: _ClassVar[EventKind]

class Reason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REASON_UNSPECIFIED: _ClassVar[Reason]
    REASON_MODEL: _ClassVar[Reason]
    REASON_WATCH_CHANGED: _ClassVar[Reason]
    REASON_WATCH_REMOVED: _ClassVar[Reason]
    REASON_STREAM_REMOVED: _ClassVar[Reason]
    REASON_STREAM_ENDED: _ClassVar[Reason]
    REASON_SOURCE_LOST: _ClassVar[Reason]
    REASON_ANSWERED: _ClassVar[Reason]
    REASON_TIMED_OUT: _ClassVar[Reason]
    REASON_LAG: _ClassVar[Reason]
    REASON_LOST: _ClassVar[Reason]
    REASON_DISCONNECTED: _ClassVar[Reason]
    REASON_UNREADABLE: _ClassVar[Reason]
    REASON_EXPIRED: _ClassVar[Reason]
    REASON_REFUSED: _ClassVar[Reason]
    REASON_NO_ROOM: _ClassVar[Reason]
EVENT_KIND_UNSPECIFIED: EventKind
EVENT_KIND_OPEN: EventKind
EVENT_KIND_CLOSE: EventKind
EVENT_KIND_RETRACT: EventKind
EVENT_KIND_ANSWER: EventKind
EVENT_KIND_STARTED: EventKind
EVENT_KIND_ENDED: EventKind
EVENT_KIND_GAP: EventKind
EVENT_KIND_SOURCE: EventKind
REASON_UNSPECIFIED: Reason
REASON_MODEL: Reason
REASON_WATCH_CHANGED: Reason
REASON_WATCH_REMOVED: Reason
REASON_STREAM_REMOVED: Reason
REASON_STREAM_ENDED: Reason
REASON_SOURCE_LOST: Reason
REASON_ANSWERED: Reason
REASON_TIMED_OUT: Reason
REASON_LAG: Reason
REASON_LOST: Reason
REASON_DISCONNECTED: Reason
REASON_UNREADABLE: Reason
REASON_EXPIRED: Reason
REASON_REFUSED: Reason
REASON_NO_ROOM: Reason

class FrameRef(_message.Message):
    __slots__ = ("epoch", "frame_seq", "media_time_ms")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    FRAME_SEQ_FIELD_NUMBER: _ClassVar[int]
    MEDIA_TIME_MS_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    frame_seq: int
    media_time_ms: int
    def __init__(self, epoch: _Optional[int] = ..., frame_seq: _Optional[int] = ..., media_time_ms: _Optional[int] = ...) -> None: ...

class Span(_message.Message):
    __slots__ = ("start_ms", "end_ms")
    START_MS_FIELD_NUMBER: _ClassVar[int]
    END_MS_FIELD_NUMBER: _ClassVar[int]
    start_ms: int
    end_ms: int
    def __init__(self, start_ms: _Optional[int] = ..., end_ms: _Optional[int] = ...) -> None: ...

class Gap(_message.Message):
    __slots__ = ("from_ms", "to_ms", "first", "last", "num_frames")
    FROM_MS_FIELD_NUMBER: _ClassVar[int]
    TO_MS_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    NUM_FRAMES_FIELD_NUMBER: _ClassVar[int]
    from_ms: int
    to_ms: int
    first: FrameRef
    last: FrameRef
    num_frames: int
    def __init__(self, from_ms: _Optional[int] = ..., to_ms: _Optional[int] = ..., first: _Optional[_Union[FrameRef, _Mapping]] = ..., last: _Optional[_Union[FrameRef, _Mapping]] = ..., num_frames: _Optional[int] = ...) -> None: ...

class Stamps(_message.Message):
    __slots__ = ("captured_at_us", "decided_at_us", "replied_at_us")
    CAPTURED_AT_US_FIELD_NUMBER: _ClassVar[int]
    DECIDED_AT_US_FIELD_NUMBER: _ClassVar[int]
    REPLIED_AT_US_FIELD_NUMBER: _ClassVar[int]
    captured_at_us: int
    decided_at_us: int
    replied_at_us: int
    def __init__(self, captured_at_us: _Optional[int] = ..., decided_at_us: _Optional[int] = ..., replied_at_us: _Optional[int] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("stream_id", "seq", "kind", "event_id", "watch_id", "watch_version", "task", "frame", "span", "text", "token_ids", "reason", "detail", "gap", "source_state", "stamps", "vocabulary")
    STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    WATCH_ID_FIELD_NUMBER: _ClassVar[int]
    WATCH_VERSION_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    SPAN_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    GAP_FIELD_NUMBER: _ClassVar[int]
    SOURCE_STATE_FIELD_NUMBER: _ClassVar[int]
    STAMPS_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_FIELD_NUMBER: _ClassVar[int]
    stream_id: str
    seq: int
    kind: EventKind
    event_id: str
    watch_id: str
    watch_version: int
    task: _task_pb2.Task
    frame: FrameRef
    span: Span
    text: str
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    reason: Reason
    detail: str
    gap: Gap
    source_state: _frame_pb2.SourceState
    stamps: Stamps
    vocabulary: str
    def __init__(self, stream_id: _Optional[str] = ..., seq: _Optional[int] = ..., kind: _Optional[_Union[EventKind, str]] = ..., event_id: _Optional[str] = ..., watch_id: _Optional[str] = ..., watch_version: _Optional[int] = ..., task: _Optional[_Union[_task_pb2.Task, str]] = ..., frame: _Optional[_Union[FrameRef, _Mapping]] = ..., span: _Optional[_Union[Span, _Mapping]] = ..., text: _Optional[str] = ..., token_ids: _Optional[_Iterable[int]] = ..., reason: _Optional[_Union[Reason, str]] = ..., detail: _Optional[str] = ..., gap: _Optional[_Union[Gap, _Mapping]] = ..., source_state: _Optional[_Union[_frame_pb2.SourceState, str]] = ..., stamps: _Optional[_Union[Stamps, _Mapping]] = ..., vocabulary: _Optional[str] = ...) -> None: ...

class EventFilter(_message.Message):
    __slots__ = ("stream_ids", "watch_ids", "tasks")
    STREAM_IDS_FIELD_NUMBER: _ClassVar[int]
    WATCH_IDS_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    stream_ids: _containers.RepeatedScalarFieldContainer[str]
    watch_ids: _containers.RepeatedScalarFieldContainer[str]
    tasks: _containers.RepeatedScalarFieldContainer[_task_pb2.Task]
    def __init__(self, stream_ids: _Optional[_Iterable[str]] = ..., watch_ids: _Optional[_Iterable[str]] = ..., tasks: _Optional[_Iterable[_Union[_task_pb2.Task, str]]] = ...) -> None: ...

class SubscribeRequest(_message.Message):
    __slots__ = ("filter", "now", "earliest", "resume_token")
    FILTER_FIELD_NUMBER: _ClassVar[int]
    NOW_FIELD_NUMBER: _ClassVar[int]
    EARLIEST_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    filter: EventFilter
    now: bool
    earliest: bool
    resume_token: bytes
    def __init__(self, filter: _Optional[_Union[EventFilter, _Mapping]] = ..., now: _Optional[bool] = ..., earliest: _Optional[bool] = ..., resume_token: _Optional[bytes] = ...) -> None: ...

class SubscribeResponse(_message.Message):
    __slots__ = ("event", "bookmark", "resume_token")
    EVENT_FIELD_NUMBER: _ClassVar[int]
    BOOKMARK_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    event: Event
    bookmark: Bookmark
    resume_token: bytes
    def __init__(self, event: _Optional[_Union[Event, _Mapping]] = ..., bookmark: _Optional[_Union[Bookmark, _Mapping]] = ..., resume_token: _Optional[bytes] = ...) -> None: ...

class Bookmark(_message.Message):
    __slots__ = ("progress",)
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    progress: _containers.RepeatedCompositeFieldContainer[StreamProgress]
    def __init__(self, progress: _Optional[_Iterable[_Union[StreamProgress, _Mapping]]] = ...) -> None: ...

class StreamProgress(_message.Message):
    __slots__ = ("stream_id", "media_time_ms")
    STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    MEDIA_TIME_MS_FIELD_NUMBER: _ClassVar[int]
    stream_id: str
    media_time_ms: int
    def __init__(self, stream_id: _Optional[str] = ..., media_time_ms: _Optional[int] = ...) -> None: ...

class GetEventsRequest(_message.Message):
    __slots__ = ("filter", "page_size", "page_token")
    FILTER_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    filter: EventFilter
    page_size: int
    page_token: bytes
    def __init__(self, filter: _Optional[_Union[EventFilter, _Mapping]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[bytes] = ...) -> None: ...

class GetEventsResponse(_message.Message):
    __slots__ = ("events", "next_page_token")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[Event]
    next_page_token: bytes
    def __init__(self, events: _Optional[_Iterable[_Union[Event, _Mapping]]] = ..., next_page_token: _Optional[bytes] = ...) -> None: ...
