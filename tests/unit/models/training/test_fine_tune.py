import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import get_worker_info

from models.data import sessions
from models.data.check import class_balanced_weights, frequency_weights
from models.data.finding import BrokenSample, Finding
from models.data.place.data_set import DataSetConfig, write_data_set
from models.data.sessions import SessionFile
from models.training import fine_tune as fine_tune_module
from models.training.checkpoints import newest_checkpoint
from models.training.fine_tune import Devices, FineTuneData, FineTuneRun
from models.training.fine_tune_data import PackDataset, PackPlan
from models.training.loss import Balance
from models.training.recipes import RECIPES, FineTuneRecipe, sft_3b, sft_7b
from models.training.training_model import LossConfig, TrainingModel
from models.vlm.dialogue import Dialogue
from models.vlm.model import LanguageModel, VisionEncoder
from models.vlm.pixels import PixelFormat
from models.vlm.streamo_config import StreamoConfig
from tests.support.tiny_models import FamilyName, write_tiny_model

SMALL = {"batch_packs": 2, "max_packed_tokens": 900, "learning_rate": 1e-3, "save_every_steps": 2}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> FineTuneData:
    folder = tmp_path_factory.mktemp("place")
    write_data_set(DataSetConfig("train", 5, num_frames=12, width=144, height=112), folder)
    return FineTuneData(folder / "raw.json", video_root=folder)


def losses(checkpoint: Path) -> list[tuple[int, float]]:
    history = json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]
    return [(entry["step"], entry["loss"]) for entry in history if "loss" in entry]


def fine_tune(
    recipe: FineTuneRecipe, model_dir: Path, data: FineTuneData, run_dir: Path, *, resume: bool = False
) -> Path:
    FineTuneRun(recipe, model_dir, data, run_dir, Devices(use_cpu=True)).train(resume=resume)
    return newest_checkpoint(run_dir)


def test_packs_hold_every_live_round_once_at_the_length_that_was_planned(
    family_dir: Path, place: FineTuneData
) -> None:
    streamo = StreamoConfig.load(family_dir)
    dialogue = Dialogue.load(family_dir, streamo.system_prompt)
    pixels = PixelFormat.load(family_dir)
    file = SessionFile(place.train, place.video_root, 1.0)
    dataset = PackDataset(file, PackPlan(8, 2, 900), dialogue, pixels)
    num_learnt = 0
    for index, windows in enumerate(dataset.packs):
        examples = dataset[index]
        assert [len(one.token_ids) for one in examples] == [window.num_tokens for window in windows]
        num_learnt += sum(int(np.isin(one.labels, dialogue.state_token_ids).sum()) for one in examples)
        again = dataset[index]
        assert all(np.array_equal(a.labels, b.labels) for a, b in zip(examples, again, strict=True))
    sessions = [session for sample in range(len(file)) for session in file.sessions(sample)]
    assert num_learnt == sum(len(session.rounds) - session.first_live for session in sessions)


def test_states_are_counted_as_they_are_learnt(family_dir: Path, place: FineTuneData) -> None:
    streamo = StreamoConfig.load(family_dir)
    dialogue = Dialogue.load(family_dir, streamo.system_prompt)
    file = SessionFile(place.train, place.video_root, 1.0)
    dataset = PackDataset(file, PackPlan(4, 1, 900), dialogue, PixelFormat.load(family_dir))
    labels = np.concatenate([one.labels for index in range(len(dataset)) for one in dataset[index]])
    counts = tuple(int((labels == token_id).sum()) for token_id in dialogue.state_token_ids)
    assert dataset.state_counts == counts and min(counts) > 0


@pytest.mark.parametrize("balance", ["frequency", "class_balanced"])
def test_a_loss_is_balanced_over_the_data(
    tmp_path: Path, family_dir: Path, place: FineTuneData, monkeypatch: pytest.MonkeyPatch, balance: Balance
) -> None:
    """Not over a packed sequence, which may hold nothing but Silence."""
    seen: list[LossConfig] = []

    class Witness(TrainingModel):
        def __init__(self, vlm: Any, state_token_ids: tuple[int, int, int], config: LossConfig) -> None:
            seen.append(config)
            super().__init__(vlm, state_token_ids, config)

    monkeypatch.setattr(fine_tune_module, "TrainingModel", Witness)
    recipe = replace(sft_3b(), **SMALL | {"batch_packs": 64})
    recipe = replace(recipe, loss=replace(recipe.loss, balance=balance))
    run = FineTuneRun(recipe, family_dir, place, tmp_path / "run", Devices(use_cpu=True))
    assert run.train() and newest_checkpoint(tmp_path / "run").name == f"checkpoint-{run.num_steps}"
    counts = tuple(count for count, _ in run.state_weights.values())
    assert [one.class_counts for one in seen] == [counts] and min(counts) > 0
    expected = class_balanced_weights if balance == "class_balanced" else frequency_weights
    assert [weight for _, weight in run.state_weights.values()] == pytest.approx(expected(counts))


