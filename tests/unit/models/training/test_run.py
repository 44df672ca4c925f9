import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from transformers import Qwen2_5_VLForConditionalGeneration

from models.data.sample import Sample, TruthSizes
from models.training.accuracy import teacher_forced_accuracy
from models.training.checkpoints import export_checkpoint, newest_checkpoint
from models.training.collator import Collator
from models.training.dataset import SampleMaker, make_example
from models.training.recipes import RECIPES, LaterPass, ScratchRecipe
from models.training.run import Machine, ScratchRun, Simulator
from models.training.training_model import LossConfig, TrainingModel
from models.training.truth_heads import HEADS_OF_WHAT_IS_SEEN, TruthShape
from models.vlm.dialogue import Dialogue
from models.vlm.model import LanguageModel, VisionEncoder
from models.vlm.pixels import PixelFormat
from models.vlm.streamo_config import StreamoConfig
from tests.support.square_sample import make_square_sample


def make_model(model_dir: Path, dialogue: Dialogue, **loss: object) -> TrainingModel:
    torch.manual_seed(0)
    vlm = Qwen2_5_VLForConditionalGeneration.from_pretrained(model_dir, dtype=torch.float32)
    return TrainingModel(
        vlm,
        dialogue.state_token_ids,
        LossConfig(**loss),  # type: ignore[arg-type]
        TruthShape(TruthSizes((2,), (3,), (2,), coordinates=(0.5,)), tokens_per_frame=2),
        trims_last_layer=True,
    )


