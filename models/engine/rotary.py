"""Moving keys that are already rotated along the position axis."""

from __future__ import annotations

import torch

from models.vlm.rotary import turned


def shift_keys(
    keys: torch.Tensor, distances: torch.Tensor, lengths: torch.Tensor, inv_freq: torch.Tensor
) -> torch.Tensor:
    """Keys [..., n, num_kv_heads, head_dim] as they would be further on; a new tensor of the same dtype.

    The n tokens are runs of `lengths` tokens, and each run moves by its own of the `distances` (int64 [runs]
    both). The three axes move alike, so that which axis a frequency follows does not matter. Angles are formed
    in float64: a distance may be as long as a stream. `inv_freq` is [head_dim / 2].
    """
    angles = distances[:, None].to(torch.float64) * inv_freq.to(torch.float64)
    num_tokens = keys.shape[-3]  # told, or a device would have to be asked for the sum of the lengths
    cos, sin = (
        part.float().repeat_interleave(lengths, dim=0, output_size=num_tokens).unsqueeze(1)
        for part in (angles.cos(), angles.sin())
    )
    return turned(keys.float(), cos, sin).to(keys.dtype)
