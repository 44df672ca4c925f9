"""Hugging Face's vision towers of the Qwen-VL families, run for many still frames at once; the same numbers.

The modules and their parameters are Hugging Face's; the forward is ours. What depends on the frame sizes alone
(window order, positions, which rows attend to which) is worked out once and kept, no layer loops over windows
or frames, and nothing is read back from the device. The families differ in parts that are there or not:
windows of attention (Qwen2.5-VL), learned position embeddings and DeepStack (Qwen3-VL).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from transformers.vision_utils import (
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
    get_vision_window_index,
)

from models.vlm.segments import Segments


def visual_tokens(visual: Any, patches: torch.Tensor, grids: tuple[tuple[int, int], ...]) -> torch.Tensor:
    """Visual tokens [sum of rows * cols / merge^2, visual_size], frame after frame.

    `visual` is the `visual` module of a Hugging Face model; `patches` are the rows of `PixelFormat.patchify`,
    `grids` each frame's (rows, cols) of patches. visual_size is the hidden size of the language model times
    1 + the number of DeepStack layers, whose features stand behind the token itself. Differentiable.
    """
    return run(visual, patches, prepare(visual, grids, patches.device))


def prepare(visual: Any, grids: tuple[tuple[int, int], ...], device: torch.device) -> Plan:
    """All that a pass over frames of these grids of patches needs besides their pixels."""
    config: Any = visual.config
    layout = _layout(
        grids,
        config.spatial_merge_size,
        getattr(config, "window_size", None),
        config.patch_size,
        getattr(visual, "num_grid_per_side", None),
        device,
    )
    places = None
    if layout.taps is not None:
        taps, weights = layout.taps
        places = (visual.pos_embed(taps) * weights[:, :, None]).sum(1)
    tables = visual.rotary_pos_emb(layout.positions, layout.positions)  # asks the first only for its device
    cos, sin = (table.float()[:, None, None] for table in tables)
    first, second = sin.chunk(2, dim=-1)
    return Plan(layout, places, cos, torch.cat([-first, second], dim=-1))


def run(visual: Any, patches: torch.Tensor, plan: Plan) -> torch.Tensor:
    """`visual_tokens` of patches whose frames are those of the plan.

    Only queues work on the device: nothing is copied to it or read back, so that the pass can be captured.
    """
    config: Any = visual.config
    layout = plan.layout
    hidden = _embed_stills(visual.patch_embed.proj, patches)
    if plan.places is not None:
        hidden = hidden + plan.places.to(hidden.dtype)
    if layout.order is not None:
        merged = hidden.unflatten(0, (-1, config.spatial_merge_size**2))
        hidden = merged[layout.order].flatten(0, 1)

    deepstack = list(getattr(config, "deepstack_visual_indexes", ()))
    features = {}
    for number, block in enumerate(visual.blocks):
        segments = layout.windows
        if segments is None or number in config.fullatt_block_indexes:
            segments = layout.frames
        hidden = hidden + _attend(block.attn, block.norm1(hidden), plan, segments)
        hidden = hidden + block.mlp(block.norm2(hidden))
        if number in deepstack:
            level = deepstack.index(number)
            features[level] = visual.deepstack_merger_list[level](hidden)
    tokens: torch.Tensor = visual.merger(hidden)
    if features:
        tokens = torch.cat([tokens, *(features[level] for level in range(len(deepstack)))], dim=1)
    return tokens if layout.restore is None else tokens[layout.restore]


def still_kernel(proj: torch.nn.Conv3d) -> torch.Tensor:
    """The patch embedding's kernel [hidden, 3 * patch^2] for still frames: both of its temporal steps see the same
    pixels, so they add.
    """
    return proj.weight.sum(dim=2).flatten(1)


def _embed_stills(proj: torch.nn.Conv3d | torch.nn.Linear, patches: torch.Tensor) -> torch.Tensor:
    kernel = still_kernel(proj) if isinstance(proj, torch.nn.Conv3d) else proj.weight
    return F.linear(patches.to(kernel.dtype), kernel, proj.bias)


def _attend(attention: Any, hidden: torch.Tensor, plan: Plan, segments: Segments) -> torch.Tensor:
    qkv = attention.qkv(hidden).unflatten(1, (3, attention.num_heads, -1))
    query, key = _rotate(qkv[:, :2], plan).unbind(1)
    output: torch.Tensor = attention.proj(segments.attend(query, key, qkv[:, 2]).flatten(1))
    return output


def _rotate(rows: torch.Tensor, plan: Plan) -> torch.Tensor:
    """Queries and keys [rows, 2, heads, head_dim] turned by their positions, in float32 and then back."""
    first, second = rows.chunk(2, dim=-1)
    swapped = torch.cat([second, first], dim=-1)
    return (rows * plan.cos).addcmul(swapped, plan.sin).to(rows.dtype)


@dataclass(frozen=True, eq=False)
class Plan:
    """What a pass needs besides the pixels, on the device."""

    layout: _Layout
    places: torch.Tensor | None
    """Learned position embeddings [patches, hidden] where the family has them."""
    cos: torch.Tensor
    """float32 [patches, 1, 1, head_dim]."""
    sin: torch.Tensor
    """float32 [patches, 1, 1, head_dim], the first half negated: what the other half of a head is weighed with."""


@dataclass(frozen=True, eq=False)
class _Layout:
    """What the tower needs to know of the frame sizes of a batch."""

    positions: torch.Tensor  # int64 [patches, 2], in the order that the blocks see
    frames: Segments
    windows: Segments | None
    order: torch.Tensor | None  # int64 [tokens], from reading order to window order
    restore: torch.Tensor | None  # and back
    taps: tuple[torch.Tensor, torch.Tensor] | None
    """The four learned position embeddings around each patch, int64 [patches, 4], and their weights."""


@lru_cache(maxsize=256)
@torch.inference_mode(False)  # kept tensors may meet a gradient later, whoever asks first
def _layout(
    grids: tuple[tuple[int, int], ...],
    merge_size: int,
    window_size: int | None,
    patch_size: int,
    position_side: int | None,
    device: torch.device,
) -> _Layout:
    """The same few come again and again."""
    grid_thw = torch.tensor([[1, rows, cols] for rows, cols in grids])
    positions = get_vision_position_ids(grid_thw, merge_size)
    windows = order = restore = taps = None
    if window_size is not None:
        order, offsets = get_vision_window_index(grid_thw, merge_size, window_size, patch_size)
        positions = positions.unflatten(0, (-1, merge_size**2))[order].flatten(0, 1)
        windows = Segments.of(offsets.diff().tolist(), device)
        restore = order.argsort().to(device)
        order = order.to(device)
    if position_side is not None:
        indices, weights = get_vision_interpolation_indices_and_weights(
            grid_thw,
            num_grid_per_side=position_side,
            mode="bilinear",
            align_corners=True,
            spatial_merge_size=merge_size,
        )
        taps = indices.to(device), weights.to(device)
    frames = Segments.of([rows * cols for rows, cols in grids], device)
    return _Layout(positions.to(device), frames, windows, order, restore, taps)
