"""`streamo up`, `down`, `status`, `doctor`, `simulate`: the machine's side."""

import os
import shutil
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from services.cli.client import Client, ClientError
from services.cli.doctor import Doctor
from services.cli.folded_table import folded_table, print_folded
from services.cli.gateway_target import load_settings
from services.cli.options import Directory
from services.cli.start_progress import StartProgress
from services.local.directory import DIRECTORY
from services.shared.lifecycle import StopSignal

_NEXT_STEPS = """
Next, in another terminal, a simulated camera at rtsp://127.0.0.1:8554/gate:
  {streamo} simulate gate=7
And in a third one, to watch it and to see what is said, as it is said:
  {streamo} stream add gate rtsp://127.0.0.1:8554/gate
  {streamo} watch add gate cars "Tell me when a car arrives." --task event
  {streamo} tail
"""


def up(
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return once it is up, and leave it running.")
    ] = False,
    directory: Directory = DIRECTORY,
) -> None:
    """Start everything on this machine: Kafka, Redis, encoder and LLM, gateway, ingest.

    The first start fetches Kafka (45 MB). Streams, watches and events are kept in the directory from one start to the
    next. Settings are environment variables that start with STREAMO_, for example STREAMO_MODEL__PATH.

    Examples:

        streamo up                   stays in the foreground; Ctrl-C stops everything

        streamo up --detach          returns; `streamo down` stops everything
    """
    from services.local.detached import start_detached
    from services.local.local_stack import LocalStack

    console = Console()
    progress = StartProgress(console)
    settings = load_settings()
    if detach:
        with progress:
            state = start_detached(directory, progress)
        console.print(f"\nUp. The gateway is at {state.gateway}. Stop it with: {_streamo()} down")
        console.print(_NEXT_STEPS.format(streamo=_streamo()), soft_wrap=True)
        return
    signal.signal(signal.SIGTERM, interrupt)
    stack = LocalStack(directory, settings, progress)
    try:
        with progress:
            stack.up()
        console.print(f"\nUp. The gateway is at {stack.gateway_address}. Ctrl-C stops it.")
        console.print(_NEXT_STEPS.format(streamo=_streamo()), soft_wrap=True)
        stop = StopSignal()
        while not stop.wait(3600.0):
            pass
        console.print("Stopping …")
    finally:
        stack.down()


def down(directory: Directory = DIRECTORY) -> None:
    """Stop the stack of this directory; what it has recorded stays for the next `up`.

    Also cleans up after a stack that was killed: it ends those processes, and only those, that the stack had started.
    """
    from services.local.stack_file import StackFile

    ended = StackFile(directory).end_stack()
    print(f"Stopped: {', '.join(ended)}." if ended else f"Nothing runs in {directory}.")


def status(directory: Directory = DIRECTORY) -> None:
    """Show what runs here and how each stream is doing. Ends with code 1 where no stack is up."""
    from services.local.stack_file import StackFile

    console = Console()
    state = StackFile(directory).read()
    if state is None or not state.is_alive:
        print(
            f"No stack runs in {directory}."
            + (f" The last one failed: {state.failure}" if state and state.failure else "")
        )
        raise typer.Exit(1)
    parts = folded_table("part", "state", "process")
    alive = {record.name: record.pid for record in state.processes if record.process() is not None}
    for name, (phase, detail) in state.parts.items():
        told = phase if phase != "ready" or name in alive else "restarting"
        parts.add_row(name, Text(f"{told} {detail}".strip()), str(alive.get(name, "")))
    print_folded(parts)
    console.print(
        f"\nThe stack is {state.state}; its gateway is at {state.gateway}; logs are in {directory}.\n",
        markup=False,
    )
    if state.state == "ready":
        from services.cli.stream_commands import streams_table

        try:
            with Client(state.gateway, settings=load_settings().client) as client:
                print_folded(streams_table(client.list_streams()))
        except ClientError as error:
            console.print(f"The gateway does not tell its streams: {error}", markup=False)


def doctor(directory: Directory = DIRECTORY) -> None:
    """Look at what this machine needs for Streamo, and say how to mend what is missing.

    Ends with code 1 where something is.
    """
    console = Console()
    findings = Doctor(load_settings(), directory).findings()
    for finding in findings:
        sign = "[green]✓[/green]" if finding.is_well else "[red]✗[/red]"
        console.print(
            f"{sign} [bold]{finding.name:<13}[/bold]{escape(finding.found)}", highlight=False, soft_wrap=True
        )
        if not finding.is_well and finding.mend:
            console.print(f"  {'':<13}→ {finding.mend}", markup=False, highlight=False, soft_wrap=True)
    if not all(finding.is_well for finding in findings):
        raise typer.Exit(1)


def simulate(
    cameras: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME=SEED...", help="Cameras; the seed chooses the place. After -- come further options."
        ),
    ],
    port: Annotated[int, typer.Option(help="RTSP port; 0 takes any free one.")] = 8554,
    fps: Annotated[int, typer.Option(min=1, max=60, help="Frames a second.")] = 10,
) -> None:
    """Run simulated cameras: a small world of people, cars, parcels, doors and lights, served over RTSP.

    Examples:

        streamo simulate gate=7 yard=8

        streamo simulate gate=7 -- --truth truth/        also write what each place really shows

        streamo simulate gate=7 -- --fault gate=stall:50  fail on purpose; all options: python -m services.camera --help
    """
    import services.camera.picture_source  # noqa: F401  what is not installed is told by `main`, which ends with `exec`

    first_option = next((index for index, word in enumerate(cameras) if word.startswith("-")), len(cameras))
    names, further = cameras[:first_option], cameras[first_option:]
    command = ["--port", str(port), "--fps", str(fps), *further, "--streams", *names]
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "services.camera", *command])


def _streamo() -> str:
    """This command as another terminal in this directory finds it, whose PATH need not hold it."""
    if shutil.which("streamo"):
        return "streamo"
    script = Path(sys.executable).with_name("streamo")
    return str(script.relative_to(Path.cwd()) if script.is_relative_to(Path.cwd()) else script)


def interrupt(number: int, frame: FrameType | None) -> None:
    """For SIGTERM, so that it ends a command in order, as Ctrl-C does."""
    raise KeyboardInterrupt
