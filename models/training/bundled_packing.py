"""A packing for a GPU: stretches of like sizes attend as one padded batch, so that there are few kernels to start."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from models.training.packing import Look, Stretch
from models.vlm.rotary import turned


@dataclass(frozen=True, eq=False)
class _Placed:
    """A stretch in the packed sequence. queries: int64 [n], the tokens that ask; numbers: int64 [n], which of all that
    ask these are; keys: int64 [m], what is seen."""

    stretch: Stretch
    queries: np.ndarray
    numbers: np.ndarray
    keys: np.ndarray


@dataclass(frozen=True, eq=False)
class _Looking:
    """Of a look what falls into a bundle, int64 [n] each: stretch, row and column of the padded batch, and which of
    the look's pairs it is."""

    name: str
    layer: int
    head: int
    stretches: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    pairs: torch.Tensor


@dataclass(frozen=True, eq=False)
class _Bundle:
    """B stretches, padded to Q asking tokens and K keys.

    queries: int64 [B * Q], which of the tokens that ask. keys: int64 [B * K], places in the sequence. mask: bool
    [B, 1, Q, K]. angles: cos and sin [B, 1, P, head_dim / 2] of the first P keys, None where none are pinned.
    """

    num_stretches: int
    queries: torch.Tensor
    keys: torch.Tensor
    mask: torch.Tensor
    angles: tuple[torch.Tensor, torch.Tensor] | None
    looking: tuple[_Looking, ...]

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
    ) -> tuple[torch.Tensor, list[tuple[_Looking, torch.Tensor]]]:
        """query [asking, heads, head_dim], key and value [T, key heads, head_dim] to [B * Q, heads, head_dim], and the
        layer's looks with the logarithms of their shares."""
        q, k, v = (
            rows.index_select(0, index).unflatten(0, (self.num_stretches, -1)).transpose(1, 2)
            for rows, index in ((query, self.queries), (key, self.keys), (value, self.keys))
        )
        if self.angles is not None:
            cos, sin = (angles.to(k.dtype) for angles in self.angles)
            num_turned = cos.shape[2]
            k = torch.cat((turned(k[:, :, :num_turned], cos, sin), k[:, :, num_turned:]), dim=2)
        attended = F.scaled_dot_product_attention(
            q, k, v, attn_mask=self.mask, scale=scaling, enable_gqa=True
        )
        shares = [(look, self._shares(look, q, k, scaling)) for look in self.looking if look.layer == layer]
        return attended.transpose(1, 2).flatten(0, 1), shares

    def _shares(self, look: _Looking, query: torch.Tensor, key: torch.Tensor, scaling: float) -> torch.Tensor:
        if not len(look.rows):
            return query.new_empty(0)
        key_head = look.head // (query.shape[1] // key.shape[1])
        scores = query[:, look.head] @ key[:, key_head].transpose(1, 2) * scaling
        scores = scores.masked_fill(~self.mask[:, 0], float("-inf"))
        wanted = scores[look.stretches, look.rows, look.columns]
        return wanted - scores.logsumexp(2)[look.stretches, look.rows]


@dataclass(frozen=True, eq=False)
class BundledPacking:
    """Does what `Packing` does, with fewer and larger products: what is padded costs a GPU less than to be told.

    restore: int64 [asking], where in the bundles' outputs, one behind the other, each asking token's stands.
    """

    _stretches: tuple[tuple[Stretch, ...], ...]
    _inv_freq: torch.Tensor
    _bundles: tuple[_Bundle, ...]
    _restore: torch.Tensor

    @classmethod
    def of(
        cls,
        stretches: Sequence[Sequence[Stretch]],
        device: torch.device,
        inv_freq: torch.Tensor,
        looks: Mapping[str, Look] | None = None,
    ) -> BundledPacking:
        """As `Packing.of`."""
        total = sum(of_example[-1].end for of_example in stretches)
        return cls._of(tuple(map(tuple, stretches)), device, inv_freq, np.arange(total), looks or {})

    def only(self, index: torch.Tensor) -> BundledPacking:
        """As `Packing.only`."""
        return self._of(self._stretches, index.device, self._inv_freq, index.cpu().numpy(), {})

    @classmethod
    def _of(
        cls,
        stretches: tuple[tuple[Stretch, ...], ...],
        device: torch.device,
        inv_freq: torch.Tensor,
        asking: np.ndarray,
        looks: Mapping[str, Look],
    ) -> BundledPacking:
        groups: defaultdict[tuple[int, int], list[_Placed]] = defaultdict(list)
        for one in _placed(stretches, asking):
            if len(one.queries):
                groups[_size_class(len(one.queries)), _size_class(len(one.keys))].append(one)
        pairs = {
            name: (look, look.queries.cpu().numpy(), look.keys.cpu().numpy()) for name, look in looks.items()
        }
        bundles, places, start = [], [], 0
        for group in groups.values():
            bundle, num_rows = _bundle(group, pairs, device, inv_freq)
            for row, one in enumerate(group):
                first = start + row * num_rows
                places.append((one.numbers, np.arange(first, first + len(one.queries))))
            start += len(group) * num_rows
            bundles.append(bundle)
        restore = np.empty(len(asking), dtype=np.int64)
        for numbers, rows in places:
            restore[numbers] = rows
        return cls(stretches, inv_freq, tuple(bundles), torch.from_numpy(restore).to(device))

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """As `packed_attention` for the layer of this number."""
        query, key, value = (heads[0].transpose(0, 1) for heads in (query, key, value))
        outputs: list[torch.Tensor] = []
        shares: defaultdict[str, list[tuple[_Looking, torch.Tensor]]] = defaultdict(list)
        for bundle in self._bundles:
            attended, looked = bundle.attend(layer, query, key, value, scaling)
            outputs.append(attended)
            for look, share in looked:
                shares[look.name].append((look, share))
        in_order = {
            name: torch.cat([share for _, share in parts])[
                torch.cat([look.pairs for look, _ in parts]).argsort()
            ]
            for name, parts in shares.items()
        }
        return torch.cat(outputs).index_select(0, self._restore).unsqueeze(0), in_order


