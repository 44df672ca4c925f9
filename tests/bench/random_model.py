"""Checkpoints of a known shape with random weights: for speed and memory, which do not depend on the values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from models.vlm.dialogue import Dialogue
from models.vlm.frame_size import FrameBudget
from models.vlm.model import LanguageModel, VisionEncoder
from models.vlm.pixels import PixelFormat
from models.vlm.qwen2_5 import QWEN2_5
from models.vlm.streamo_config import StreamoConfig


@dataclass(frozen=True)
class Shape:
    """Sizes of a Qwen2.5-VL, as its config.json gives them, and the frames that it is shown."""

    text: dict[str, Any]
    vision: dict[str, Any]
    window_rounds: int
    frame_hw: tuple[int, int]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of visual tokens of a frame."""
        return FrameBudget(28 * 28, self.frame_hw[0] * self.frame_hw[1]).grid(*self.frame_hw)


_QWEN_VISION = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
}

SHAPES = {
    "qwen2.5-7b": Shape(
        text={
            "hidden_size": 3584,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "intermediate_size": 18_944,
            "vocab_size": 152_064,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1_000_000.0,
                "mrope_section": [16, 24, 24],
            },
        },
        vision={**_QWEN_VISION, "out_hidden_size": 3584},
        window_rounds=120,
        frame_hw=(224, 448),  # 8 x 16 = 128 tokens, the whole budget of 100,352 pixels
    ),
    "qwen2.5-3b": Shape(
        text={
            "hidden_size": 2048,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "intermediate_size": 11_008,
            "vocab_size": 151_936,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1_000_000.0,
                "mrope_section": [16, 24, 24],
            },
        },
        vision={**_QWEN_VISION, "out_hidden_size": 2048},
        window_rounds=120,
        frame_hw=(224, 448),
    ),
}


def random_language_model(
    shape: Shape, tokenizer_dir: Path, dtype: torch.dtype, device: torch.device
) -> LanguageModel:
    """`tokenizer_dir` gives the dialogue; its ids are far fewer than the shape's, which costs nothing."""
    config: Any = QWEN2_5.config_class(text_config=shape.text, vision_config=shape.vision)
    text = _randomised(QWEN2_5.empty_text_model(config.text_config), dtype, device)
    streamo = StreamoConfig.load(tokenizer_dir)
    head = torch.empty(shape.text["vocab_size"], shape.text["hidden_size"], dtype=dtype, device=device)
    return LanguageModel(
        text,
        head.normal_(std=0.02),
        Dialogue.load(tokenizer_dir, streamo.system_prompt),
        StreamoConfig(shape.window_rounds, streamo.max_reply_tokens, streamo.system_prompt),
        dtype,
        device,
    )


def random_encoder(shape: Shape, dtype: torch.dtype, device: torch.device) -> VisionEncoder:
    config: Any = QWEN2_5.config_class(text_config=shape.text, vision_config=shape.vision)
    tower = QWEN2_5.empty_tower(config.vision_config, device)
    rotary = tower.rotary_pos_emb
    tower.rotary_pos_emb = None  # it is made already; only parameters are to be drawn
    tower = _randomised(tower, dtype, device)
    tower.rotary_pos_emb = rotary
    budget = FrameBudget(28 * 28, shape.frame_hw[0] * shape.frame_hw[1])
    return VisionEncoder(tower, PixelFormat(budget, (0.5,) * 3, (0.5,) * 3), dtype, device)


def _randomised(module: Any, dtype: torch.dtype, device: torch.device) -> Any:
    module = module.to(dtype).to_empty(device=device)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "norm" in name and name.endswith("weight"):
                parameter.fill_(1.0)
            else:
                parameter.normal_(std=0.02)
    return module
