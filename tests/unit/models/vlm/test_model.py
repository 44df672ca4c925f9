"""Our two halves against Hugging Face's whole model, on random checkpoints of both families."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AttentionInterface, AutoModelForImageTextToText

from models.vlm import vision_tower
from models.vlm.model import LanguageModel, VisionEncoder
from models.vlm.pixels import PixelFormat
from tests.support.tiny_chats import hf_inputs, hf_pixels, make_chat, our_logits, random_frames, random_grids
from tests.support.tiny_models import FAMILY_NAMES, FamilyName, write_tiny_model

MIXED = [(3, 4), (4, 5), (1, 1), (3, 4), (1, 5)]
BATCHES = [MIXED, [(3, 4)] * 3, [(2, 2)] * 2, [(4, 2)]]


def test_patches_are_the_processors(model_dir: Path) -> None:
    pixel_format = PixelFormat.load(model_dir)
    frames = random_frames(pixel_format.budget, MIXED)
    rows, grids = pixel_format.patchify_all(frames)
    expected = hf_pixels(model_dir, frames)
    assert [[1, *grid] for grid in grids] == expected["image_grid_thw"].tolist()
    pixel_values = expected["pixel_values"].reshape(len(rows), 3, 2, -1).numpy()
    for step in range(2):
        np.testing.assert_allclose(rows.reshape(len(rows), 3, -1), pixel_values[:, :, step], atol=1e-5)


@pytest.mark.parametrize("grids", BATCHES)
def test_visual_tokens_are_the_towers(model_dir: Path, hf_model: Any, grids: list[tuple[int, int]]) -> None:
    encoder = VisionEncoder.load(model_dir)
    frames = random_frames(encoder.budget, grids)
    pixels = hf_pixels(model_dir, frames)
    with torch.no_grad():
        output = hf_model.model.visual(pixels["pixel_values"], grid_thw=pixels["image_grid_thw"])
    levels = [output.pooler_output, *getattr(output, "deepstack_features", [])]
    found = encoder.encode(frames)
    assert [tuple(tokens.shape) for tokens in found] == [
        (rows * cols, encoder.visual_size) for rows, cols in grids
    ]
    torch.testing.assert_close(torch.cat(found), torch.cat(levels, dim=1), atol=1e-5, rtol=1e-5)
    assert all(level.std() > 0.05 for level in levels), "tokens too alike to prove anything"


@pytest.mark.parametrize("seed", range(6))
def test_halves_equal_the_whole_model(model_dir: Path, hf_model: Any, seed: int) -> None:
    encoder, language = VisionEncoder.load(model_dir), LanguageModel.load(model_dir)
    assert encoder.visual_size == language.visual_size
    chat = make_chat(language.dialogue, encoder.budget, random_grids(1 + 2 * seed, seed), seed)
    inputs = hf_inputs(model_dir, chat)
    positions, _ = hf_model.model.get_rope_index(
        chat.ids, inputs["mm_token_type_ids"], inputs["image_grid_thw"]
    )
    assert torch.equal(chat.positions, positions)
    with torch.no_grad():
        expected = hf_model(**inputs).logits[0]
    assert expected.std() > 0.5
    torch.testing.assert_close(our_logits(encoder, language, chat), expected, atol=1e-4, rtol=1e-4)


def test_bfloat16_rounds_no_worse_than_hugging_faces(model_dir: Path, hf_model: Any) -> None:
    encoder = VisionEncoder.load(model_dir, torch.bfloat16)
    language = LanguageModel.load(model_dir, torch.bfloat16)
    chat = make_chat(language.dialogue, encoder.budget, MIXED)
    inputs = hf_inputs(model_dir, chat)
    half_model: Any = AutoModelForImageTextToText.from_pretrained(model_dir, dtype=torch.bfloat16).eval()
    with torch.no_grad():
        exact = hf_model(**inputs).logits[0]
        theirs = half_model(**inputs).logits[0]
    ours = our_logits(encoder, language, chat)
    assert ours.dtype == theirs.dtype == torch.bfloat16
    their_error, our_error = ((found - exact).std() for found in (theirs, ours))
    assert 0 < our_error < 1.2 * their_error


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("tie_word_embeddings", [True, False])
def test_shards_and_both_kinds_of_head_are_read(
    tmp_path: Path, family: FamilyName, tie_word_embeddings: bool
) -> None:
    write_tiny_model(tmp_path, family, tie_word_embeddings=tie_word_embeddings, max_shard_size="60KB", seed=1)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 3
    encoder, language = VisionEncoder.load(tmp_path), LanguageModel.load(tmp_path)
    hf_model: Any = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.float32).eval()
    chat = make_chat(language.dialogue, encoder.budget, MIXED[:2])
    with torch.no_grad():
        expected = hf_model(**hf_inputs(tmp_path, chat)).logits[0]
    torch.testing.assert_close(our_logits(encoder, language, chat), expected, atol=1e-4, rtol=1e-4)


def test_each_half_reads_only_its_own_shards(tmp_path: Path) -> None:
    write_tiny_model(tmp_path, "qwen3_vl", max_shard_size="60KB")
    weight_map = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    of_tower = {file for name, file in weight_map.items() if name.startswith("model.visual.")}
    (tmp_path / sorted(set(weight_map.values()) - of_tower)[0]).unlink()
    VisionEncoder.load(tmp_path)
    with pytest.raises(ValueError, match=r"lacks model-.*\.safetensors"):
        LanguageModel.load(tmp_path)


def test_a_tower_can_be_trained_after_it_served(hf_model: Any) -> None:
    """What is kept for a batch of frame sizes is made by whoever asks first."""
    tower, grids = hf_model.model.visual, ((2, 6), (4, 2))
    config = tower.config
    patches = torch.randn(20, 3 * config.patch_size**2)
    with torch.inference_mode():
        served = vision_tower.visual_tokens(tower, patches, grids)
    trained = vision_tower.visual_tokens(tower, patches, grids)
    (gradient,) = torch.autograd.grad(trained.square().sum(), [tower.blocks[0].attn.qkv.weight])
    assert torch.equal(trained, served)
    assert gradient.abs().sum() > 0


def test_a_frame_is_blind_to_its_batch_mates(model_dir: Path) -> None:
    encoder = VisionEncoder.load(model_dir)
    frames = random_frames(encoder.budget, MIXED)
    together = encoder.encode(frames)
    for frame, tokens in zip(frames, together, strict=True):
        torch.testing.assert_close(encoder.encode([frame])[0], tokens, atol=1e-5, rtol=1e-5)
    assert encoder.encode([]) == []


def test_a_frame_of_another_size_or_kind_is_refused(model_dir: Path) -> None:
    encoder = VisionEncoder.load(model_dir)
    unit = encoder.budget.unit
    with pytest.raises(ValueError, match=f"multiple of {unit}"):
        encoder.encode([np.zeros((3 * unit, 3 * unit + 2, 3), np.uint8)])
    with pytest.raises(ValueError, match="uint8"):
        encoder.encode([np.zeros((3 * unit, 4 * unit, 3), np.float32)])


def test_shifted_positions_change_nothing_however_large(model_dir: Path) -> None:
    encoder, language = VisionEncoder.load(model_dir), LanguageModel.load(model_dir)
    chat = make_chat(language.dialogue, encoder.budget, MIXED)
    near = our_logits(encoder, language, chat)
    chat.positions.add_(10**8)
    torch.testing.assert_close(our_logits(encoder, language, chat), near, atol=1e-5, rtol=1e-5)


def test_deepstack_features_count_and_only_where_they_are_put(model_dir: Path) -> None:
    language = LanguageModel.load(model_dir)
    ids = torch.tensor([language.dialogue.pinned_prefix("A red car?")])
    positions = torch.arange(ids.shape[1]).expand(3, 1, -1)
    plain = language.forward(language.embed(ids), positions)
    index = torch.tensor([5, 9])
    features = torch.ones(language.num_deepstack, 2, language.hidden_size)
    found = language.forward(language.embed(ids), positions, visual=(index, features))
    torch.testing.assert_close(found[:, :5], plain[:, :5])
    assert torch.equal(found[:, 5], plain[:, 5]) == (language.num_deepstack == 0)


def test_use_attention_calls_the_registered_function(model_dir: Path) -> None:
    seen = []

    def attend(module, query, key, value, attention_mask, **kwargs):  # type: ignore[no-untyped-def]
        seen.append((attention_mask, kwargs["note"]))
        out = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, enable_gqa=True, scale=kwargs["scaling"]
        )
        return out.transpose(1, 2), None

    AttentionInterface.register("streamo_test", attend)
    language = LanguageModel.load(model_dir)
    ids = torch.tensor([language.dialogue.pinned_prefix("A red car?")])
    positions = torch.arange(ids.shape[1]).expand(3, 1, -1)
    expected = language.forward(language.embed(ids), positions)
    language.use_attention("streamo_test")
    hidden = language.forward(language.embed(ids), positions, note="hello")
    assert seen == [(None, "hello")] * language.num_layers
    torch.testing.assert_close(hidden, expected, atol=1e-5, rtol=1e-5)


def test_names_of_older_checkpoints_are_read(tmp_path: Path) -> None:
    """`visual.*` and `model.layers.*`, as Qwen2.5-VL was published."""
    new, old = tmp_path / "new", tmp_path / "old"
    write_tiny_model(new, "qwen2_5_vl", tie_word_embeddings=False)
    write_tiny_model(old, "qwen2_5_vl", tie_word_embeddings=False, seed=1)
    tensors = {}
    for name, tensor in load_file(new / "model.safetensors").items():
        bare = name.removeprefix("model.").removeprefix("language_model.")
        tensors[bare if bare.startswith(("visual.", "lm_head.")) else f"model.{bare}"] = tensor
    assert {name.split(".")[0] for name in tensors} == {"visual", "model", "lm_head"}
    save_file(tensors, old / "model.safetensors")

    frames = random_frames(VisionEncoder.load(new).budget, [(3, 4)])
    assert torch.equal(VisionEncoder.load(old).encode(frames)[0], VisionEncoder.load(new).encode(frames)[0])
    hidden = torch.ones(1, LanguageModel.load(old).hidden_size)
    assert torch.equal(LanguageModel.load(old).logits(hidden), LanguageModel.load(new).logits(hidden))


def test_a_directory_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config\.json"):
        LanguageModel.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(ValueError, match=r"llama.*qwen2_5_vl.*qwen3_vl"):
        LanguageModel.load(tmp_path)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_files_that_do_not_belong_together_are_refused(tmp_path: Path, family: FamilyName) -> None:
    write_tiny_model(tmp_path, family)
    preprocessor = json.loads((tmp_path / "preprocessor_config.json").read_text())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(preprocessor | {"patch_size": 12}))
    with pytest.raises(ValueError, match="patch_size 12"):
        VisionEncoder.load(tmp_path)

    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    with pytest.raises(ValueError, match=r"lm_head\.weight"):
        LanguageModel.load(tmp_path)

    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    embeddings = next(tensor for name, tensor in weights.items() if name.endswith("embed_tokens.weight"))
    save_file({**weights, "lm_head.weight": embeddings[:-3].clone()}, path, {"format": "pt"})
    with pytest.raises(ValueError, match=r"lm_head\.weight is \[\d+, \d+\], config\.json says"):
        LanguageModel.load(tmp_path)
    save_file(weights, path, {"format": "pt"})

    config["text_config"]["intermediate_size"] *= 2
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"not those of its config\.json.*\n.*mlp"):
        LanguageModel.load(tmp_path)
