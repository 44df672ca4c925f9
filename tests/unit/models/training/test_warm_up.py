from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import Qwen2_5_VLForConditionalGeneration

from models.training.dataset import SampleMaker
from models.training.recipes import ScratchRecipe
from models.training.truth_heads import TRUTH_HEADS_FILE, half_way_layer
from models.training.warm_up import SeenFramesCollator, SeenFramesDataset, WarmUpModel
from models.vlm.dialogue import Dialogue
from models.vlm.pixels import PixelFormat
from models.vlm.state import State


def test_frames_are_read_where_hugging_faces_model_would_decide(
    tmp_path: Path, model_dir: Path, recipe: ScratchRecipe, make_sample: SampleMaker
) -> None:
    plan, pixels = recipe.warm_up, PixelFormat.load(model_dir)
    dialogue = Dialogue.load(model_dir, recipe.streamo.system_prompt, 64)
    frames = SeenFramesDataset(make_sample, "train", 2, plan)
    batch = SeenFramesCollator(pixels)([frames[0], frames[1]])
    batch["coordinates"] = torch.arange(len(batch["seen"]), dtype=torch.float32)[:, None]
    batch["coordinates"][-1] = torch.nan
    height, width = frames[0].frames.shape[1:3]
    grid, num_tokens = pixels.budget.grid(height, width), pixels.budget.num_tokens(height, width)
    sizes = make_sample(0, "train", 1).truth.sizes

    def load() -> Qwen2_5_VLForConditionalGeneration:
        return Qwen2_5_VLForConditionalGeneration.from_pretrained(model_dir, dtype=torch.float32)

    model = WarmUpModel(load(), sizes, dialogue, grid, plan.frames_per_clip)
    model(**batch)["loss"].backward()

    token_ids: list[int] = []
    decisions = []
    for second in range(plan.frames_per_clip):
        token_ids += dialogue.round_head(second * 1000, (second + 1) * 1000, num_tokens)
        decisions.append(len(token_ids) - 1)
        token_ids += [*dialogue.reply(State.SILENCE), *dialogue.round_tail]
    ids = torch.tensor([token_ids] * 2)
    # Theirs takes every frame twice.
    patches = batch["patches"].unflatten(1, (3, 1, -1)).expand(-1, -1, 2, -1).flatten(1)
    with torch.no_grad():
        theirs = load()(
            input_ids=ids,
            mm_token_type_ids=(ids == dialogue.image_token_id).long(),
            pixel_values=patches,
            image_grid_thw=torch.tensor([(1, *of_frame) for of_frame in batch["patch_grids"].tolist()]),
            output_hidden_states=True,
        ).hidden_states[half_way_layer(recipe.architecture.num_layers) + 1]
    read = theirs[:, decisions].flatten(0, 1)
    read = F.rms_norm(read, read.shape[-1:])
    expected = model.read(read, batch["seen"])
    torch.testing.assert_close(model.last_parts["read"], expected.detach(), rtol=1e-4, atol=1e-5)
    # The last frame is known to hold nobody.
    errors = (model.read_coordinates.linear(read) - batch["coordinates"])[:-1].detach().square()
    off_by = model.last_parts["read_coordinates"]
    torch.testing.assert_close(off_by, errors.sum() / 0.5 / (len(errors) + 1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.accuracy(**batch)[1], float(errors.mean().sqrt()), rtol=1e-4, atol=1e-5)

    learnt = {name for name, weight in model.vlm.model.named_parameters() if weight.grad is not None}
    layers = {f"language_model.layers.{number}" for number in range(2)}
    assert {name.split(".")[0] for name in learnt} == {"visual", "language_model"}
    assert {".".join(name.split(".")[:3]) for name in learnt if "language_model" in name} == layers

    model.save(tmp_path)
    heads = load_file(tmp_path / TRUTH_HEADS_FILE)
    asked_later = {"seen", "read", "seen_coordinates", "read_coordinates"}
    assert {name.split(".")[0] for name in heads} == {"side_by_side", *asked_later}
