"""Qwen2.5-VL: a vision tower of mostly windowed attention, rotary frequencies dealt to the axes in runs."""

from __future__ import annotations

from collections.abc import Sequence

from transformers.models.qwen2_5_vl import configuration_qwen2_5_vl as configuration
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as modeling

from models.vlm.family import Family


def axis_of_freq(mrope_section: Sequence[int], num_freqs: int) -> list[int]:
    """Runs of frequencies for time, height and width in turn; a section may have more than three runs."""
    axes = [index % 3 for index, size in enumerate(mrope_section) for _ in range(size)]
    if len(axes) != num_freqs:
        raise ValueError(
            f"mrope_section {list(mrope_section)} deals {len(axes)} frequencies, the model has {num_freqs}"
        )
    return axes


QWEN2_5 = Family(
    model_type="qwen2_5_vl",
    config_class=configuration.Qwen2_5_VLConfig,
    tower_class=modeling.Qwen2_5_VisionTransformerPretrainedModel,
    tower_rotary_class=modeling.Qwen2_5_VLVisionRotaryEmbedding,
    text_class=modeling.Qwen2_5_VLTextModel,
    text_rotary_class=modeling.Qwen2_5_VLRotaryEmbedding,
    axis_of_freq=axis_of_freq,
)
