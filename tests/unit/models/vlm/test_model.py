"""Our two halves against Hugging Face's whole model, on a random checkpoint."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
    Qwen2VLImageProcessorPil,
)

from models.vlm.model import LanguageModel, VisionEncoder
from models.vlm.pixels import PixelFormat
from models.vlm.positions import round_positions
from models.vlm.state import State

SIZES = [
    (84, 112),
    (112, 140),
    (28, 28),
    (84, 112),
]  # mixed, so that window padding occurs too


def make_frames(sizes: list[tuple[int, int]], seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


@pytest.fixture(scope="module")
def hf_model(random_checkpoint: Path) -> Qwen2_5_VLForConditionalGeneration:
    torch.set_num_threads(1)
    return Qwen2_5_VLForConditionalGeneration.from_pretrained(random_checkpoint).eval()


def hf_pixels(model_dir: Path, frames: list[np.ndarray]) -> dict[str, torch.Tensor]:
    processor = Qwen2VLImageProcessorPil.from_pretrained(model_dir)
    return processor(
        list(frames),
        return_tensors="pt",
        input_data_format="channels_last",
        do_resize=False,
    )


def test_patches_are_the_processors(random_checkpoint: Path) -> None:
    frames = make_frames(SIZES)
    rows, grids = PixelFormat.load(random_checkpoint).patchify_all(frames)
    expected = hf_pixels(random_checkpoint, frames)
    assert [[1, *grid] for grid in grids] == expected["image_grid_thw"].tolist()
    pixel_values = expected["pixel_values"].reshape(len(rows), 3, 2, -1).numpy()
    for step in range(2):
        np.testing.assert_allclose(rows.reshape(len(rows), 3, -1), pixel_values[:, :, step], atol=1e-5)


@pytest.mark.parametrize("sizes", [SIZES, [(84, 112)] * 3, [(56, 56)] * 2])
def test_halves_equal_the_whole_model(
    random_checkpoint: Path,
    hf_model: Qwen2_5_VLForConditionalGeneration,
    sizes: list[tuple[int, int]],
) -> None:
    frames = make_frames(sizes)
    encoder, language = (
        VisionEncoder.load(random_checkpoint),
        LanguageModel.load(random_checkpoint),
    )
    dialogue = language.dialogue
    grids = [encoder.budget.grid(*size) for size in sizes]

    pieces = [(dialogue.pinned_prefix("Tell me when a person arrives."), (1, 1))]
    for index, (rows, cols) in enumerate(grids):
        reply = dialogue.reply(State.RESPONSE, "A red car.") if index % 2 else dialogue.reply(State.SILENCE)
        head = dialogue.round_head(index * 1000, index * 1000 + 1000, rows * cols)
        pieces.append((head + reply + dialogue.round_tail, (rows, cols)))
    start, positions = 0, []
    for ids, grid in pieces:
        piece_positions, start = round_positions(ids, dialogue.image_token_id, grid, start)
        positions.append(piece_positions)
    ids = torch.tensor([[token_id for piece, _ in pieces for token_id in piece]])
    position_ids = torch.from_numpy(np.concatenate(positions, axis=1))[:, None]

    is_image = ids == dialogue.image_token_id
    pixels = hf_pixels(random_checkpoint, frames)
    expected_positions, _ = hf_model.model.get_rope_index(ids, is_image.int(), pixels["image_grid_thw"])
    assert torch.equal(position_ids, expected_positions)

    embeds = language.embed(ids)
    visual = encoder.encode(frames)
    assert [len(tokens) for tokens in visual] == [rows * cols for rows, cols in grids]
    embeds[is_image] = torch.cat(visual)
    hidden = language.forward(embeds, position_ids)
    logits = language.logits(hidden[0])
    with torch.no_grad():
        expected = hf_model(input_ids=ids, mm_token_type_ids=is_image.int(), **pixels).logits[0]
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


def test_a_frame_is_blind_to_its_batch_mates(random_checkpoint: Path) -> None:
    encoder = VisionEncoder.load(random_checkpoint)
    frames = make_frames(SIZES)
    together = encoder.encode(frames)
    for frame, tokens in zip(frames, together, strict=True):
        torch.testing.assert_close(encoder.encode([frame])[0], tokens, atol=1e-5, rtol=1e-5)
    assert encoder.encode([]) == []


def test_a_frame_of_another_size_or_kind_is_refused(random_checkpoint: Path) -> None:
    encoder = VisionEncoder.load(random_checkpoint)
    with pytest.raises(ValueError, match="multiple of 28"):
        encoder.encode([np.zeros((84, 100, 3), np.uint8)])
    with pytest.raises(ValueError, match="uint8"):
        encoder.encode([np.zeros((84, 112, 3), np.float32)])


def test_shifted_positions_change_nothing_however_large(
    random_checkpoint: Path,
) -> None:
    language = LanguageModel.load(random_checkpoint)
    ids = torch.tensor([language.dialogue.pinned_prefix("Report deliveries.")])
    positions = torch.arange(ids.shape[1]).expand(3, 1, -1)
    near = language.forward(language.embed(ids), positions)
    far = language.forward(language.embed(ids), positions + 10**8)
    torch.testing.assert_close(near, far, atol=1e-5, rtol=1e-5)


def test_use_attention_calls_the_registered_function(random_checkpoint: Path) -> None:
    from transformers import AttentionInterface

    seen = []

    def attend(module, query, key, value, attention_mask, **kwargs):  # type: ignore[no-untyped-def]
        seen.append((attention_mask, kwargs["note"]))
        out = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, enable_gqa=True, scale=kwargs["scaling"]
        )
        return out.transpose(1, 2), None

    AttentionInterface.register("streamo_test", attend)
    language = LanguageModel.load(random_checkpoint)
    ids = torch.tensor([language.dialogue.pinned_prefix("Report deliveries.")])
    positions = torch.arange(ids.shape[1]).expand(3, 1, -1)
    expected = language.forward(language.embed(ids), positions)
    language.use_attention("streamo_test")
    hidden = language.forward(language.embed(ids), positions, note="hello")
    assert seen == [(None, "hello")] * language.num_layers
    torch.testing.assert_close(hidden, expected, atol=1e-5, rtol=1e-5)


def test_old_names_and_shards_are_read(random_checkpoint: Path, tmp_path: Path) -> None:
    """The published checkpoints: `visual.*`, `model.layers.*`, several files, an untied head."""
    for file in random_checkpoint.iterdir():
        if file.suffix == ".json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = False
    (tmp_path / "config.json").write_text(json.dumps(config))
    vision, text = {}, {}
    for name, tensor in load_file(random_checkpoint / "model.safetensors").items():
        name = name.removeprefix("model.")
        if name.startswith("visual."):
            vision[name] = tensor
        else:
            text["model." + name.removeprefix("language_model.").removeprefix("model.")] = tensor
    text["lm_head.weight"] = text["model.embed_tokens.weight"] * 2
    save_file(vision, tmp_path / "a.safetensors")
    save_file(text, tmp_path / "b.safetensors")
    weight_map = dict.fromkeys(vision, "a.safetensors") | dict.fromkeys(text, "b.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))

    frames = make_frames([(84, 112)])
    assert torch.equal(
        VisionEncoder.load(tmp_path).encode(frames)[0],
        VisionEncoder.load(random_checkpoint).encode(frames)[0],
    )
    old, new = LanguageModel.load(tmp_path), LanguageModel.load(random_checkpoint)
    hidden = torch.ones(1, old.hidden_size)
    assert torch.equal(old.logits(hidden), 2 * new.logits(hidden))


def test_a_directory_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config\.json"):
        LanguageModel.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(ValueError, match="llama"):
        LanguageModel.load(tmp_path)
