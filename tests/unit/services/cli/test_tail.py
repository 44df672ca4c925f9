"""`streamo tail` and the token that it keeps, against a real gRPC server that follows a script."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from support.scripted_gateway import BOOKMARK, ScriptedGateway, event
from typer.testing import CliRunner

from services.cli.client import ClientError
from services.cli.kept_token import KeptToken
from services.cli.main import app
from services.local.process_record import ProcessRecord
from services.local.stack_file import StackFile, StackState
from services.shared.errors import Unavailable

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


def test_the_local_stack_is_gone_on_with_though_its_port_has_changed(
    make_gateway: Callable[[], ScriptedGateway], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STREAMO_GATEWAY", raising=False)
    before, after = make_gateway(), make_gateway()
    before.scripts, after.scripts = [[event(1)]], [[event(2)]]
    for gateway in (before, after):
        supervisor = ProcessRecord.of("supervisor", os.getpid())
        StackFile(tmp_path).write(StackState(supervisor=supervisor, state="ready", gateway=gateway.address))
        CliRunner().invoke(
            app, ["tail", "--count", "1", "--directory", str(tmp_path)], catch_exceptions=False
        )
    assert before.requests[0].now
    assert after.requests[0].resume_token == b"a1"


def test_a_place_that_cannot_be_kept_is_told_with_the_way_out(
    gateway: ScriptedGateway, tmp_path: Path
) -> None:
    gateway.scripts = [[event(1)]]
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(Unavailable, match=r"cannot be kept in .*file/there: Not a directory; .*--directory"):
        CliRunner().invoke(
            app,
            ["tail", "--gateway", gateway.address, "--directory", str(file / "there")],
            catch_exceptions=False,
        )


def test_only_what_was_captured_since_it_began_is_told_with_its_latency(
    gateway: ScriptedGateway, tmp_path: Path
) -> None:
    now_us = time.time_ns() // 1000
    old, new = event(1), event(2)
    old.event.stamps.captured_at_us = now_us - 3_600_000_000
    new.event.stamps.captured_at_us = now_us + 60_000_000
    gateway.scripts = [[old, new]]
    target = ["--gateway", gateway.address, "--directory", str(tmp_path)]
    lines = (
        CliRunner().invoke(app, ["tail", "--count", "2", *target], catch_exceptions=False).output.splitlines()
    )
    assert [line.endswith(" ms") for line in lines] == [False, True]
