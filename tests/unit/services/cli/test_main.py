import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from services.cli.doctor import Doctor
from services.cli.gateway_target import gateway_targets
from services.cli.main import app, main
from services.local import detached
from services.local.ports import free_ports
from services.local.process_record import ProcessRecord
from services.local.stack_file import StackState
from services.shared.errors import Unavailable
from services.shared.settings import ModelSettings, Settings

COMMANDS = [
    ["up"],
    ["down"],
    ["status"],
    ["doctor"],
    ["stream", "add"],
    ["stream", "remove"],
    ["stream", "list"],
    ["watch", "add"],
    ["watch", "remove"],
    ["watch", "list"],
    ["ask"],
    ["tail"],
    ["simulate"],
    ["data", "convert"],
    ["data", "check"],
    ["data", "curate"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(command: list[str]) -> None:
    done = CliRunner().invoke(app, [*command, "--help"])
    assert done.exit_code == 0
    assert "Usage:" in done.output


def run_main(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["streamo", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize(
    "arguments",
    [["stream", "list"], ["watch", "list"], ["tail"], ["ask", "gate", "Who is there?"]],
    ids=" ".join,
)
def test_without_a_gateway_one_line_says_what_to_do(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("STREAMO_GATEWAY", raising=False)
    assert run_main(*arguments, "--directory", str(tmp_path), monkeypatch=monkeypatch) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("Error: no gateway")
    assert "streamo up" in said.err
    assert said.err.count("\n") == 1


def test_a_gateway_that_does_not_answer_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    assert run_main("stream", "list", "--gateway", address, monkeypatch=monkeypatch) == 1
    said = capsys.readouterr().err
    assert said.startswith("Error: ")
    assert address in said
    assert "Traceback" not in said


def test_a_command_that_makes_no_sense_ends_with_2(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_main("watch", "add", "gate", "x", "Say.", "--task", "dance", monkeypatch=monkeypatch) == 2


def test_status_and_down_where_nothing_runs(tmp_path: Path) -> None:
    status = CliRunner().invoke(app, ["status", "--directory", str(tmp_path)])
    assert status.exit_code == 1
    assert "No stack runs" in status.output
    down = CliRunner().invoke(app, ["down", "--directory", str(tmp_path)])
    assert down.exit_code == 0
    assert "Nothing runs" in down.output


def test_the_gateway_variable_is_heeded_and_the_option_goes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STREAMO_GATEWAY", raising=False)
    with pytest.raises(Unavailable, match="no gateway"):
        gateway_targets("", tmp_path)
    monkeypatch.setenv("STREAMO_GATEWAY", "127.0.0.1:1, 127.0.0.1:2")
    assert gateway_targets("", tmp_path) == ["127.0.0.1:1", "127.0.0.1:2"]
    assert gateway_targets("127.0.0.1:3", tmp_path) == ["127.0.0.1:3"]


def test_doctor_tells_a_missing_checkpoint_and_how_to_mend_it(tmp_path: Path) -> None:
    script = "import sys; sys.argv[0] = 'streamo'; from services.cli.main import main; main()"
    environment = {
        "PATH": "",
        "STREAMO_MODEL__PATH": str(tmp_path / "nothing"),
        "STREAMO_GATEWAY": "ignored:1",
        "XDG_CACHE_HOME": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-c", script, "doctor", "--directory", str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    model = next(index for index, line in enumerate(lines) if line.startswith("✗ model"))
    assert "config.json" in lines[model]
    assert "STREAMO_MODEL__PATH" in lines[model + 1]
    for well in ("python", "java", "redis", "video"):
        assert any(line.startswith(f"✓ {well}") for line in lines), done.stdout
    kafka = next(line for line in lines if line.startswith("✓ kafka"))
    assert "still to be fetched" in kafka and "~/.m2/repository" in kafka


@pytest.mark.parametrize("on_path", [True, False])
def test_the_next_steps_call_the_command_as_another_terminal_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_path: bool
) -> None:
    state = StackState(
        supervisor=ProcessRecord.of("supervisor", os.getpid()), state="ready", gateway="here:1"
    )
    monkeypatch.setattr(detached, "start_detached", lambda directory, on_change: state)
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv" / "bin" / "python"))
    monkeypatch.chdir(tmp_path)
    command = tmp_path / ".venv" / "bin" / "streamo"
    command.parent.mkdir(parents=True)
    command.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(command.parent) if on_path else "")
    said = CliRunner().invoke(app, ["up", "--detach"], catch_exceptions=False).output
    streamo = "streamo" if on_path else ".venv/bin/streamo"
    for step in ("down", "simulate", "stream add", "watch add", "tail"):
        assert re.search(rf"(^|\s){re.escape(streamo)} {step}", said), said


def test_up_without_a_checkpoint_is_told_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STREAMO_MODEL__PATH", str(tmp_path / "nothing"))
    directory = tmp_path / "stack"
    assert run_main("up", "--directory", str(directory), monkeypatch=monkeypatch) == 1
    assert "no model checkpoint" in capsys.readouterr().err
    state = json.loads((directory / "stack.json").read_text())
    assert state["processes"] == []
    assert "no model checkpoint" in state["failure"]
    status = CliRunner().invoke(app, ["status", "--directory", str(directory)])
    assert "no model checkpoint" in status.output


def test_up_detached_is_not_disturbed_by_the_gateway_that_other_commands_go_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[str | None] = []

    def start_detached(directory: Path, on_change: object) -> StackState:
        seen.append(os.environ.get("STREAMO_GATEWAY"))  # what the supervising process would be given
        return StackState(
            supervisor=ProcessRecord.of("supervisor", os.getpid()), state="ready", gateway="a:1"
        )

    monkeypatch.setattr(detached, "start_detached", start_detached)
    monkeypatch.setenv("STREAMO_GATEWAY", "elsewhere:1")
    assert CliRunner().invoke(app, ["up", "--detach"], catch_exceptions=False).exit_code == 0
    assert seen == [None]


def test_a_setting_that_is_wrong_is_told_before_a_process_is_started(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(detached, "start_detached", lambda *args: pytest.fail("started"))
    monkeypatch.setenv("STREAMO_NONSENSE", "1")
    assert run_main("up", "--detach", monkeypatch=monkeypatch) == 1
    assert "STREAMO_NONSENSE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["down", "--directory", "{file}"], "Error: {file}/stack.json: Not a directory"),
        (
            ["stream", "add", "a", "{file}/v.mp4", "--directory", "{file}"],
            "SOURCE {file}/v.mp4: there is no such",
        ),
        (
            ["stream", "add", "a", "~nobody-of-this-name.mp4"],
            "SOURCE ~nobody-of-this-name.mp4: there is no such",
        ),
        (["ask", "a", "caf\udce9?", "--gateway", "127.0.0.1:1"], "Error: 'caf\\udce9?' is not UTF-8"),
        (["demo", "--summary", "{file}/s.json"], "Error: {file}: File exists"),
    ],
    ids=["directory", "source", "tilde", "not UTF-8", "summary"],
)
def test_what_the_system_refuses_is_told_in_one_line(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("STREAMO_GATEWAY", raising=False)
    file = tmp_path / "file"
    file.touch()
    given = [argument.replace("{file}", str(file)) for argument in arguments]
    assert run_main(*given, monkeypatch=monkeypatch) == 1
    error = capsys.readouterr().err
    assert said.replace("{file}", str(file)) in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "missing",
    ["config.json", "tokenizer.json", "preprocessor_config.json", "streamo.json", "model.safetensors"],
)
def test_neither_doctor_nor_up_passes_a_checkpoint_that_cannot_be_served(
    tmp_path: Path, missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in Settings().model.path.iterdir():
        if file.name != missing:
            (tmp_path / file.name).symlink_to(file.resolve())
    settings = Settings(model=ModelSettings(path=tmp_path))
    model = next(finding for finding in Doctor(settings, tmp_path).findings() if finding.name == "model")
    assert not model.is_well
    assert missing.replace("model.safetensors", "*.safetensors") in model.found
    monkeypatch.setenv("STREAMO_MODEL__PATH", str(tmp_path))
    directory = tmp_path / "stack"
    assert run_main("up", "--directory", str(directory), monkeypatch=monkeypatch) == 1
    assert model.found in capsys.readouterr().err
    assert json.loads((directory / "stack.json").read_text())["processes"] == []
