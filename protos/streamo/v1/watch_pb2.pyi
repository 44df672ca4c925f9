from streamo.v1 import event_pb2 as _event_pb2
from streamo.v1 import task_pb2 as _task_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Watch(_message.Message):
    __slots__ = ("watch_id", "stream_id", "task", "instruction", "version", "once", "expires_at_us", "sensitivity")
    WATCH_ID_FIELD_NUMBER: _ClassVar[int]
    STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    INSTRUCTION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ONCE_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_US_FIELD_NUMBER: _ClassVar[int]
    SENSITIVITY_FIELD_NUMBER: _ClassVar[int]
    watch_id: str
    stream_id: str
    task: _task_pb2.Task
    instruction: str
    version: int
    once: bool
    expires_at_us: int
    sensitivity: float
    def __init__(self, watch_id: _Optional[str] = ..., stream_id: _Optional[str] = ..., task: _Optional[_Union[_task_pb2.Task, str]] = ..., instruction: _Optional[str] = ..., version: _Optional[int] = ..., once: _Optional[bool] = ..., expires_at_us: _Optional[int] = ..., sensitivity: _Optional[float] = ...) -> None: ...

class AddWatchRequest(_message.Message):
    __slots__ = ("watch", "replace")
    WATCH_FIELD_NUMBER: _ClassVar[int]
    REPLACE_FIELD_NUMBER: _ClassVar[int]
    watch: Watch
    replace: bool
    def __init__(self, watch: _Optional[_Union[Watch, _Mapping]] = ..., replace: _Optional[bool] = ...) -> None: ...

class AddWatchResponse(_message.Message):
    __slots__ = ("watch",)
    WATCH_FIELD_NUMBER: _ClassVar[int]
    watch: Watch
    def __init__(self, watch: _Optional[_Union[Watch, _Mapping]] = ...) -> None: ...

class RemoveWatchRequest(_message.Message):
    __slots__ = ("stream_id", "watch_id")
    STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    WATCH_ID_FIELD_NUMBER: _ClassVar[int]
    stream_id: str
    watch_id: str
    def __init__(self, stream_id: _Optional[str] = ..., watch_id: _Optional[str] = ...) -> None: ...

class RemoveWatchResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListWatchesRequest(_message.Message):
    __slots__ = ("stream_id",)
    STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    stream_id: str
    def __init__(self, stream_id: _Optional[str] = ...) -> None: ...

class ListWatchesResponse(_message.Message):
    __slots__ = ("watches",)
    WATCHES_FIELD_NUMBER: _ClassVar[int]
    watches: _containers.RepeatedCompositeFieldContainer[Watch]
    def __init__(self, watches: _Optional[_Iterable[_Union[Watch, _Mapping]]] = ...) -> None: ...

class AskRequest(_message.Message):
    __slots__ = ("stream_id", "question", "timeout_s")
    STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    stream_id: str
    question: str
    timeout_s: int
    def __init__(self, stream_id: _Optional[str] = ..., question: _Optional[str] = ..., timeout_s: _Optional[int] = ...) -> None: ...

class AskResponse(_message.Message):
    __slots__ = ("answer",)
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    answer: _event_pb2.Event
    def __init__(self, answer: _Optional[_Union[_event_pb2.Event, _Mapping]] = ...) -> None: ...
