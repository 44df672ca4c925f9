"""Attention within segments of a packed sequence: frames, or windows of a frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch.nn.attention.varlen import varlen_attn


@dataclass(frozen=True, eq=False)
class Segments:
    """Runs of rows that attend among themselves, laid out once for all layers and calls.

    Segments of one length are a batch as they stand. Others go to PyTorch's variable-length kernel where the
    device has one, else they are padded to the longest.
    """

    offsets: torch.Tensor
    """int32 [segments + 1]: where each begins, and the end of the last."""
    max_length: int
    index: torch.Tensor | None
    """int64 [segments, max_length], the row at each padded place; None if all are of one length."""
    is_real: torch.Tensor | None
    """bool [segments, max_length]: whether the place holds a row of the segment."""
    places: torch.Tensor | None
    """int64 [rows]: the padded place of each row."""

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> Segments:
        """Segments of these lengths, one after another."""
        length = torch.tensor(lengths)
        ends = length.cumsum(0)
        offsets = F.pad(ends, (1, 0)).to(torch.int32).to(device)
        max_length = int(length.max())
        if bool((length == max_length).all()):
            return cls(offsets, max_length, None, None, None)
        place = torch.arange(max_length)
        is_real = place < length[:, None]
        # A place without a row reads the segment's first one, and is masked.
        index = (ends - length)[:, None] + torch.where(is_real, place, 0)
        places = is_real.flatten().nonzero().flatten()
        return cls(offsets, max_length, index.to(device), is_real.to(device), places.to(device))

    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Scaled dot-product attention of [rows, heads, head_dim], each row over its own segment."""
        if self.index is None or self.is_real is None or self.places is None:
            batch = (-1, self.max_length, *query.shape[1:])
            mixed = _attend(*(rows.reshape(batch) for rows in (query, key, value)))
            return mixed.reshape(query.shape)
        if _has_varlen_kernel(query):
            offsets, length = self.offsets, self.max_length
            packed: torch.Tensor = varlen_attn(query, key, value, offsets, offsets, length, length)  # type: ignore[assignment]
            return packed
        padded = _attend(query[self.index], key[self.index], value[self.index], self.is_real[:, None, None])
        return padded.flatten(0, 1)[self.places]


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Attention of [batch, length, heads, head_dim]."""
    query, key, value = (rows.transpose(1, 2) for rows in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2)


def _has_varlen_kernel(query: torch.Tensor) -> bool:
    return (
        query.is_cuda
        and query.dtype in (torch.float16, torch.bfloat16)
        and query.shape[-1] % 8 == 0
        and torch.cuda.get_device_capability(query.device) >= (8, 0)
    )
