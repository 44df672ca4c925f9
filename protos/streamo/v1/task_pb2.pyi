from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from typing import ClassVar as _ClassVar

DESCRIPTOR: _descriptor.FileDescriptor

class Task(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TASK_UNSPECIFIED: _ClassVar[Task]
    TASK_NARRATION: _ClassVar[Task]
    TASK_ACTION: _ClassVar[Task]
    TASK_EVENT: _ClassVar[Task]
    TASK_GROUNDING: _ClassVar[Task]
    TASK_QA: _ClassVar[Task]
TASK_UNSPECIFIED: Task
TASK_NARRATION: Task
TASK_ACTION: Task
TASK_EVENT: Task
TASK_GROUNDING: Task
TASK_QA: Task
