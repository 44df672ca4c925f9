"""Options that several commands share."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from services.shared.errors import InvalidInput
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


def _checked_device(device: str) -> str:
    """Raises InvalidInput for one that torch does not have here."""
    if device != "cpu":
        import torch

        try:
            torch.zeros(1, device=device).item()
        except (
            AssertionError,
            RuntimeError,
        ) as error:  # the first is how torch says that it was built without CUDA
            reason = str(error).partition("\n")[0]
            raise InvalidInput(
                f"--device {device}: torch cannot use it here ({reason}); the default is cpu"
            ) from error
    return device


Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...", callback=_checked_device)]


class TaskName(StrEnum):
    NARRATION = "narration"
    ACTION = "action"
    EVENT = "event"
    GROUNDING = "grounding"
    QA = "qa"

    @property
    def value_in_protocol(self) -> int:
        return int(task_pb2.Task.Value(f"TASK_{self.name}"))
