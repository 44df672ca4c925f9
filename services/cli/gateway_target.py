"""Where the gateway is: told by the user, or by the stack that runs here."""

import os
from pathlib import Path

from services.cli.client import Client
from services.local.stack_file import StackFile
from services.shared.errors import Unavailable

VARIABLE = "STREAMO_GATEWAY"


def open_client(gateway: str, directory: Path) -> Client:
    """A client of what `gateway_targets` finds; see there."""
    return Client(gateway_targets(gateway, directory))


def gateway_targets(gateway: str, directory: Path) -> list[str]:
    """`gateway` ("host:port", several with commas), else STREAMO_GATEWAY, else the local stack's.

    Raises Unavailable where none of them is given.
    """
    given = gateway or os.environ.get(VARIABLE, "")
    if given:
        return [target.strip() for target in given.split(",")]
    state = StackFile(directory).read()
    if state is None or not state.is_alive:
        raise Unavailable(
            f"no gateway: no stack runs in {directory} (start one: streamo up), "
            f"and neither --gateway nor {VARIABLE} names another"
        )
    if state.state != "ready":
        raise Unavailable(f"the stack in {directory} is {state.state}; try again in a moment")
    return [state.gateway]
