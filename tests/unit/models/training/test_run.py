import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import Qwen2_5_VLForConditionalGeneration

from models.data.sample import Sample
from models.training.accuracy import teacher_forced_accuracy
from models.training.checkpoints import export_checkpoint, newest_checkpoint
from models.training.dataset import Collator, SampleMaker, make_example
from models.training.recipes import RECIPES, ScratchRecipe
from models.training.run import train
from models.training.training_model import LossConfig, TrainingModel
from models.vlm.dialogue import Dialogue
from models.vlm.model import LanguageModel, VisionEncoder
from models.vlm.pixels import PixelFormat


def make_model(model_dir: Path, dialogue: Dialogue, **loss: object) -> TrainingModel:
    torch.manual_seed(0)
    vlm = Qwen2_5_VLForConditionalGeneration.from_pretrained(model_dir, dtype=torch.float32)
    return TrainingModel(
        vlm,
        dialogue.state_token_ids,
        LossConfig(**loss),
        truth_sizes=(2,),
        tokens_per_frame=2,  # type: ignore[arg-type]
    )


def test_one_batch_can_be_learnt_by_heart(
    model_dir: Path, recipe: ScratchRecipe, make_sample: SampleMaker
) -> None:
    torch.set_num_threads(1)
    dialogue = Dialogue.load(model_dir, recipe.streamo.system_prompt)
    pixels = PixelFormat.load(model_dir)
    model = make_model(model_dir, dialogue)
    examples = [make_example(make_sample(seed, "train", 6), dialogue, pixels) for seed in range(4)]
    collator = Collator(pixels, pad_token_id=0)
    batch = collator(examples)
    before = teacher_forced_accuracy(model, [examples], collator)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(120):
        loss = model(**batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = teacher_forced_accuracy(model, [examples], collator)
    assert before["states"] < 0.7
    assert after["states"] == after["words"] == after["texts"] == after["event/response"] == 1.0
    assert model.last_parts.seen < 0.1 and model.last_parts.read < 0.1


def test_the_output_head_on_targets_alone_is_the_whole_loss(
    model_dir: Path, recipe: ScratchRecipe, make_sample: SampleMaker
) -> None:
    from models.training.loss import state_focal_loss

    dialogue = Dialogue.load(model_dir, recipe.streamo.system_prompt)
    pixels = PixelFormat.load(model_dir)
    model = make_model(model_dir, dialogue, truth_weight=0.0)
    batch = Collator(pixels, 0)(
        [make_example(make_sample(seed, "train", 5), dialogue, pixels) for seed in range(2)]
    )
    hidden, _ = model.hidden_states(
        batch["input_ids"],
        batch["position_ids"],
        batch["patches"],
        batch["patch_grids"],
    )
    expected = state_focal_loss(model.vlm.lm_head(hidden), batch["labels"], dialogue.state_token_ids)
    torch.testing.assert_close(model(**batch)["loss"], expected)


def test_a_resumed_run_is_the_uninterrupted_one(
    tmp_path: Path, recipe: ScratchRecipe, make_sample: SampleMaker
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(recipe, whole, make_sample=make_sample)
    assert newest_checkpoint(whole).name == "checkpoint-4"

    calls = 0

    def killing_sample(seed: int, split: str, num_frames: int) -> Sample:
        nonlocal calls
        calls += 1
        if calls == 5:  # in the middle of the run
            os.kill(os.getpid(), signal.SIGTERM)
        return make_sample(seed, split, num_frames)

    train(recipe, broken, make_sample=killing_sample)
    stopped = newest_checkpoint(broken)
    steps = json.loads((stopped / "trainer_state.json").read_text())["global_step"]
    assert 0 < steps < recipe.max_steps
    train(recipe, broken, resume=True, make_sample=make_sample)
    weights = [load_file(run / "checkpoint-4" / "model.safetensors") for run in (whole, broken)]
    assert weights[0].keys() == weights[1].keys()
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=0, atol=0)

    with pytest.raises(ValueError, match="--resume"):
        train(recipe, whole, make_sample=make_sample)


def test_an_exported_checkpoint_is_served(
    tmp_path: Path, recipe: ScratchRecipe, make_sample: SampleMaker
) -> None:
    with pytest.raises(ValueError, match="no complete checkpoint"):
        newest_checkpoint(tmp_path)
    run_dir, target = tmp_path / "run", tmp_path / "served"
    train(replace(recipe, max_steps=2), run_dir, make_sample=make_sample)
    export_checkpoint(newest_checkpoint(run_dir), target)
    assert not list(target.glob("*truth*")) and not list(target.glob("*.pt"))
    encoder, language = VisionEncoder.load(target), LanguageModel.load(target)
    assert language.config == recipe.streamo
    tokens = encoder.encode(list(make_sample(0, "test", 1).frames))
    assert tokens[0].shape == (2, language.hidden_size)


def test_recipes_are_whole() -> None:
    for make_recipe in RECIPES.values():
        recipe = make_recipe()
        assert recipe.streamo.window_rounds == max(recipe.clips.num_rounds)
        assert recipe.budget.num_tokens(*recipe.budget.fit(480, 640)) <= 25
