"""The rotary embedding of both families, exact however long a stream lasts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class ExactRotary(nn.Module):
    """Rotary cosines and sines from angles in float64, so that positions may grow for the life of a stream.

    In float32 an angle is wrong by position * 6e-8 rad. At small positions equal to Hugging Face's module.
    `axis_of_freq` says which of the three position axes each frequency follows; which it is differs between
    families (`models.vlm.family`).
    """

    def __init__(self, inv_freq: torch.Tensor, axis_of_freq: Sequence[int], attention_scaling: float) -> None:
        super().__init__()
        if len(axis_of_freq) != len(inv_freq):
            raise ValueError(f"axis_of_freq has {len(axis_of_freq)} entries for {len(inv_freq)} frequencies")
        self.inv_freq = nn.Buffer(inv_freq.to(torch.float64), persistent=False)
        self.attention_scaling = attention_scaling
        self._axis_of_freq = nn.Buffer(torch.tensor(axis_of_freq), persistent=False)

    @torch.no_grad()
    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin, each [B, T, head_dim] in x's dtype, of positions [3, B, T]."""
        positions = position_ids.expand(3, -1, -1).movedim(0, -1)[..., self._axis_of_freq]
        angles = positions.to(torch.float64) * self.inv_freq
        angles = torch.cat((angles, angles), dim=-1)
        cos, sin = angles.cos() * self.attention_scaling, angles.sin() * self.attention_scaling
        return cos.to(x.dtype), sin.to(x.dtype)


def turned(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Heads [..., head_dim], rotated already, by further angles, whose cos and sin fit [..., head_dim / 2].

    Where all three position axes move alike it does not matter which of them a frequency follows.
    """
    # Hugging Face's layout: the pair of frequency i is (i, i + head_dim / 2).
    first, second = heads.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