def test_one_batch_can_be_learnt_by_heart(
    model_dir: Path, recipe: ScratchRecipe, make_sample: SampleMaker
) -> None:
    torch.set_num_threads(1)
    dialogue = Dialogue.load(model_dir, recipe.streamo.system_prompt)
    pixels = PixelFormat.load(model_dir)
    model = make_model(model_dir, dialogue)
    examples = [make_example(make_sample(seed, "train", 6), dialogue, pixels) for seed in range(4)]
    collator = Collator(pixels)
    batch = collator(examples)
    before = teacher_forced_accuracy(model, [examples], collator)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(240):
        loss = model(**batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = teacher_forced_accuracy(model, [examples], collator)
    assert before["states"] < 0.7
    assert after["states"] == after["words"] == after["texts"] == after["event/response"] == 1.0
    assert all(model.last_parts[name] < 0.1 for name in HEADS_OF_WHAT_IS_SEEN)


def test_a_resumed_run_is_the_uninterrupted_one(
    tmp_path: Path, recipe: ScratchRecipe, make_sample: SampleMaker
) -> None:
    torch.set_num_threads(1)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    ScratchRun(recipe, whole, simulator=Simulator(make_sample, 0)).train()
    assert newest_checkpoint(whole).name == "checkpoint-4"

    # Seeds of the second batch of the tower's lessons, and of the second of the main part.
    to_end_at = {1_000_000_002, 2}

    def killing_sample(seed: int, split: str, num_frames: int, **asked: Any) -> Sample:
        if split == "train" and seed in to_end_at:
            to_end_at.remove(seed)
            os.kill(os.getpid(), signal.SIGTERM)
        return make_sample(seed, split, num_frames, **asked)

    run = ScratchRun(recipe, broken, simulator=Simulator(killing_sample, 0))
    run.train()
    assert 0 < len(losses(newest_checkpoint(broken / "warm_up"))) < recipe.warm_up.max_steps
    assert not (broken / "warmed").exists()
    run.train(resume=True)
    assert 0 < len(losses(newest_checkpoint(broken))) < recipe.max_steps
    run.train(resume=True)

    for of_run in ("", "warm_up"):
        checkpoints = [newest_checkpoint(run_dir / of_run) for run_dir in (whole, broken)]
        assert losses(checkpoints[0]) == losses(checkpoints[1])
        assert len(losses(checkpoints[0])) == (recipe.warm_up.max_steps if of_run else recipe.max_steps)
        weights = [load_file(checkpoint / "model.safetensors") for checkpoint in checkpoints]
        assert weights[0].keys() == weights[1].keys()
        for name, tensor in weights[0].items():
            torch.testing.assert_close(weights[1][name], tensor, rtol=0, atol=0)

    with pytest.raises(ValueError, match="holds a run already"):
        ScratchRun(recipe, whole).train()
    with pytest.raises(
        ValueError, match=r"seed was 3, is 4; max_steps was 4, is 5|max_steps was 4, is 5; .*seed was"
    ):
        ScratchRun(replace(recipe, seed=4, max_steps=5), whole).train(resume=True)
    with pytest.raises(ValueError, match="has its tower already"):
        ScratchRun(recipe, whole).train(resume=True, warmed=broken / "warmed")
    with pytest.raises(ValueError, match="no run to resume"):
        ScratchRun(recipe, tmp_path / "none").train(resume=True)


def test_a_second_pass_goes_on_with_what_the_first_has_taught(
    tmp_path: Path, recipe: ScratchRecipe, make_sample: SampleMaker
) -> None:
    torch.set_num_threads(1)
    clips = replace(
        recipe.clips, num_rounds=(10,), joined_late=0.0, window_rounds=8, mistaken=1.0, num_others=1
    )
    second = LaterPass(
        3, recipe.batch_size, clips, 1e-3, 1e-3, truth_weight=0.5, seen_weight=0.5, warmup_steps=1
    )
    two_passes = replace(recipe, later_passes=(second,))
    to_end_at = [4]  # in the second pass, whose first samples are those of the first

    def killing_sample(seed: int, split: str, num_frames: int, **asked: Any) -> Sample:
        if (tmp_path / "taught_1").exists() and split == "train" and seed in to_end_at:
            to_end_at.remove(seed)
            os.kill(os.getpid(), signal.SIGTERM)
        return make_sample(seed, split, num_frames, **asked)

    run = ScratchRun(two_passes, tmp_path, simulator=Simulator(killing_sample, 0))
    run.train()
    assert not to_end_at and newest_checkpoint(tmp_path / "pass_1").name == "checkpoint-4"
    taught = load_file(tmp_path / "taught_1" / "model.safetensors")
    first = load_file(newest_checkpoint(tmp_path / "pass_1") / "model.safetensors")
    assert all(torch.equal(tensor, taught[name]) for name, tensor in first.items())
    assert len(losses(newest_checkpoint(tmp_path))) < 3
    run.train(resume=True)
    assert newest_checkpoint(tmp_path).name == "checkpoint-3"
    last = load_file(newest_checkpoint(tmp_path) / "model.safetensors")
    assert any(not torch.equal(tensor, taught[name]) for name, tensor in last.items())


def test_two_processes_share_a_batch_out(tmp_path: Path, recipe: ScratchRecipe) -> None:
    torch.set_num_threads(1)
    # What the heads ask, and what balances the states, is a mean over a batch, not the mean of those of its halves.
    recipe = replace(recipe, loss=LossConfig(balance=None, truth_weight=0.0))
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    train_square_samples(recipe, alone, 1)
    config = LaunchConfig(1, 1, 2, rdzv_backend="c10d", rdzv_endpoint="localhost:0", max_restarts=0)
    elastic_launch(config, train_square_samples)(recipe, shared, 2)
    for of_run in ("warm_up", ""):
        ours, theirs = (losses(newest_checkpoint(run_dir / of_run)) for run_dir in (shared, alone))
        assert [step for step, _ in ours] == [step for step, _ in theirs]
        assert [loss for _, loss in ours] == pytest.approx([loss for _, loss in theirs], rel=1e-3)
    with pytest.raises(ValueError, match="batches of 2 cannot be shared out among 3 processes"):
        train_square_samples(recipe, tmp_path / "odd", 3)


def train_square_samples(recipe: ScratchRecipe, run_dir: Path, num_processes: int) -> None:
    machine = Machine(num_processes=num_processes)
    ScratchRun(recipe, run_dir, machine, Simulator(make_square_sample, 0)).train()


def losses(checkpoint: Path) -> list[tuple[int, float]]:
    history = json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]
    return [(entry["step"], entry["loss"]) for entry in history if "loss" in entry]


