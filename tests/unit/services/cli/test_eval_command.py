"""How the `streamo eval` commands end on a mistake: one line that names the option or the file."""

import sys
from pathlib import Path

import pytest
import torch

from models.engine.errors import EngineFull
from services.cli.eval_progress import mistakes_told
from services.cli.main import main
from services.shared.errors import InvalidInput


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (PermissionError(13, "Permission denied", "runs/eval"), "runs/eval"),
        (EngineFull("session a refused: budget 4 KV tokens"), "budget 4 KV tokens: .*--at-once"),
        (ValueError("wrong"), "wrong"),
    ],
)
def test_a_mistake_is_told_in_a_line(error: Exception, told: str) -> None:
    with pytest.raises(InvalidInput, match=told), mistakes_told():
        raise error


@pytest.mark.parametrize(
    "device",
    ["gpu", pytest.param("cuda", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU"))],
)
@pytest.mark.parametrize(
    "command",
    [["run", "--model", "m", "--out", "o"], ["ovo-bench"], ["streaming-bench"]],
    ids=lambda it: it[0],
)
def test_a_device_that_is_not_there_is_named(
    command: list[str], device: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["streamo", "eval", *command, "--device", device])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == 1
    assert said.startswith(f"Error: --device {device}: torch cannot use it here")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["ovo-bench", "a.json"], "RESULTS.json: of result files: give them with --score"),
        (["streaming-bench", "--name", "Other"], "--name: of result files: give them with --score"),
        (
            [
                "ovo-bench",
                "--score",
                "a.json",
                "b.json",
                "--model",
                "m",
                "--fps",
                "1",
                "--window-rounds",
                "9",
            ],
            "--model, --fps, --window-rounds: of a run: leave out with --score",
        ),
        (
            ["streaming-bench", "--score", "a.json", "--name", "Other", "--json", "--mode", "push"],
            "--mode: of a run: leave out with --score",
        ),
    ],
)
def test_what_would_be_ignored_is_refused(
    arguments: list[str], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["streamo", "eval", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert capsys.readouterr().err == f"Error: {told}\n"


def test_an_output_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "run"
    model = Path(__file__).parents[4] / "models/checkpoints/streamo-tiny"
    arguments = ["run", "--model", str(model), "--out", str(out), "--lively", "1", "--quiet", "0"]
    monkeypatch.setattr(sys, "argv", ["streamo", "eval", *arguments, "--task", "qa"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert str(out) in capsys.readouterr().err
