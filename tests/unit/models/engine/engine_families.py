"""What the engine's tests have to know of a family of models. Adding a family is one entry of `FAMILIES`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLTextModel
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLTextConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextModel

from models.vlm.qwen3 import TextModel as ServedQwen3


def runs(sections: Sequence[int], num_frequencies: int) -> list[int]:
    return [axis for axis, size in enumerate(sections) for _ in range(size)]


def interleaved(sections: Sequence[int], num_frequencies: int) -> list[int]:
    axes = [0] * num_frequencies
    for axis in (1, 2):
        for turn in range(sections[axis]):
            axes[axis + 3 * turn] = axis
    return axes


@dataclass(frozen=True)
class Family:
    config_class: Any
    text_class: Any
    """Hugging Face's own, which the engine is compared with."""
    served_class: Any
    """What the engine runs."""
    axes: Callable[[Sequence[int], int], list[int]]
    """From `mrope_section` and the number of frequencies: which position axis each frequency follows."""
    mrope_section: tuple[int, int, int]
    """Of heads of 16."""
    seed: int
    """Of random weights with which every kind of decision occurs."""
    num_deepstack: int = 0
    extra_sizes: Callable[[int], dict[str, Any]] = lambda head_dim: {}
    """Settings of the family's config, from the size of a head."""


FAMILIES = {
    "qwen2_5_vl": Family(Qwen2_5_VLTextConfig, Qwen2_5_VLTextModel, Qwen2_5_VLTextModel, runs, (2, 3, 3), 2),
    "qwen3_vl": Family(
        Qwen3VLTextConfig,
        Qwen3VLTextModel,
        ServedQwen3,
        interleaved,
        (4, 2, 2),
        3,
        num_deepstack=2,
        extra_sizes=lambda head_dim: {"head_dim": head_dim},
    ),
}


def deepstack_inputs(
    family: Family, is_visual: torch.Tensor, frames: torch.Tensor, hidden_size: int
) -> dict[str, Any]:
    """What Hugging Face's text model is given besides, for visual tokens [n, visual_size]."""
    if not family.num_deepstack or not len(frames):
        return {}
    features = list(frames.split(hidden_size, dim=1))[1:]
    return {"visual_pos_masks": is_visual, "deepstack_visual_embeds": features}
