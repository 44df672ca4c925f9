"""Qwen3-VL: whole-frame attention, learned position embeddings, DeepStack, frequencies dealt one by one.

DeepStack: features of earlier layers of the vision tower are added to the visual tokens after each of the
first layers of the decoder, so that a visual token is `1 + num_deepstack` vectors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers.models.qwen3_vl import configuration_qwen3_vl as configuration
from transformers.models.qwen3_vl import modeling_qwen3_vl as modeling

from models.vlm.family import Family


def axis_of_freq(mrope_section: Sequence[int], num_freqs: int) -> list[int]:
    """Time, height, width, time, ... until height and width have had their share; time has the rest."""
    turns = [index % 3 for index in range(num_freqs)]
    return [axis if index < 3 * mrope_section[axis] else 0 for index, axis in enumerate(turns)]


class TextModel(modeling.Qwen3VLTextModel):
    """Hugging Face's, but told the places of visual tokens by index: a mask makes the host wait for a device."""

    def _deepstack_process(
        self, hidden_states: torch.Tensor, visual_pos_masks: torch.Tensor, visual_embeds: torch.Tensor
    ) -> torch.Tensor:
        """Add features [n, hidden] at int64 [n], which is handed through under Hugging Face's name."""
        return hidden_states.index_add(1, visual_pos_masks, visual_embeds.unsqueeze(0))


QWEN3 = Family(
    model_type="qwen3_vl",
    config_class=configuration.Qwen3VLConfig,
    tower_class=modeling.Qwen3VLVisionModel,
    tower_rotary_class=modeling.Qwen3VLVisionRotaryEmbedding,
    text_class=TextModel,
    text_rotary_class=modeling.Qwen3VLTextRotaryEmbedding,
    axis_of_freq=axis_of_freq,
)
