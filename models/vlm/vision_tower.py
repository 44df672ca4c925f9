"""Hugging Face's Qwen2.5-VL vision tower, made fast for many still frames at once; the same numbers."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as qwen
from transformers.vision_utils import get_vision_position_ids, get_vision_window_index


class StillPatchEmbed(qwen.Qwen2_5_VisionPatchEmbed):
    """Patch embedding of still frames: both temporal steps see the same pixels, so their kernels add."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        kernel = self.proj.weight.sum(dim=2).flatten(1)
        return F.linear(hidden_states.to(kernel.dtype), kernel)


class SegmentAttention(qwen.Qwen2_5_VLVisionAttention):
    """Attention within frames or windows as one batched call, not a Python loop over them."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        cu_seqlens: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        max_seqlen: int | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        assert position_embeddings is not None and max_seqlen is not None
        total = hidden_states.shape[0]
        segments = cu_seqlens.shape[0] - 1
        qkv = self.qkv(hidden_states).view(total, 3, self.num_heads, self.head_dim)
        query, key, value = qkv.unbind(1)
        query, key = qwen.apply_rotary_pos_emb_vision(query, key, *position_embeddings)
        if segments * max_seqlen == total:  # all of one length: no padding, no mask
            shape = (segments, max_seqlen, self.num_heads, self.head_dim)
            q, k, v = (rows.reshape(shape).transpose(1, 2) for rows in (query, key, value))
            mixed = F.scaled_dot_product_attention(q, k, v, scale=self.scaling)
            mixed = mixed.transpose(1, 2).reshape(total, self.dim)
        else:
            offsets = torch.arange(max_seqlen, device=cu_seqlens.device)
            is_real = offsets < (cu_seqlens[1:] - cu_seqlens[:-1])[:, None]
            index = (cu_seqlens[:-1, None] + offsets).clamp_max(total - 1)
            q, k, v = (rows[index].transpose(1, 2) for rows in (query, key, value))
            padded = F.scaled_dot_product_attention(
                q, k, v, attn_mask=is_real[:, None, None, :], scale=self.scaling
            ).transpose(1, 2)
            mixed = padded[is_real].reshape(total, self.dim)
        return self.proj(mixed)


def adapt(visual: Any) -> None:
    """Swap the slow parts of a tower for the ones above, in place. Parameters keep their names."""
    visual.patch_embed.__class__ = StillPatchEmbed
    for block in visual.blocks:
        block.attn.__class__ = SegmentAttention


@lru_cache(maxsize=256)
def _layout(
    grids: tuple[tuple[int, int], ...],
    merge_size: int,
    window_size: int,
    patch_size: int,
    device: torch.device,
) -> dict[str, Any]:
    """The tower's index tensors for frames of these patch grids; the same few come again and again."""
    grid_thw = torch.tensor([[1, rows, cols] for rows, cols in grids])
    window_index, cu_windows = get_vision_window_index(grid_thw, merge_size, window_size, patch_size)
    cu_frames = F.pad((grid_thw[:, 1] * grid_thw[:, 2]).cumsum(0, dtype=torch.int32), (1, 0))
    return {
        "position_ids": get_vision_position_ids(grid_thw, merge_size).to(device),
        "window_index": window_index.to(device),
        "cu_seqlens": cu_frames.to(device),
        "max_seqlen": int(cu_frames.diff().max()),
        "cu_window_seqlens": cu_windows.to(device),
        "max_window_seqlen": int(cu_windows.diff().max()),
        "grid_thw": grid_thw.to(device),
    }


def visual_tokens(visual: Any, patches: torch.Tensor, grids: tuple[tuple[int, int], ...]) -> torch.Tensor:
    """Visual tokens of an adapted tower, [sum of rows * cols / merge^2, hidden], frame after frame.

    `patches` are the rows of `PixelFormat.patchify`, `grids` each frame's (rows, cols) of patches.
    """
    config: Any = visual.config
    layout = _layout(grids, config.spatial_merge_size, config.window_size, config.patch_size, patches.device)
    output: torch.Tensor = visual(patches, **layout).pooler_output
    return output