def test_what_is_wrong_with_a_sample_names_it(tmp_path: Path, family_dir: Path, place: FineTuneData) -> None:
    recipe = replace(sft_3b(), **SMALL)
    samples = json.loads(place.train.read_text())
    sound = samples[0] | {"response": [{"content": "a car", "time": "3.0"}]}
    assert place.video_root is not None

    def run_of(name: str, sample: dict[str, Any], findings: list[Finding]) -> FineTuneRun:
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps([sound, sample]))
        data = FineTuneData(path, video_root=place.video_root)
        run_dir = tmp_path / f"run-{name}"
        devices = Devices(use_cpu=True)
        return FineTuneRun(recipe, family_dir, data, run_dir, devices, on_finding=findings.append)

    findings: list[Finding] = []
    asked = samples[1] | {"question": [{"content": "a car " * 400, "time": "0.0"}]}
    with pytest.raises(BrokenSample, match=r"long\.json: sample 1: question: .*at most \d+ fit"):
        run_of("long", asked, findings).read()
    # What serving would cut is no reason to stop, but is told.
    told = samples[1] | {"response": [{"content": "a car " * 20, "time": "3.0"}]}
    findings.clear()
    run_of("reply", told, findings).read()
    assert [(one.index, one.broken) for one in findings if "max_reply_tokens" in one.reason] == [(1, False)]
    # Its header is whole, and promises what is not there.
    video = (place.video_root / samples[1]["video_path"]).read_bytes()
    (place.video_root / "cut.mp4").write_bytes(
        video[:400] + bytes(len(video) // 2) + video[400 + len(video) // 2 :]
    )
    with pytest.raises(BrokenSample, match=r"cut\.json: sample 1: video_path: "):
        run_of("cut", samples[1] | {"video_path": "cut.mp4"}, findings).train()


def test_the_projector_and_the_language_model_learn_and_the_result_is_served(
    tmp_path: Path, family_dir: Path, place: FineTuneData
) -> None:
    torch.set_num_threads(1)
    recipe = replace(sft_3b(), **SMALL)
    data = replace(place, validation=place.train)
    checkpoint = fine_tune(recipe, family_dir, data, tmp_path / "run")
    before, after = (load_file(folder / "model.safetensors") for folder in (family_dir, checkpoint))
    for name, tensor in before.items():
        is_frozen = "visual" in name and "merger" not in name
        assert torch.equal(tensor, after[name]) == is_frozen, name
    assert LanguageModel.load(checkpoint).config == StreamoConfig.load(family_dir)
    VisionEncoder.load(checkpoint)
    history = json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]
    assert any("eval_states" in entry for entry in history)
    assert list((tmp_path / "run").rglob("events.out.tfevents*"))


