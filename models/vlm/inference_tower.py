"""A vision tower changed into what inference runs: the same numbers from fewer and faster kernels.

Only in memory: a checkpoint keeps Hugging Face's parameters, and training trains them.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLMLP

from models.vlm.fused_norm import fuse_norms
from models.vlm.vision_tower import still_kernel

# Rows of 16-bit numbers that do not end at a multiple of 16 bytes keep matrix products off the fast kernels;
# Qwen2.5-VL's 3,420 columns do not.
_ALIGNED = 8
_PADDED = 64


@torch.no_grad()
def for_inference(visual: Any) -> Any:
    """`visual` itself, its parts exchanged, without gradients. It can no longer be saved or trained."""
    proj = visual.patch_embed.proj
    visual.patch_embed.proj = _linear(still_kernel(proj), proj.bias)
    fuse_norms(visual)
    for parent in list(visual.modules()):
        for name, module in list(parent.named_children()):
            if isinstance(module, Qwen2_5_VLMLP):
                setattr(parent, name, GatedMLP(module))
    return visual.eval().requires_grad_(False)


class GatedMLP(nn.Module):
    """Hugging Face's gated MLP, gate and up projection in one product.

    Columns of zeros are added where the intermediate size would be slow; they come to act(0) * 0 = 0.
    """

    def __init__(self, mlp: Any) -> None:
        super().__init__()
        parts = (mlp.gate_proj, mlp.up_proj)
        dtype, size = mlp.down_proj.weight.dtype, mlp.intermediate_size
        added = -size % _PADDED if dtype.itemsize == 2 and size % _ALIGNED else 0
        weight = torch.cat([F.pad(part.weight, (0, 0, 0, added)) for part in parts])
        bias = None
        if mlp.gate_proj.bias is not None:
            bias = torch.cat([F.pad(part.bias, (0, added)) for part in parts])
        self.gate_up = _linear(weight, bias)
        self.down = _linear(F.pad(mlp.down_proj.weight, (0, added)), mlp.down_proj.bias)
        self.act = mlp.act_fn

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        gate, up = self.gate_up(hidden).chunk(2, dim=-1)
        output: torch.Tensor = self.down(self.act(gate) * up)
        return output


def _linear(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias, requires_grad=False)
    return linear
