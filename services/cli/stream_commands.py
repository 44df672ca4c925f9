"""`streamo stream ...`: the video sources."""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from services.cli.event_line import media_time_text
from services.cli.folded_table import folded_table, print_folded
from services.cli.gateway_target import given_gateway, open_client
from services.cli.local_source import local_source
from services.cli.options import Directory, Gateway
from services.local.directory import DIRECTORY
from services.shared.enum_name import enum_name
from streamo.v1.frame_pb2 import SourceState
from streamo.v1.stream_pb2 import StreamStatus

app = typer.Typer(no_args_is_help=True, help="Add, remove and list streams: cameras, files and URLs.")


@app.command()
def add(
    stream_id: Annotated[str, typer.Argument(help="Your name for it: up to 64 of a-z 0-9 . _ -")],
    source: Annotated[
        str, typer.Argument(help="rtsp://..., http://... or the path of a video file, as ingest sees it.")
    ],
    username: Annotated[str, typer.Option(help="Of the camera.")] = "",
    password_stdin: Annotated[
        bool,
        typer.Option("--password-stdin", help="Read the password from standard input instead of asking."),
    ] = False,
    gateway: Gateway = "",
    directory: Directory = DIRECTORY,
) -> None:
    """Add a stream. Repeating the same add changes nothing.

    Examples:

        streamo stream add gate rtsp://192.0.2.17/stream1 --username admin

        streamo stream add lobby /videos/lobby.mp4
    """
    if not given_gateway(gateway):
        source = local_source(source, "SOURCE")
    password = ""
    if password_stdin:
        password = sys.stdin.readline().rstrip("\n")
    elif username:
        password = typer.prompt("Password", hide_input=True)
    with open_client(gateway, directory) as client:
        client.add_stream(stream_id, source, username, password)
    print(f"Stream {stream_id} is added.")


@app.command()
def remove(
    stream_id: Annotated[str, typer.Argument(help="The stream to remove; its watches end too.")],
    gateway: Gateway = "",
    directory: Directory = DIRECTORY,
) -> None:
    """Remove a stream and its watches. What it said stays in the events."""
    with open_client(gateway, directory) as client:
        client.remove_stream(stream_id)
    print(f"Stream {stream_id} is removed.")


@app.command("list")
def list_streams(gateway: Gateway = "", directory: Directory = DIRECTORY) -> None:
    """List the streams, what their sources are doing and how far they are decided."""
    with open_client(gateway, directory) as client:
        print_folded(streams_table(client.list_streams()))


def streams_table(statuses: Sequence[StreamStatus]) -> Table | str:
    if not statuses:
        return "No streams yet. Add one: streamo stream add --help"
    table = folded_table("stream", "source", "state", "decided to", "kept", "rounds", "skipped", "watches")
    for status in sorted(statuses, key=lambda one: one.stream.stream_id):
        state = (
            enum_name(SourceState, status.source_state)
            .removeprefix("SOURCE_STATE_")
            .lower()
            .replace("_", " ")
        )
        counters = status.counters
        table.add_row(
            status.stream.stream_id,
            Text(status.stream.source),
            Text(f"{state} {status.source_detail}".strip()),
            media_time_text(status.media_time_ms),
            str(counters.frames_kept),
            str(counters.rounds_decided),
            str(counters.frames_skipped),
            str(status.num_watches),
        )
    return table
