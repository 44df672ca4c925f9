"""Where the gateway is: told by the user, or by the stack that runs here."""

import os
from pathlib import Path

from services.cli.client import Client
from services.shared.errors import Unavailable
from services.shared.settings import Settings

VARIABLE = "STREAMO_GATEWAY"


def open_client(gateway: str, directory: Path) -> Client:
    """A client of what `gateway_targets` finds, as `settings.client` says; see there."""
    targets = gateway_targets(gateway, directory)
    return Client(targets, settings=load_settings().client)


def load_settings() -> Settings:
    """The settings without the command's own variable, which is none of theirs."""
    os.environ.pop(VARIABLE, None)
    return Settings.load()


def given_gateway(gateway: str) -> str:
    """`gateway`, else STREAMO_GATEWAY; empty where the local stack's is meant. To be asked before `load_settings`."""
    return gateway or os.environ.get(VARIABLE, "")


def gateway_targets(gateway: str, directory: Path) -> list[str]:
    """`gateway` ("host:port", several with commas), else STREAMO_GATEWAY, else the local stack's.

    Raises Unavailable where none of them is given.
    """
    given = given_gateway(gateway)
    if given:
        return [target.strip() for target in given.split(",")]
    try:
        from services.local.stack_file import StackFile
    except ModuleNotFoundError:
        raise Unavailable(
            f"no gateway: name one with --gateway or {VARIABLE} (there is no local stack without the extra `local`)"
        ) from None
    state = StackFile(directory).read()
    if state is None or not state.is_alive:
        raise Unavailable(
            f"no gateway: no stack runs in {directory} (start one: streamo up), "
            f"and neither --gateway nor {VARIABLE} names another"
        )
    if state.state != "ready":
        raise Unavailable(f"the stack in {directory} is {state.state}; try again in a moment")
    return [state.gateway]
