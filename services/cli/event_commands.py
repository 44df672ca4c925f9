"""`streamo ask` and `streamo tail`: what the streams have to say."""

import json
import time
from enum import StrEnum
from typing import Annotated

import grpc
import typer
from google.protobuf.json_format import MessageToDict
from rich.console import Console

from services.cli.client import ClientError, EventStream, Start
from services.cli.event_line import event_line
from services.cli.gateway_target import given_gateway, open_client
from services.cli.kept_token import KeptToken
from services.cli.options import Directory, Gateway, TaskName
from services.local.directory import DIRECTORY
from streamo.v1.event_pb2 import Event, SubscribeResponse

# Where a token leads nowhere: it is of another installation, or what it points at was deleted.
_USELESS_TOKEN = (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.OUT_OF_RANGE)


class From(StrEnum):
    NOW = "now"
    EARLIEST = "earliest"


def ask(
    stream_id: Annotated[str, typer.Argument(help="The stream to ask about.")],
    question: Annotated[str, typer.Argument(help="In plain words.")],
    timeout: Annotated[
        int, typer.Option(min=1, max=3600, help="Seconds to wait until it can be answered.")
    ] = 60,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole event as JSON.")] = False,
    gateway: Gateway = "",
    directory: Directory = DIRECTORY,
) -> None:
    """Ask one question about a stream and print the answer.

    The answer comes when it can be known, not at once: ask about what is yet to be seen, too.

    Examples:

        streamo ask gate "How many people are there?"

        streamo ask gate "Is the door open?" --timeout 300
    """
    with open_client(gateway, directory) as client:
        answer = client.ask(stream_id, question, timeout)
    print(_json(answer) if as_json else answer.text)


def tail(
    stream: Annotated[
        list[str] | None, typer.Option("--stream", help="Only of this stream; may be repeated.")
    ] = None,
    watch: Annotated[
        list[str] | None, typer.Option("--watch", help="Only of this watch; may be repeated.")
    ] = None,
    task: Annotated[
        list[TaskName] | None, typer.Option("--task", help="Only of this task; may be repeated.")
    ] = None,
    from_: Annotated[
        From | None, typer.Option("--from", help="Instead of going on where the last tail stopped.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line: events and bookmarks.")
    ] = False,
    count: Annotated[int, typer.Option(min=0, help="End after this many events; 0: never.")] = 0,
    gateway: Gateway = "",
    directory: Directory = DIRECTORY,
) -> None:
    """Follow what the streams say, as they say it, until Ctrl-C.

    It goes on where the last tail with the same filter at the same gateway stopped, so nothing is missed in between;
    the first time it begins with the next event. It outlives gateways that restart. Where events are lost it ends and
    says so; the next tail goes on behind them.

    Examples:

        streamo tail

        streamo tail --stream gate --task event --from earliest

        streamo tail --json | jq .event.text
    """
    streams, watches, tasks = stream or [], watch or [], task or []
    is_elsewhere = bool(given_gateway(gateway))
    with open_client(gateway, directory) as client:
        kept = KeptToken(directory, client.addresses if is_elsewhere else [], streams, watches, tasks)
        start: Start = from_.value if from_ is not None else (kept.read() or "now")
        subscription = client.subscribe(streams, watches, [one.value_in_protocol for one in tasks], start)
        with subscription:
            try:
                _follow(subscription, kept, as_json, count)
            except KeyboardInterrupt:
                pass
            except ClientError as error:
                if error.code in _USELESS_TOKEN:
                    text = f"{error.text}; begin anew with `--from now` or `--from earliest`"
                    raise ClientError(error.code, text) from None
                if error.resume_token:
                    kept.write(error.resume_token)
                raise


def _follow(subscription: EventStream, kept: KeptToken, as_json: bool, count: int) -> None:
    console = Console()
    began_us = time.time() * 1e6
    left = count
    for message in subscription:
        if as_json:
            print(_json(message), flush=True)
        elif message.HasField("event"):
            console.print(event_line(message.event, _latency_ms(message.event, began_us)), soft_wrap=True)
        # After it was printed: what was not seen is told again.
        kept.write(message.resume_token)
        if message.HasField("event"):
            left -= 1
            if left == 0:
                return


def _latency_ms(event: Event, began_us: float) -> float | None:
    """Of what was captured since `began_us`: what is older was not told late, but asked for late."""
    captured_at_us = event.stamps.captured_at_us
    return time.time() * 1000 - captured_at_us / 1000 if captured_at_us > began_us else None


def _json(message: Event | SubscribeResponse) -> str:
    return json.dumps(MessageToDict(message, preserving_proto_field_name=True), ensure_ascii=False)
