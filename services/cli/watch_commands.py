"""`streamo watch ...`: the standing instructions."""

from typing import Annotated

import typer
from rich.text import Text

from services.cli.folded_table import folded_table, print_folded
from services.cli.gateway_target import open_client
from services.cli.options import Directory, Gateway, TaskName
from services.local.directory import DIRECTORY
from services.shared.enum_name import enum_name
from streamo.v1.task_pb2 import Task

app = typer.Typer(
    no_args_is_help=True, help="Add, remove and list watches: standing instructions on a stream."
)


@app.command()
def add(
    stream_id: Annotated[str, typer.Argument(help="The stream to watch.")],
    watch_id: Annotated[str, typer.Argument(help="Your name for it: up to 64 of a-z 0-9 . _ -")],
    instruction: Annotated[str, typer.Argument(help="What to look for, in plain words.")],
    task: Annotated[TaskName, typer.Option(help="What kind of answer; see below.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Put it in the place of a watch of this name.")
    ] = False,
    sensitivity: Annotated[
        float, typer.Option(min=-10, max=10, help="Above 0 it speaks sooner, below 0 later; see below.")
    ] = 0.0,
    gateway: Gateway = "",
    directory: Directory = DIRECTORY,
) -> None:
    """Give a stream a standing instruction. It is looked at with every frame from now on.

    The task says what comes out: narration, a sentence whenever something visibly changes; action, one caption for
    each finished action; event, one for each finished event; grounding, the time span of what you name; qa, an answer,
    and a new one whenever it changes.

    Sensitivity is added to the model's logits for speaking (Standby and Response) before it chooses: 0 is the model
    as it was trained; 1 or 2 tell more, and sooner, with more false alarms; -1 or -2 tell only what is plain.

    Examples:

        streamo watch add gate cars "Tell me when a car arrives." --task event

        streamo watch add lobby people "How many people are there?" --task qa

        streamo watch add gate cars "Tell me when a car arrives." --task event --sensitivity 1.5 --replace
    """
    with open_client(gateway, directory) as client:
        watch = client.add_watch(
            stream_id, watch_id, task.value_in_protocol, instruction, replace, sensitivity
        )
    print(f"Watch {watch_id} on {stream_id} is added (version {watch.version}).")


@app.command()
def remove(
    stream_id: Annotated[str, typer.Argument(help="Its stream.")],
    watch_id: Annotated[str, typer.Argument(help="The watch to remove.")],
    gateway: Gateway = "",
    directory: Directory = DIRECTORY,
) -> None:
    """Remove a watch. What is still under way is taken back with a RETRACT."""
    with open_client(gateway, directory) as client:
        client.remove_watch(stream_id, watch_id)
    print(f"Watch {watch_id} on {stream_id} is removed.")


@app.command("list")
def list_watches(
    stream_id: Annotated[str, typer.Argument(help="Only those of this stream.")] = "",
    gateway: Gateway = "",
    directory: Directory = DIRECTORY,
) -> None:
    """List the watches."""
    with open_client(gateway, directory) as client:
        watches = client.list_watches(stream_id)
    if not watches:
        print("No watches yet. Add one: streamo watch add --help")
        return
    table = folded_table("stream", "watch", "task", "instruction", "sensitivity", "version")
    for watch in sorted(watches, key=lambda one: (one.stream_id, one.watch_id)):
        task = enum_name(Task, watch.task).removeprefix("TASK_").lower()
        sensitivity = f"{watch.sensitivity:g}"
        table.add_row(
            watch.stream_id, watch.watch_id, task, Text(watch.instruction), sensitivity, str(watch.version)
        )
    print_folded(table)
