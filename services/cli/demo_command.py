"""`streamo demo`."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from services.cli.local_source import local_source
from services.cli.options import TaskName
from services.cli.stack_commands import interrupt
from services.local.directory import DIRECTORY
from services.shared.errors import InvalidInput


def demo(
    duration: Annotated[float, typer.Option(min=5, help="Seconds of events.")] = 60.0,
    source: Annotated[
        str,
        typer.Option(
            metavar="VIDEO",
            help="A file, rtsp:// or http(s):// of your own instead of the cameras. The embedded model knows the "
            "simulated place alone: for real video set STREAMO_MODEL__PATH to a tuned checkpoint (docs/training.md).",
        ),
    ] = "",
    ask: Annotated[str, typer.Option(metavar="TEXT", help="What you want to know about it.")] = "",
    task: Annotated[
        TaskName | None, typer.Option(help="Else qa for a question, narration for the rest.")
    ] = None,
    summary: Annotated[
        Path | None,
        typer.Option(metavar="FILE", dir_okay=False, writable=True, help="Write the summary as JSON."),
    ] = None,
) -> None:
    """Start everything, watch two simulated cameras, print what is told, stop everything, sum up.

    Examples:

        streamo demo

        streamo demo --duration 300 --summary summary.json

        streamo demo --source rtsp://192.0.2.7/stream1 --ask "Tell me when somebody comes to the door." --task event
    """
    from services.cli.demo import Demo

    if not source and (ask or task):
        raise InvalidInput("--ask and --task are for a video of your own: give it with --source")
    if summary is not None:  # before the run, which is for nothing where it cannot be written
        summary.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(summary.parent, os.W_OK):
            raise InvalidInput(f"--summary {summary}: nothing can be written in {summary.parent}")
    signal.signal(signal.SIGTERM, interrupt)
    console = Console()
    demo = Demo(
        DIRECTORY / "demo",
        duration,
        console,
        source=local_source(source, "--source") if source else "",
        instruction=ask,
        task=task.value if task is not None else "",
    )
    result = demo.run()
    result.print_to(console)
    if summary is not None:
        written = {
            "written_at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "duration_s": duration,
            **result.to_dict(),
        }
        summary.write_text(json.dumps(written, indent=2) + "\n")
        console.print(f"Written to {summary}.", markup=False)
    if demo.has_failed:
        raise typer.Exit(1)
