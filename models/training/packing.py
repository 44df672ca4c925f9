"""Examples one behind the other in one sequence, each attending to itself alone: no padding."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface

PACKED_ATTENTION = "streamo_packed"

# Up to torch 2.11 the kernel shares key heads unasked, and does not know the word.
_SHARED_HEADS: dict[str, Any] = (
    {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}
)


@dataclass(frozen=True, eq=False)
class Packing:
    """Where the examples of a packed sequence stand, and which of its tokens ask.

    `lengths`: tokens of each example. `offsets`: int32 [examples + 1], on the device: where each begins, and the end
    of the last. `masks`: None where every token asks; else for each example bool [asking, length], the keys that
    each asking token sees.
    """

    lengths: tuple[int, ...]
    offsets: torch.Tensor
    masks: tuple[torch.Tensor, ...] | None = None

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> Packing:
        offsets = F.pad(torch.tensor(lengths).cumsum(0), (1, 0)).to(torch.int32)
        return cls(tuple(lengths), offsets.to(device))

    def only(self, index: torch.Tensor) -> Packing:
        """The same with only these tokens asking: int64 [n], places in the packed sequence, rising."""
        masks, begin = [], 0
        for length in self.lengths:
            within = index[(index >= begin) & (index < begin + length)] - begin
            masks.append(torch.arange(length, device=index.device) <= within[:, None])
            begin += length
        return Packing(self.lengths, self.offsets, tuple(masks))


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    packing: Packing,
    scaling: float,
    **unused: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within examples, for Hugging Face's `AttentionInterface`: query [1, heads, asking, head_dim],
    key and value [1, key heads, T, head_dim] to [1, asking, heads, head_dim]. Differentiable.
    """
    # Under autocast the rotation has made queries and keys wider than values.
    query, key = query.to(value.dtype), key.to(value.dtype)
    if query.is_cuda and packing.masks is None and query.dtype in (torch.float16, torch.bfloat16):
        return _varlen(query, key, value, packing, scaling), None
    masks = packing.masks or (None,) * len(packing.lengths)
    asking = [
        length if mask is None else len(mask) for mask, length in zip(masks, packing.lengths, strict=True)
    ]
    # Split, not sliced: the gradient of a split is one copy, that of a slice is a tensor of zeros for each.
    parts = zip(
        query.split(asking, dim=2),
        key.split(packing.lengths, dim=2),
        value.split(packing.lengths, dim=2),
        masks,
        strict=True,
    )
    attended = [
        F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=True
        ).transpose(1, 2)
        for q, k, v, mask in parts
    ]
    return torch.cat(attended, dim=1), None


def _varlen(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packing: Packing, scaling: float
) -> torch.Tensor:
    longest = max(packing.lengths)
    attended = varlen_attn(
        query[0].transpose(0, 1),
        key[0].transpose(0, 1),
        value[0].transpose(0, 1),
        packing.offsets,
        packing.offsets,
        longest,
        longest,
        scale=scaling,
        window_size=(-1, 0),  # causal
        **_SHARED_HEADS,
    )
    assert isinstance(attended, torch.Tensor)  # and no auxiliary output beside it
    return attended.unsqueeze(0)


AttentionInterface.register(PACKED_ATTENTION, packed_attention)
