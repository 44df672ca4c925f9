"""Examples one behind the other in one sequence, each attending to itself alone: no padding."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface

from models.vlm.rotary import shift_positions

PACKED_ATTENTION = "streamo_packed"

# Up to torch 2.11 the kernel shares key heads unasked, and does not know the word.
_SHARED_HEADS: dict[str, Any] = (
    {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}
)


@dataclass(frozen=True)
class Stretch:
    """Tokens `begin` to `end` of an example, which were computed in one step of a session whose window had slid.

    They see the pinned tokens, the first `num_pinned` of the example, as if these stood `shift` further on, and all
    from `first_key` up to themselves.
    """

    begin: int
    end: int
    num_pinned: int = 0
    first_key: int = 0
    shift: int = 0


@dataclass(frozen=True, eq=False)
class Packing:
    """Where the examples of a packed sequence stand, and which of its tokens ask.

    `lengths`: tokens of each example. `offsets`: int32 [examples + 1], on the device: where each begins, and the end
    of the last. `stretches`: of each example, one behind the other; a single one where no window slides. `asking`: None
    where every token asks; else for each stretch int64, which of the example's tokens. `inv_freq`: of the model's
    rotary embedding, where stretches shift.
    """

    lengths: tuple[int, ...]
    offsets: torch.Tensor
    stretches: tuple[tuple[Stretch, ...], ...]
    inv_freq: torch.Tensor | None = None
    asking: tuple[tuple[torch.Tensor, ...], ...] | None = None

    @classmethod
    def of(
        cls,
        lengths: Sequence[int],
        device: torch.device,
        stretches: Sequence[Sequence[Stretch]] | None = None,
        inv_freq: torch.Tensor | None = None,
    ) -> Packing:
        offsets = F.pad(torch.tensor(lengths).cumsum(0), (1, 0)).to(torch.int32)
        if stretches is None:
            stretches = [[Stretch(0, length)] for length in lengths]
        return cls(tuple(lengths), offsets.to(device), tuple(map(tuple, stretches)), inv_freq)

    def only(self, index: torch.Tensor) -> Packing:
        """The same with only these tokens asking: int64 [n], places in the packed sequence, rising."""
        asking, begin = [], 0
        for length, stretches in zip(self.lengths, self.stretches, strict=True):
            within = index[(index >= begin) & (index < begin + length)] - begin
            asking.append(tuple(within[(within >= one.begin) & (within < one.end)] for one in stretches))
            begin += length
        return replace(self, asking=tuple(asking))

    @property
    def is_plain(self) -> bool:
        """Every token asks, and sees all of its example up to itself."""
        return self.asking is None and all(len(stretches) == 1 for stretches in self.stretches)

    @property
    def num_asking(self) -> list[int]:
        """Of each example."""
        if self.asking is None:
            return [*self.lengths]
        return [sum(map(len, asking)) for asking in self.asking]


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
    if query.is_cuda and packing.is_plain and query.dtype in (torch.float16, torch.bfloat16):
        return _varlen(query, key, value, packing, scaling), None
    # Split, not sliced: the gradient of a split is one copy, that of a slice is a tensor of zeros for each.
    parts = zip(
        query.split(packing.num_asking, dim=2),
        key.split(packing.lengths, dim=2),
        value.split(packing.lengths, dim=2),
        packing.stretches,
        packing.asking or (None,) * len(packing.lengths),
        strict=True,
    )
    attended = [
        part
        for q, k, v, stretches, asking in parts
        for part in _attended(q, k, v, stretches, asking, scaling, packing.inv_freq)
    ]
    return torch.cat(attended, dim=2).transpose(1, 2), None


def _attended(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    stretches: tuple[Stretch, ...],
    asking: tuple[torch.Tensor, ...] | None,
    scaling: float,
    inv_freq: torch.Tensor | None,
) -> Iterator[torch.Tensor]:
    """Of one example, stretch by stretch."""
    counts = [one.end - one.begin for one in stretches] if asking is None else [len(one) for one in asking]
    for index, (q, stretch) in enumerate(zip(query.split(counts, dim=2), stretches, strict=True)):
        if asking is None and not stretch.first_key and stretch.end == q.shape[2]:
            k, v, mask = key[:, :, : stretch.end], value[:, :, : stretch.end], None
        else:
            which = (
                asking[index]
                if asking is not None
                else torch.arange(stretch.begin, stretch.end, device=q.device)
            )
            k, v, mask = _seen(key, value, which, stretch, inv_freq)
        yield F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=True
        )


def _seen(
    key: torch.Tensor,
    value: torch.Tensor,
    which: torch.Tensor,
    stretch: Stretch,
    inv_freq: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Keys and values of a stretch, and which of them each asking token sees, bool [asking, keys]."""
    first, end, num_pinned = stretch.first_key, stretch.end, stretch.num_pinned
    mask = torch.arange(first, end, device=key.device) <= which[:, None]
    key, pinned_key = key[:, :, first:end], key[:, :, :num_pinned]
    value, pinned_value = value[:, :, first:end], value[:, :, :num_pinned]
    if not num_pinned:
        return key, value, mask
    assert inv_freq is not None
    turned = shift_positions(pinned_key, stretch.shift, inv_freq)
    return (
        torch.cat((turned, key), dim=2),
        torch.cat((pinned_value, value), dim=2),
        F.pad(mask, (num_pinned, 0), value=True),
    )


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
