"""A decoder layer, run only where its result is wanted.

Nothing attends to what the last layer makes of a token, so its queries, its attention and its MLP are needed
only where logits are read: at one token of a row. Its keys and values are needed of all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


@dataclass(frozen=True, eq=False)
class Wanted:
    """The tokens whose hidden states are wanted, int64 [n]; and what the attention function is given in the layer,
    where it gets the queries of these tokens only, with the keys and values of all.
    """

    index: torch.Tensor
    attention: Mapping[str, Any]


class LastLayer(nn.Module):
    """Stands in for a decoder layer of either family, with the same parameters under the same names."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.input_layernorm = layer.input_layernorm
        self.self_attn = layer.self_attn
        self.post_attention_layernorm = layer.post_attention_layernorm
        self.mlp = layer.mlp
        # Not as a submodule: its parameters are named already.
        self._layer: Any
        self.__dict__["_layer"] = layer

    def forward(
        self, hidden_states: torch.Tensor, wanted: Wanted | None = None, **inputs: Any
    ) -> torch.Tensor:
        """Hidden states [1, T, H] to [1, n, H] of the wanted tokens; of all, as the layer itself, if None."""
        if wanted is None:
            whole: torch.Tensor = self._layer(hidden_states, **inputs)
            return whole
        seen = self.input_layernorm(hidden_states)
        asking = seen.index_select(1, wanted.index)
        attended = attend_rows(self, asking, seen, inputs["position_embeddings"], wanted)
        return with_mlp(self, hidden_states.index_select(1, wanted.index) + attended)


def attend_rows(
    layer: Any,
    asking: torch.Tensor,
    seen: torch.Tensor,
    rotation: tuple[torch.Tensor, torch.Tensor],
    wanted: Wanted,
) -> torch.Tensor:
    """What a layer's attention brings to the wanted tokens, [1, n, H], of T tokens, `seen`, [1, T, H]; both are normed.

    `asking`, [1, n, H], need not be what stands there: it asks in its place, and is seen by nobody. `rotation`: cos and
    sin of the T tokens.
    """
    attention = layer.self_attn
    query = _heads(attention, attention.q_proj(asking), "q_norm")
    key = _heads(attention, attention.k_proj(seen), "k_norm")
    value = _heads(attention, attention.v_proj(seen), None)
    cos, sin = rotation
    query = _rotate(query, cos.index_select(1, wanted.index), sin.index_select(1, wanted.index))
    key = _rotate(key, cos, sin)
    attend = ALL_ATTENTION_FUNCTIONS[attention.config._attn_implementation]
    attended, _ = attend(attention, query, key, value, None, scaling=attention.scaling, **wanted.attention)
    projected: torch.Tensor = attention.o_proj(attended.flatten(2))
    return projected


def with_mlp(layer: Any, hidden: torch.Tensor) -> torch.Tensor:
    """The second half of a layer: hidden states behind its attention, [..., H], to what it gives."""
    after: torch.Tensor = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    return after


def _heads(attention: Any, projected: torch.Tensor, norm: str | None) -> torch.Tensor:
    """[1, heads, T, head_dim] of [1, T, heads * head_dim]; normed where the family norms before rotating."""
    heads = projected.unflatten(-1, (-1, attention.head_dim))
    if norm is not None and hasattr(attention, norm):
        heads = getattr(attention, norm)(heads)
    return heads.transpose(1, 2)


def _rotate(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    # Hugging Face's layout: the pair of frequency i is (i, i + head_dim / 2).
    first, second = heads.chunk(2, dim=-1)
    return heads * cos.unsqueeze(1) + torch.cat((-second, first), dim=-1) * sin.unsqueeze(1)
