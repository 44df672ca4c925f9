"""Examples one behind the other in one sequence, each attending to itself alone: no padding."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface

from models.vlm.rotary import turned

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
class Look:
    """Which shares of a head's attention are wanted: of `keys` where `queries` ask, int64 [n] each, places in the
    packed sequence, the queries in order. A key must be seen where it is asked for."""

    layer: int
    head: int
    queries: torch.Tensor
    keys: torch.Tensor


@dataclass(frozen=True, eq=False)
class _Looking:
    """What of a `Look` falls into a stretch: rows of its asking tokens, columns of its keys, what a row may see."""

    name: str
    layer: int
    head: int
    rows: torch.Tensor
    columns: torch.Tensor
    mask: torch.Tensor


@dataclass(frozen=True, eq=False)
class _Asking:
    """Tokens that ask within a stretch, and what they see of its keys, the pinned ones first.

    `mask`: bool [asking, keys]; None where all tokens from an example's first on ask, which then is causal. `angles`:
    cos and sin by which the pinned keys are turned; None where none are pinned.
    """

    stretch: Stretch
    num_asking: int
    mask: torch.Tensor | None
    angles: tuple[torch.Tensor, torch.Tensor] | None
    looking: tuple[_Looking, ...] = ()


class PackedLayout(Protocol):
    """How the tokens of a packed sequence see one another."""

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Attention of the layer of this number: query [1, heads, asking, head_dim], key and value [1, key heads, T,
        head_dim] to [1, asking, heads, head_dim], and of each of the layer's looks the logarithms of the shares, [n],
        by name. Differentiable."""
        ...


@dataclass(frozen=True, eq=False)
class Packing:
    """Where the examples of a packed sequence stand, and which of its tokens ask. The same in all layers.

    `lengths`: tokens of each example. `offsets`: int32 [examples + 1], on the device: where each begins, and the end
    of the last. `asking`: of each example, stretch by stretch; a single one where no window slides.
    """

    lengths: tuple[int, ...]
    offsets: torch.Tensor
    asking: tuple[tuple[_Asking, ...], ...]

    @classmethod
    def of(
        cls,
        stretches: Sequence[Sequence[Stretch]],
        device: torch.device,
        inv_freq: torch.Tensor,
        looks: Mapping[str, Look] | None = None,
    ) -> Packing:
        """Every token asks. `stretches`: of each example, from its first token to its last; `inv_freq`: of the model's
        rotary embedding."""
        lengths = tuple(of_example[-1].end for of_example in stretches)
        offsets = F.pad(torch.tensor(lengths).cumsum(0), (1, 0)).to(torch.int32)
        asking = tuple(
            tuple(_all_asking(one, device, inv_freq, looks or {}, start) for one in of_example)
            for of_example, start in zip(stretches, offsets.tolist()[:-1], strict=True)
        )
        return cls(lengths, offsets.to(device), asking)

    def only(self, index: torch.Tensor) -> Packing:
        """The same with only these tokens asking, and nothing looked at: int64 [n], places in the packed sequence,
        in order; some may ask several times."""
        asking, begin = [], 0
        for length, of_example in zip(self.lengths, self.asking, strict=True):
            within = index[(index >= begin) & (index < begin + length)] - begin
            asking.append(tuple(_some_asking(one, within) for one in of_example))
            begin += length
        return replace(self, asking=tuple(asking))

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """As `PackedLayout.attend`."""
        if query.is_cuda and self.is_plain and query.dtype in (torch.float16, torch.bfloat16):
            return _varlen(query, key, value, self, scaling), {}
        # Split, not sliced: the gradient of a split is one copy, that of a slice is a tensor of zeros for each.
        queries = query.split([one.num_asking for group in self.asking for one in group], dim=2)
        examples = zip(
            self.asking, key.split(self.lengths, dim=2), value.split(self.lengths, dim=2), strict=True
        )
        attended: list[torch.Tensor] = []
        shares: defaultdict[str, list[torch.Tensor]] = defaultdict(list)
        of_stretches = ((one, k, v) for group, k, v in examples for one in group)
        for q, (one, k, v) in zip(queries, of_stretches, strict=True):
            keys, values = _seen(one, k, v)
            attended.append(
                F.scaled_dot_product_attention(
                    q,
                    keys,
                    values,
                    attn_mask=one.mask,
                    is_causal=one.mask is None,
                    scale=scaling,
                    enable_gqa=True,
                ).transpose(1, 2)
            )
            for look in one.looking:
                if look.layer == layer:
                    shares[look.name].append(_shares(look, q, keys, scaling))
        return torch.cat(attended, dim=1), {name: torch.cat(of_look) for name, of_look in shares.items()}

    @property
    def is_plain(self) -> bool:
        """Every token asks, and sees all of its example up to itself, and nothing is looked at."""
        return all(one.mask is None and not one.looking for of_example in self.asking for one in of_example)