def test_a_resumed_run_has_the_same_losses(
    tmp_path: Path, family_dir: Path, place: FineTuneData, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    recipe = replace(sft_7b(), **SMALL | {"batch_packs": 1})
    whole = fine_tune(recipe, family_dir, place, tmp_path / "whole")
    assert len(losses(whole)) >= 3

    num_read = 0

    def killing(*args: object) -> Iterator[np.ndarray]:
        nonlocal num_read
        num_read += 1
        if num_read == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return frames_at(*args)  # type: ignore[arg-type]

    frames_at = sessions.frames_at
    monkeypatch.setattr(sessions, "frames_at", killing)
    stopped = fine_tune(recipe, family_dir, place, tmp_path / "broken")
    assert 0 < len(losses(stopped)) < len(losses(whole))
    again = fine_tune(recipe, family_dir, place, tmp_path / "broken", resume=True)
    assert losses(again) == losses(whole)
    weights = [load_file(checkpoint / "model.safetensors") for checkpoint in (whole, again)]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    with pytest.raises(ValueError, match="holds a run already"):
        fine_tune(recipe, family_dir, place, tmp_path / "whole")


def test_a_sigterm_to_the_whole_group_is_not_for_the_workers(
    tmp_path: Path, family_dir: Path, place: FineTuneData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The main process is to save at the end of its step, and needs them until then."""
    torch.set_num_threads(1)

    def struck(*args: object) -> Iterator[np.ndarray]:
        assert get_worker_info() is not None
        os.kill(os.getpid(), signal.SIGTERM)
        return frames_at(*args)  # type: ignore[arg-type]

    frames_at = sessions.frames_at
    monkeypatch.setattr(sessions, "frames_at", struck)
    recipe = replace(sft_3b(), **SMALL | {"num_epochs": 2})
    assert FineTuneRun(recipe, family_dir, place, tmp_path, Devices(use_cpu=True, num_workers=1)).train()


def test_a_run_is_resumed_with_what_it_began_with_or_not_at_all(
    tmp_path: Path, family_dir: Path, place: FineTuneData
) -> None:
    recipe = replace(sft_3b(), **SMALL)
    fine_tune(recipe, family_dir, place, tmp_path)
    other = replace(place, train=tmp_path / "other.json")
    other.train.write_text(json.dumps(json.loads(place.train.read_text())[1:]))
    with pytest.raises(ValueError, match=r"data was sha256:\w+, is sha256:"):
        fine_tune(recipe, family_dir, other, tmp_path, resume=True)
    with pytest.raises(ValueError, match=r"learning_rate was 0\.001, is 0\.5"):
        fine_tune(replace(recipe, learning_rate=0.5), family_dir, place, tmp_path, resume=True)
    with pytest.raises(ValueError, match="skip_broken was False, is True"):
        fine_tune(recipe, family_dir, replace(place, skip_broken=True), tmp_path, resume=True)
    fine_tune(replace(recipe, log_every_steps=3), family_dir, place, tmp_path, resume=True)
    shutil.copytree(family_dir, tmp_path / "model")
    replace(StreamoConfig.load(family_dir), window_rounds=4).save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"streamo\.json was sha256"):
        fine_tune(recipe, tmp_path / "model", place, tmp_path, resume=True)


def test_a_run_that_is_over_is_over(tmp_path: Path, family_dir: Path, place: FineTuneData) -> None:
    recipe = replace(sft_3b(), **SMALL | {"num_epochs": 0.5})
    checkpoint = fine_tune(recipe, family_dir, place, tmp_path)
    assert fine_tune(recipe, family_dir, place, tmp_path, resume=True) == checkpoint
    assert len(list(tmp_path.glob("checkpoint-*"))) == 1


def test_bf16_is_float32_but_for_its_rounding(
    tmp_path: Path, family_dir: Path, place: FineTuneData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The GPU recipes' precision, on a CPU; master weights and what is saved are float32."""
    torch.set_num_threads(1)
    recipe = replace(sft_3b(), **SMALL)
    plain = fine_tune(recipe, family_dir, place, tmp_path / "plain")
    arguments = FineTuneRun._arguments
    monkeypatch.setattr(
        FineTuneRun, "_arguments", lambda *given, **named: replace(arguments(*given, **named), bf16=True)
    )
    rounded = fine_tune(recipe, family_dir, place, tmp_path / "rounded")
    assert losses(rounded) != losses(plain)
    for (_, one), (_, other) in zip(losses(rounded), losses(plain), strict=True):
        assert one == pytest.approx(other, rel=0.1)
    assert {tensor.dtype for tensor in load_file(rounded / "model.safetensors").values()} == {torch.float32}


def test_all_processes_of_a_run_stop_at_the_same_step(tmp_path: Path) -> None:
    """A SIGTERM reaches them at different ones, and a checkpoint is written by all of them together."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.support.stopping_processes", str(rank), str(tmp_path / "meeting")],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        said = [process.communicate(timeout=110)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert said == ["saves at 4\n", "saves at 4\n"]


def test_recipes_that_do_not_fit_are_refused(tmp_path: Path, family_dir: Path, place: FineTuneData) -> None:
    with pytest.raises(ValueError, match="tokens, max_tokens is 100: raise it"):
        fine_tune(replace(sft_3b(), max_packed_tokens=100), family_dir, place, tmp_path)
    with pytest.raises(ValueError, match="batch_packs 512: must be a multiple of the 7 processes"):
        FineTuneRun(sft_3b(), family_dir, place, tmp_path, Devices(use_cpu=True, num_processes=7))
    shutil.copytree(family_dir, tmp_path / "model")
    (tmp_path / "model" / "tokenizer_config.json").unlink()
    with pytest.raises(ValueError, match=r"lacks tokenizer_config\.json: it cannot be served"):
        fine_tune(replace(sft_3b(), **SMALL), tmp_path / "model", place, tmp_path)


@pytest.mark.parametrize(
    ("family", "name"),
    [("qwen3_vl", "sft_7b"), pytest.param("qwen2_5_vl", "sft_3b", marks=pytest.mark.slow)],
)
def test_a_sharded_run_is_the_unsharded_one(
    tmp_path: Path, family: FamilyName, place: FineTuneData, name: str
) -> None:
    """FSDP2 with one process over gloo, ended half-way and resumed: the configuration of the GPU recipes, on a CPU."""
    torch.set_num_threads(1)
    family_dir = tmp_path / "model"
    write_tiny_model(family_dir, family)
    changes = SMALL | {"batch_packs": 1}
    plain = fine_tune(replace(RECIPES[name](), **changes), family_dir, place, tmp_path / "plain")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launched = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    run_dir = tmp_path / "sharded"
    arguments = [name, json.dumps(changes), family_dir, place.train, run_dir, 2]
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.sharded_run", *map(str, arguments)],
        env=os.environ | launched | {"MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "FSDP" in done.stdout and "stopped at checkpoint-2" in done.stdout
    sharded = newest_checkpoint(run_dir)
    assert len(losses(sharded)) == len(losses(plain)) > 2
    for (_, one), (_, other) in zip(losses(sharded), losses(plain), strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    weights = [load_file(checkpoint / "model.safetensors") for checkpoint in (plain, sharded)]
    assert weights[0].keys() == weights[1].keys()
    LanguageModel.load(sharded)
