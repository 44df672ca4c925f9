"""Moving keys that are already rotated along the position axis."""

from __future__ import annotations

import torch


def shift_keys(keys: torch.Tensor, distance: int, inv_freq: torch.Tensor) -> torch.Tensor:
    """Keys [..., head_dim] as they would be `distance` positions further on; a new tensor of the same dtype.

    The three axes move alike, so that which axis a frequency follows does not matter. The angle is formed in
    float64: a distance may be as long as a stream. `inv_freq` is [head_dim / 2].
    """
    angles = inv_freq.to(torch.float64) * distance
    cos, sin = angles.cos().float(), angles.sin().float()
    # Hugging Face's layout: the pair of frequency i is (i, i + head_dim / 2).
    first, second = keys.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(keys.dtype)
