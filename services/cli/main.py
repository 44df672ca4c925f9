"""The `streamo` command."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from services.cli import data_command, eval_command, model_command, stream_commands, watch_commands
from services.cli.client import ClientError
from services.cli.demo_command import demo
from services.cli.event_commands import ask, tail
from services.cli.stack_commands import doctor, down, simulate, status, up
from services.cli.train_command import train
from services.shared.errors import ServiceError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="""Standing instructions on many cameras, answered frame by frame.

    A stream is a video source, a watch is what you want to know about it, an event is what you are told.

    First steps: `streamo demo`, `streamo doctor`, then `streamo up`, then `streamo stream add --help`.
    """,
)


_PEM = {"metavar": "FILE", "exists": True, "dir_okay": False, "readable": True, "resolve_path": True}


@app.callback()
def options(
    tls_ca: Annotated[
        Path | None,
        typer.Option(help="Authority of the gateway's certificate, PEM; with it TLS is spoken.", **_PEM),
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(help="Our certificate, for a gateway that asks for one, PEM.", **_PEM)
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="The key of our certificate, PEM.", **_PEM)] = None,
) -> None:
    given = {"TLS_CA_PATH": tls_ca, "TLS_CERT_PATH": tls_cert, "TLS_KEY_PATH": tls_key}
    for name, path in given.items():
        if path is not None:  # an option is its setting, for this one command
            os.environ[f"STREAMO_CLIENT__{name}"] = str(path)


app.command()(demo)
app.command()(up)
app.command()(down)
app.command()(status)
app.command()(doctor)
app.add_typer(stream_commands.app, name="stream")
app.add_typer(watch_commands.app, name="watch")
app.command()(ask)
app.command()(tail)
app.command()(simulate)
app.add_typer(data_command.app, name="data")
app.command()(train)
app.add_typer(model_command.app, name="model")
app.add_typer(eval_command.app, name="eval")


def main() -> None:
    """Ends with 0, with 1 and one line where something could not be done, with 2 for a command that makes no sense.

    Typer ends it with 130 at Ctrl-C, and with 1 and no word where the reader of its output is gone.
    """
    try:
        app()
    except (ServiceError, ClientError) as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        where = f" {error.filename}:" if error.filename is not None else ""
        print(f"Error:{where} {error.strerror or error}", file=sys.stderr)
        sys.exit(1)
    except UnicodeEncodeError as error:
        print(
            f"Error: {error.object!r} is not UTF-8: write it in UTF-8, or give the file another name",
            file=sys.stderr,
        )
        sys.exit(1)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in ("models", "services", "streamo"):
            raise
        print(
            f"Error: this command needs {error.name}, which is not installed: install Streamo with the extra `local`, "
            "for `streamo train`, `eval`, `model` and `data` with `training`",
            file=sys.stderr,
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
