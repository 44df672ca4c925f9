"""What differs between the families of models that Streamo runs; everything else asks a `Family`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from models.vlm.rotary import ExactRotary


@dataclass(frozen=True)
class Family:
    """Hugging Face's parts of a family, made without weights.

    Adding a family is writing one of these (see `qwen2_5.py`, `qwen3.py`) and naming it in `model.py`, as long
    as its vision tower is made of parts that `vision_tower.visual_tokens` knows.
    """

    model_type: str
    """As config.json names it."""
    config_class: Any
    tower_class: Any
    tower_rotary_class: Any
    text_class: Any
    text_rotary_class: Any
    axis_of_freq: Callable[[Sequence[int], int], list[int]]
    """From `mrope_section` and the number of frequencies: the position axis that each frequency follows."""

    def rotary(self, text_config: Any) -> ExactRotary:
        """The text model's rotary embedding, exact at any position."""
        theirs = self.text_rotary_class(text_config)
        axes = self.axis_of_freq(theirs.mrope_section, len(theirs.inv_freq))
        return ExactRotary(theirs.inv_freq, axes, theirs.attention_scaling)

    def empty_tower(self, vision_config: Any, device: torch.device) -> Any:
        """The vision tower: parameters on the meta device, what no checkpoint holds on `device`."""
        with torch.device("meta"):
            visual = self.tower_class._from_config(vision_config, attn_implementation="sdpa")
        visual.rotary_pos_emb = self.tower_rotary_class(vision_config).to(device)
        return visual

    def empty_text_model(self, text_config: Any) -> Any:
        """The text model: parameters and rotary embedding on the meta device."""
        with torch.device("meta"):
            return self.text_class._from_config(text_config, attn_implementation="sdpa")


def num_deepstack(vision_config: Any) -> int:
    """Levels of DeepStack features that a vision tower gives besides its tokens; 0 where there is none."""
    return len(getattr(vision_config, "deepstack_visual_indexes", ()))
