"""Options that several commands share."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from streamo.v1 import task_pb2

Gateway = Annotated[
    str,
    typer.Option(
        "--gateway", metavar="HOST:PORT", help="Else STREAMO_GATEWAY, else the stack that runs here."
    ),
]
Directory = Annotated[
    Path,
    typer.Option("--directory", metavar="DIR", help="Where the local stack keeps everything."),
]


class TaskName(StrEnum):
    NARRATION = "narration"
    ACTION = "action"
    EVENT = "event"
    GROUNDING = "grounding"
    QA = "qa"

    @property
    def value_in_protocol(self) -> int:
        return int(task_pb2.Task.Value(f"TASK_{self.name}"))