def test_the_tower_learns_first_and_goes_on_with_what_it_has_learnt(
    tmp_path: Path, recipe: ScratchRecipe, make_sample: SampleMaker
) -> None:
    ScratchRun(replace(recipe, max_steps=1), tmp_path / "a", simulator=Simulator(make_sample, 0)).train()
    init, warmed = (load_file(tmp_path / "a" / name / "model.safetensors") for name in ("init", "warmed"))
    for name, tensor in init.items():
        is_taught = name.startswith(("visual.", "model.layers.0.", "model.layers.1."))
        assert torch.equal(tensor, warmed[name]) != is_taught, name
    # Another run, of another seed, begins with it.
    other = ScratchRun(
        replace(recipe, max_steps=1, seed=4), tmp_path / "b", simulator=Simulator(make_sample, 0)
    )
    other.train(warmed=tmp_path / "a" / "warmed")
    assert not (tmp_path / "b" / "warm_up").exists()
    again = load_file(tmp_path / "b" / "warmed" / "model.safetensors")
    assert all(torch.equal(tensor, again[name]) for name, tensor in warmed.items())
    # What is taught from there on is served with the prompt that it was taught with, not with that of the lessons.
    streamo = replace(recipe.streamo, system_prompt="Quite another prompt.")
    third = replace(recipe, max_steps=1, streamo=streamo)
    ScratchRun(third, tmp_path / "c", simulator=Simulator(make_sample, 0)).train(
        warmed=tmp_path / "a" / "warmed"
    )
    assert StreamoConfig.load(newest_checkpoint(tmp_path / "c")) == streamo
    (tmp_path / "b" / "warmed" / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"its tokenizer\.json is not that of this recipe"):
        ScratchRun(third, tmp_path / "d").train(warmed=tmp_path / "b" / "warmed")


def test_an_exported_checkpoint_is_served(
    tmp_path: Path, recipe: ScratchRecipe, make_sample: SampleMaker
) -> None:
    with pytest.raises(ValueError, match="no complete checkpoint"):
        newest_checkpoint(tmp_path)
    run_dir, target = tmp_path / "run", tmp_path / "served"
    ScratchRun(replace(recipe, max_steps=2), run_dir, simulator=Simulator(make_sample, 0)).train()
    target.mkdir()
    (target / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "model-00001-of-00002.safetensors"}}'
    )
    export_checkpoint(newest_checkpoint(run_dir), target)
    assert not list(target.glob("*truth*")) and not list(target.glob("*.pt"))
    assert len({path.stat().st_mode for path in target.iterdir()}) == 1
    encoder, language = VisionEncoder.load(target), LanguageModel.load(target)
    assert language.config == recipe.streamo
    tokens = encoder.encode(list(make_sample(0, "test", 1).frames))
    assert tokens[0].shape == (2, language.hidden_size)


def test_the_newest_checkpoint_is_the_last_whole_one(tmp_path: Path) -> None:
    for name, state in (("9", "{}"), ("10", "{}"), ("11", '{"global'), ("12", None), ("9-good", "{}")):
        (tmp_path / f"checkpoint-{name}").mkdir()
        if state is not None:
            (tmp_path / f"checkpoint-{name}" / "trainer_state.json").write_text(state)
    assert newest_checkpoint(tmp_path).name == "checkpoint-10"


def test_the_tiny_recipe_is_whole() -> None:
    recipe = RECIPES["tiny"]()
    assert isinstance(recipe, ScratchRecipe)
    assert recipe.streamo.window_rounds == max(recipe.clips.num_rounds)
    *_, last = recipe.passes
    assert last.clips.window_rounds == recipe.streamo.window_rounds
    # A window that slid still teaches something of every task.
    assert max(recipe.clips.full_rounds, recipe.clips.overlap_rounds) < recipe.streamo.window_rounds
    assert recipe.budget.num_tokens(*recipe.budget.fit(480, 640)) <= 25
