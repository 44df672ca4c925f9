"""`streamo stream add` of files, for the stack that runs here and for a gateway elsewhere."""

import os
from pathlib import Path

import pytest
from support.scripted_gateway import ScriptedGateway
from typer.testing import CliRunner

from services.cli.main import app
from services.local.process_record import ProcessRecord
from services.local.stack_file import StackFile, StackState
from services.shared.errors import InvalidInput


@pytest.fixture
def directory(gateway: ScriptedGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a stack that seems to run here; the current one, too, and there is a video in it."""
    monkeypatch.delenv("STREAMO_GATEWAY", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lobby.mp4").touch()
    supervisor = ProcessRecord.of("supervisor", os.getpid())
    StackFile(tmp_path).write(StackState(supervisor=supervisor, state="ready", gateway=gateway.address))
    return tmp_path


def add(source: str, *options: str) -> None:
    CliRunner().invoke(app, ["stream", "add", "lobby", source, *options], catch_exceptions=False)


def test_a_path_is_made_whole_for_the_local_stack(gateway: ScriptedGateway, directory: Path) -> None:
    add("lobby.mp4", "--directory", str(directory))
    add("rtsp://192.0.2.1/lobby", "--directory", str(directory))
    assert [one.source for one in gateway.added] == [str(directory / "lobby.mp4"), "rtsp://192.0.2.1/lobby"]
    with pytest.raises(InvalidInput, match=r"SOURCE other\.mp4: there is no such file"):
        add("other.mp4", "--directory", str(directory))


def test_a_path_elsewhere_is_not_ours_to_look_at(
    gateway: ScriptedGateway, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add("lobby.mp4", "--gateway", gateway.address)
    monkeypatch.setenv("STREAMO_GATEWAY", gateway.address)
    add("/videos/other.mp4")
    assert [one.source for one in gateway.added] == ["lobby.mp4", "/videos/other.mp4"]
