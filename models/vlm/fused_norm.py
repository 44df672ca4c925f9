"""Root mean square norms in one kernel, where Hugging Face's take six."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLRMSNorm
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextRMSNorm


def fuse_norms(module: nn.Module) -> None:
    """Exchange the norms inside `module` in place: the same parameters under the same names. 16-bit results are rounded
    once, after the weight, not before it as well.
    """
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Qwen2_5_VLRMSNorm | Qwen3VLTextRMSNorm):
                setattr(parent, name, _fused(child))


def _fused(norm: Any) -> nn.RMSNorm:
    fused = nn.RMSNorm(len(norm.weight), eps=norm.variance_epsilon, device="meta")
    fused.weight = norm.weight
    return fused