def _all_asking(
    stretch: Stretch,
    device: torch.device,
    inv_freq: torch.Tensor,
    looks: Mapping[str, Look],
    start: int,
) -> _Asking:
    """`start`: where the example begins in the packed sequence."""
    angles = None
    if stretch.num_pinned:
        turns = stretch.shift * inv_freq.to(torch.float64)
        angles = turns.cos().float(), turns.sin().float()
    which = torch.arange(stretch.begin, stretch.end, device=device)
    looking = tuple(_looking(name, look, stretch, start) for name, look in looks.items())
    return _Asking(
        stretch, len(which), None if stretch.begin == 0 else _mask(stretch, which), angles, looking
    )


def _looking(name: str, look: Look, stretch: Stretch, start: int) -> _Looking:
    is_here = (look.queries >= start + stretch.begin) & (look.queries < start + stretch.end)
    queries, keys = look.queries[is_here] - start, look.keys[is_here] - start
    columns = torch.where(keys < stretch.num_pinned, keys, keys - stretch.first_key + stretch.num_pinned)
    return _Looking(name, look.layer, look.head, queries - stretch.begin, columns, _mask(stretch, queries))


def _some_asking(asking: _Asking, within: torch.Tensor) -> _Asking:
    stretch = asking.stretch
    which = within[(within >= stretch.begin) & (within < stretch.end)]
    return replace(asking, num_asking=len(which), mask=_mask(stretch, which), looking=())


def _mask(stretch: Stretch, which: torch.Tensor) -> torch.Tensor:
    seen = torch.arange(stretch.first_key, stretch.end, device=which.device) <= which[:, None]
    return F.pad(seen, (stretch.num_pinned, 0), value=True)


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    packing: PackedLayout,
    scaling: float,
    **unused: Any,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Causal attention within examples, for Hugging Face's `AttentionInterface`: query [1, heads, asking, head_dim],
    key and value [1, key heads, T, head_dim] to [1, asking, heads, head_dim]. Differentiable.

    In place of attention weights: of each of the layer's looks the logarithms of the shares, [n], by name.
    """
    # Under autocast the rotation has made queries and keys wider than values.
    query, key = query.to(value.dtype), key.to(value.dtype)
    layer: int = module.layer_idx  # type: ignore[assignment]
    return packing.attend(layer, query, key, value, scaling)


def _shares(look: _Looking, query: torch.Tensor, key: torch.Tensor, scaling: float) -> torch.Tensor:
    queries_per_key_head = query.shape[1] // key.shape[1]
    asking = query[0, look.head, look.rows]
    scores = asking @ key[0, look.head // queries_per_key_head].T * scaling
    scores = scores.masked_fill(~look.mask, float("-inf"))
    return scores.gather(1, look.columns[:, None])[:, 0] - scores.logsumexp(1)


def _seen(asking: _Asking, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of an example's keys and values those of a stretch, the pinned ones first."""
    stretch = asking.stretch
    seen = slice(stretch.first_key, stretch.end)
    if asking.angles is None:
        return key[:, :, seen], value[:, :, seen]
    pinned = slice(stretch.num_pinned)
    cos, sin = (angles.to(key.dtype) for angles in asking.angles)
    return (
        torch.cat((turned(key[:, :, pinned], cos, sin), key[:, :, seen]), dim=2),
        torch.cat((value[:, :, pinned], value[:, :, seen]), dim=2),
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