def _placed(stretches: Sequence[Sequence[Stretch]], asking: np.ndarray) -> Iterator[_Placed]:
    start = 0
    for of_example in stretches:
        for one in of_example:
            first, end = np.searchsorted(asking, (start + one.begin, start + one.end))
            keys = np.concatenate((np.arange(one.num_pinned), np.arange(one.first_key, one.end)))
            yield _Placed(one, asking[first:end], np.arange(first, end), start + keys)
        start += of_example[-1].end


def _size_class(length: int) -> int:
    """Lengths of one class differ by less than half."""
    return int(np.ceil(2 * np.log2(length)))


def _bundle(
    group: Sequence[_Placed],
    pairs: Mapping[str, tuple[Look, np.ndarray, np.ndarray]],
    device: torch.device,
    inv_freq: torch.Tensor,
) -> tuple[_Bundle, int]:
    """The bundle, and Q."""
    num_rows = max(len(one.queries) for one in group)
    num_columns = max(len(one.keys) for one in group)
    # Places that are filled up ask as the first of their row does, and see and are seen by nothing else.
    numbers = np.stack([_filled(one.numbers, num_rows, one.numbers[0]) for one in group])
    queries = np.stack([_filled(one.queries, num_rows, one.queries[0]) for one in group])
    keys = np.stack([_filled(one.keys, num_columns, one.keys[0]) for one in group])
    num_keys = np.array([len(one.keys) for one in group])
    on_device = torch.from_numpy(np.concatenate((queries, keys), axis=1)).to(device)
    is_key = torch.arange(num_columns, device=device) < torch.from_numpy(num_keys).to(device)[:, None]
    asked_from, seen = on_device.split((num_rows, num_columns), dim=1)
    mask = (seen[:, None] <= asked_from[:, :, None]) & is_key[:, None]
    return (
        _Bundle(
            len(group),
            torch.from_numpy(numbers.ravel()).to(device),
            seen.flatten(),
            mask[:, None],
            _angles(group, device, inv_freq),
            tuple(_looking(name, *of_look, group, device) for name, of_look in pairs.items()),
        ),
        num_rows,
    )


def _filled(places: np.ndarray, length: int, filler: int) -> np.ndarray:
    return np.pad(places, (0, length - len(places)), constant_values=filler)


def _angles(
    group: Sequence[_Placed], device: torch.device, inv_freq: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor] | None:
    num_turned = max(one.stretch.num_pinned for one in group)
    if not num_turned:
        return None
    # Keys behind the pinned ones stay where they are.
    shifts = np.stack([one.stretch.shift * (np.arange(num_turned) < one.stretch.num_pinned) for one in group])
    turns = torch.from_numpy(shifts).to(device)[:, None, :, None] * inv_freq.to(device, torch.float64)
    return turns.cos().float(), turns.sin().float()


def _looking(
    name: str,
    look: Look,
    queries: np.ndarray,
    keys: np.ndarray,
    group: Sequence[_Placed],
    device: torch.device,
) -> _Looking:
    found = [np.empty((4, 0), dtype=np.int64)]
    for number, one in enumerate(group):
        # The tokens of a stretch follow one another, since nothing is looked at where only some ask.
        first, end = np.searchsorted(queries, (one.queries[0], one.queries[-1] + 1))
        asked, wanted = queries[first:end], keys[first:end]
        # Pinned keys come first, and of a stretch without them the first key is the example's.
        columns = np.where(
            wanted < one.keys[0] + one.stretch.num_pinned,
            wanted - one.keys[0],
            len(one.keys) - 1 - (one.queries[-1] - wanted),
        )
        found.append(
            np.stack((np.full(len(asked), number), asked - one.queries[0], columns, np.arange(first, end)))
        )
    return _Looking(name, look.layer, look.head, *torch.from_numpy(np.concatenate(found, axis=1)).to(device))
