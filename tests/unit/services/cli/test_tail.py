"""`streamo tail` and the token that it keeps, against a real gRPC server that follows a script."""

import os
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from support.scripted_gateway import BOOKMARK, ScriptedGateway, event
from typer.testing import CliRunner

from services.cli.client import ClientError
from services.cli.kept_token import KeptToken
from services.cli.main import app

Tail = Callable[..., None]


@pytest.fixture
def tail(tmp_path: Path) -> Tail:
    def tail(gateway: ScriptedGateway, *options: str) -> None:
        target = ["--gateway", gateway.address, "--directory", str(tmp_path)]
        CliRunner().invoke(app, ["tail", *options, *target], catch_exceptions=False)

    return tail


def test_two_tails_of_one_filter_do_not_take_each_others_file_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = (KeptToken(tmp_path, ["127.0.0.1:1"], ["gate"], [], []) for _ in range(2))
    replace = os.replace

    def replace_after_the_other(source: str, target: Path) -> None:
        monkeypatch.setattr(os, "replace", replace)
        other.write(b"of the other")
        replace(source, target)

    monkeypatch.setattr(os, "replace", replace_after_the_other)
    one.write(b"of the one")
    assert one.read() == b"of the one"
    assert len(list(tmp_path.iterdir())) == 1


def test_what_is_lost_is_told_once_and_the_next_tail_goes_on_behind_it(
    gateway: ScriptedGateway, tail: Tail
) -> None:
    gateway.scripts = [[BOOKMARK, event(1), (grpc.StatusCode.DATA_LOSS, "a hole", b"behind")], [event(3)]]
    with pytest.raises(ClientError, match="a hole"):
        tail(gateway)
    tail(gateway, "--count", "1")
    assert [request.resume_token for request in gateway.requests] == [b"", b"behind"]


def test_each_gateway_has_a_place_of_its_own(make_gateway: Callable[[], ScriptedGateway], tail: Tail) -> None:
    one, other = make_gateway(), make_gateway()
    one.scripts, other.scripts = [[event(1)], [event(2)]], [[event(7)]]
    for gateway in (one, other, one):
        tail(gateway, "--count", "1")
    assert other.requests[0].now
    assert one.requests[1].resume_token == b"a1"


def test_a_filter_is_the_same_in_any_order(gateway: ScriptedGateway, tail: Tail) -> None:
    gateway.scripts = [[event(1)], [event(2)], [event(3)]]
    tail(gateway, "--stream", "a", "--stream", "b", "--count", "1")
    tail(gateway, "--stream", "b", "--stream", "a", "--stream", "b", "--count", "1")
    tail(gateway, "--watch", "a", "--watch", "b", "--count", "1")
    assert [request.resume_token for request in gateway.requests] == [b"", b"a1", b""]


@pytest.mark.parametrize("code", [grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.OUT_OF_RANGE])
def test_a_kept_token_that_is_no_good_is_told_with_the_way_out(
    gateway: ScriptedGateway, tail: Tail, code: grpc.StatusCode
) -> None:
    gateway.scripts = [[event(1)], [(code, "no good here", b"")], [event(2)]]
    tail(gateway, "--count", "1")
    with pytest.raises(ClientError, match=r"no good here.*`--from now` or `--from earliest`"):
        tail(gateway)
    tail(gateway, "--from", "earliest", "--count", "1")
    assert gateway.requests[2].earliest
