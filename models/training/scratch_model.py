"""Qwen2.5-VL checkpoints from nothing: the architecture of the real one at any size, randomly initialised."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from models.training.tokenizer import save_tokenizer
from models.vlm.frame_size import FrameBudget
from models.vlm.streamo_config import StreamoConfig

# OpenAI CLIP's, as in every Qwen-VL checkpoint.
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Architecture:
    """Sizes of a Qwen2.5-VL model.

    `mrope_section` deals a head's rotary pairs, from fast to slow, to time, height and width in turn. Three runs,
    as Qwen2.5-VL has it, leave width only angles so slow that a small model cannot tell columns apart; dealt one
    by one every axis has all speeds (as in Qwen3-VL; Hugging Face's code takes a list of any length).
    """

    hidden_size: int = 192
    intermediate_size: int = 512
    num_layers: int = 4
    num_heads: int = 4
    num_kv_heads: int = 2
    mrope_section: tuple[int, ...] = (1,) * 24
    rope_theta: float = 10_000.0
    vision_hidden_size: int = 128
    vision_intermediate_size: int = 320
    vision_depth: int = 4
    vision_num_heads: int = 4
    vision_window_size: int = 112
    vision_full_attention_layers: tuple[int, ...] = (1, 3)
    initializer_range: float = 0.06  # about 1 / sqrt(hidden_size); 0.02 is for wide models


def write_random_checkpoint(
    model_dir: str | Path,
    architecture: Architecture,
    tokenizer: Tokenizer,
    streamo: StreamoConfig,
    budget: FrameBudget,
    seed: int,
) -> None:
    """Write a whole model directory with random float32 weights; equal arguments give equal weights."""
    directory = Path(model_dir)
    directory.mkdir(parents=True, exist_ok=True)
    save_tokenizer(tokenizer, directory)
    streamo.save(directory)
    save_preprocessor_config(directory, budget)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(_config(architecture, tokenizer, budget))
    model.save_pretrained(str(directory))


def save_preprocessor_config(model_dir: str | Path, budget: FrameBudget) -> None:
    config = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": IMAGE_MEAN,
        "image_std": IMAGE_STD,
        "rescale_factor": 1 / 255,
        "resample": 3,
        "min_pixels": budget.min_pixels,
        "max_pixels": budget.max_pixels,
        "size": {"shortest_edge": budget.min_pixels, "longest_edge": budget.max_pixels},
        "patch_size": budget.patch_size,
        "temporal_patch_size": 2,
        "merge_size": budget.merge_size,
    }
    path = Path(model_dir) / "preprocessor_config.json"
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _config(architecture: Architecture, tokenizer: Tokenizer, budget: FrameBudget) -> Qwen2_5_VLConfig:
    a = architecture
    head_dim, remainder = divmod(a.hidden_size, a.num_heads)
    if remainder or 2 * sum(a.mrope_section) != head_dim:
        raise ValueError(
            f"mrope_section {a.mrope_section} must add up to half of head_dim {a.hidden_size / a.num_heads}"
        )
    token_ids = {token: tokenizer.token_to_id(token) for token in tokenizer.get_vocab(with_added_tokens=True)}
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": tokenizer.get_vocab_size(with_added_tokens=True),
            "hidden_size": a.hidden_size,
            "intermediate_size": a.intermediate_size,
            "num_hidden_layers": a.num_layers,
            "num_attention_heads": a.num_heads,
            "num_key_value_heads": a.num_kv_heads,
            "rms_norm_eps": 1e-6,
            "initializer_range": a.initializer_range,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": a.rope_theta,
                "mrope_section": list(a.mrope_section),
            },
            "bos_token_id": token_ids["<|endoftext|>"],
            "eos_token_id": token_ids["<|im_end|>"],
            "pad_token_id": token_ids["<|endoftext|>"],
            "dtype": "float32",
        },
        vision_config={
            "depth": a.vision_depth,
            "hidden_size": a.vision_hidden_size,
            "intermediate_size": a.vision_intermediate_size,
            "num_heads": a.vision_num_heads,
            "out_hidden_size": a.hidden_size,
            "patch_size": budget.patch_size,
            "spatial_merge_size": budget.merge_size,
            "window_size": a.vision_window_size,
            "fullatt_block_indexes": list(a.vision_full_attention_layers),
            "initializer_range": a.initializer_range,
        },
        image_token_id=token_ids["<|image_pad|>"],
        video_token_id=token_ids["<|video_pad|>"],
        vision_start_token_id=token_ids["<|vision_start|>"],
        vision_end_token_id=token_ids["<|vision_end|>"],
        tie_word_embeddings=True,
        dtype="float32",
    )
