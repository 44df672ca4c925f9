"""gRPC ignores options that it does not know: a name that is misspelt would change nothing, and say nothing."""

from pathlib import Path

import pytest
from grpc._cython import cygrpc

from services.cli.client import CHANNEL_OPTIONS
from services.gateway.server import SERVER_OPTIONS


@pytest.fixture(scope="module")
def core() -> bytes:
    return Path(cygrpc.__file__).read_bytes()


@pytest.mark.parametrize("name", [name for name, _ in (*CHANNEL_OPTIONS, *SERVER_OPTIONS)])
def test_grpc_knows_every_option_that_is_set(core: bytes, name: str) -> None:
    assert name.encode() + b"\0" in core
