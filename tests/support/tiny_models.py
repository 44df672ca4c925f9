"""Model directories of the standard format with small random weights, one for each family.

Hugging Face's own `save_pretrained` writes config and weights, so that the format is the real one. Weights are
large and no parameter is left at one or zero: a mistake anywhere shows in the logits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from models.training.tokenizer import save_tokenizer, train_tokenizer
from models.vlm.streamo_config import StreamoConfig

FamilyName = Literal["qwen2_5_vl", "qwen3_vl"]
FAMILY_NAMES: tuple[FamilyName, ...] = ("qwen2_5_vl", "qwen3_vl")

TEXTS = [
    "system user assistant",
    "A red car is at the gate.",
    "Tell me when a person arrives.",
    "<12s-13.5s>\n",
]
STREAMO = StreamoConfig(window_rounds=8, max_reply_tokens=16, system_prompt="Say </Silence> or </Response>.")


def write_tiny_model(
    model_dir: str | Path,
    family: FamilyName,
    *,
    streamo: StreamoConfig = STREAMO,
    tie_word_embeddings: bool = True,
    max_shard_size: str = "1GB",
    seed: int = 0,
) -> None:
    """Write config.json, safetensors, tokenizer, preprocessor_config.json and streamo.json, all in float32.

    A frame may have up to 20 visual tokens. Weights above `max_shard_size` come in several files with an index.
    """
    directory = Path(model_dir)
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(TEXTS * 3, vocab_size=320)
    save_tokenizer(tokenizer, directory)
    streamo.save(directory)
    _image_processor(family).save_pretrained(directory)
    tiny_hf_model(family, tokenizer, tie_word_embeddings=tie_word_embeddings, seed=seed).save_pretrained(
        directory, max_shard_size=max_shard_size
    )


def tiny_hf_model(
    family: FamilyName, tokenizer: Tokenizer, *, tie_word_embeddings: bool = True, seed: int = 0
) -> Any:
    """Hugging Face's whole model; equal arguments give equal weights."""
    make: Any = {"qwen2_5_vl": _qwen2_5, "qwen3_vl": _qwen3}[family]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make(tokenizer, tie_word_embeddings)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:  # biases and the scales of norms
                    parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def _image_processor(family: FamilyName) -> Qwen2VLImageProcessorPil:
    if family == "qwen2_5_vl":
        return Qwen2VLImageProcessorPil(patch_size=14, size=_pixel_budget(28))
    normalisation = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    return Qwen2VLImageProcessorPil(patch_size=16, size=_pixel_budget(32), **normalisation)


def _pixel_budget(unit: int) -> dict[str, int]:
    return {"shortest_edge": unit**2, "longest_edge": 20 * unit**2}


def _vision_ids(tokenizer: Tokenizer) -> dict[str, int]:
    return {
        "image_token_id": tokenizer.token_to_id("<|image_pad|>"),
        "video_token_id": tokenizer.token_to_id("<|video_pad|>"),
        "vision_start_token_id": tokenizer.token_to_id("<|vision_start|>"),
        "vision_end_token_id": tokenizer.token_to_id("<|vision_end|>"),
    }


def _text_ids(tokenizer: Tokenizer) -> dict[str, int]:
    return {
        "bos_token_id": tokenizer.token_to_id("<|endoftext|>"),
        "eos_token_id": tokenizer.token_to_id("<|im_end|>"),
        "pad_token_id": tokenizer.token_to_id("<|endoftext|>"),
    }


def _qwen2_5(tokenizer: Tokenizer, tie_word_embeddings: bool) -> Qwen2_5_VLForConditionalGeneration:
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": tokenizer.get_vocab_size(),
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "initializer_range": 0.15,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "mrope_section": [6, 5, 5],
            },
            **_text_ids(tokenizer),
        },
        vision_config={
            "depth": 3,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "out_hidden_size": 64,
            "window_size": 56,  # smaller than a frame, so that windows, whole frames and padding all occur
            "fullatt_block_indexes": [1],
            "initializer_range": 0.15,
        },
        tie_word_embeddings=tie_word_embeddings,
        **_vision_ids(tokenizer),
    )
    return Qwen2_5_VLForConditionalGeneration(config)


def _qwen3(tokenizer: Tokenizer, tie_word_embeddings: bool) -> Qwen3VLForConditionalGeneration:
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": tokenizer.get_vocab_size(),
            "hidden_size": 48,
            "intermediate_size": 96,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 32,  # not hidden_size / num_attention_heads
            "initializer_range": 0.15,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "mrope_section": [8, 5, 3],
                "mrope_interleaved": True,
            },
            **_text_ids(tokenizer),
        },
        vision_config={
            "depth": 4,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "out_hidden_size": 48,
            "num_position_embeddings": 36,  # 6 x 6, stretched over frames of up to 8 x 10 patches
            "deepstack_visual_indexes": [0, 2],
            "initializer_range": 0.15,
        },
        tie_word_embeddings=tie_word_embeddings,
        **_vision_ids(tokenizer),
    )
    return Qwen3VLForConditionalGeneration(config)
