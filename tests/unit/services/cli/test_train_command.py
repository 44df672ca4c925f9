import json
import sys
from pathlib import Path

import pytest

from models.data.place.data_set import DataSetConfig, write_data_set
from models.training.recipes import ScratchRecipe
from models.training.run import ScratchRun
from services.cli.main import main
from tests.support.tiny_models import write_tiny_model


def run(*arguments: str | Path, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["streamo", *map(str, arguments)])
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@pytest.fixture(scope="module")
def cameras(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cameras")
    write_data_set(DataSetConfig("train", 3, num_frames=12, width=144, height=112), folder)
    write_tiny_model(folder / "model", "qwen2_5_vl")
    return folder


def test_a_run_tells_what_it_learns_and_what_comes_next(
    cameras: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = cameras / "run"
    samples = json.loads((cameras / "raw.json").read_text())
    samples[1]["response"] = [{"content": "A car came.", "time": "999.0"}]
    samples.append({"video_path": "gone.mp4"})
    data = cameras / "mine.json"
    data.write_text(json.dumps(samples))
    asked: list[str | Path] = [
        "train",
        "--recipe",
        "sft_3b",
        "--model",
        cameras / "model",
        "--data",
        data,
        "--output",
        output,
    ]
    asked += ["--max-tokens", "900", "--device", "cpu", "--workers", "0", "--loss", "class-balanced"]
    assert run(*asked, monkeypatch=monkeypatch) == 1
    assert f"Error: {data}: sample 3: video_path: not found" in capsys.readouterr().err
    assert not output.exists()

    assert run(*asked, "--skip-broken", monkeypatch=monkeypatch) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert f"broken {data}: sample 3: video_path: not found" in said
    assert f"note {data}: sample 1: response.0: no frame left for the Response" in said
    assert "4 samples, 1 of them broken" in said and "rounds learnt" in said and "1 steps of 512" in said
    assert f"Done: {output / 'checkpoint-1'}. Next: streamo model export {output}" in said

    # Refused before anything is read.
    assert run(*asked, monkeypatch=monkeypatch) == 1
    assert "holds a run already" in capsys.readouterr().err
    elsewhere = [cameras / "other" if one == output else one for one in asked]
    assert run(*elsewhere, "--resume", monkeypatch=monkeypatch) == 1
    assert "there is nothing to resume" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("asked", "gamma", "balance"),
    [
        ([], 0.0, None),
        (["--loss", "focal"], 2.0, "frequency"),
        (["--loss", "cross-entropy"], 0.0, None),
    ],
)
def test_the_loss_is_the_recipe_s_unless_another_is_asked_for(
    asked: list[str], gamma: float, balance: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[ScratchRecipe] = []
    monkeypatch.setattr(ScratchRun, "__init__", lambda self, recipe, *rest: trained.append(recipe))
    monkeypatch.setattr(ScratchRun, "train", lambda self, **how: None)
    assert run("train", "--recipe", "tiny", "--output", tmp_path, *asked, monkeypatch=monkeypatch) == 0
    assert (trained[0].loss.gamma, trained[0].loss.balance) == (gamma, balance)
