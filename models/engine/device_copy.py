"""Integer arrays on their way to the device, none of which waits for what a GPU is at."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

# Arrays begin on 16 bytes, which kernels may rely on.
_ALIGNMENT = 4


def to_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """The array as a tensor of its own type. Does not wait for a GPU: the copy is queued from pinned memory."""
    on_host = torch.from_numpy(array)
    if device.type == "cuda":
        on_host = on_host.pin_memory()
    return on_host.to(device, non_blocking=True)


def copy_to_device(arrays: Sequence[np.ndarray], device: torch.device) -> list[torch.Tensor]:
    """Each array as an int32 tensor of its shape, all of them in one copy that does not wait for a GPU either.

    Values must fit into 31 bits, as slots and lengths do.
    """
    shapes = [array.shape for array in arrays]
    on_host = torch.empty(packed_size(shapes), dtype=torch.int32, pin_memory=device.type == "cuda")
    for place, array in zip(unpacked(on_host, shapes), arrays, strict=True):
        place.numpy()[...] = array
    return unpacked(on_host.to(device, non_blocking=True), shapes)


def packed_size(shapes: Sequence[tuple[int, ...]]) -> int:
    """Elements of one array that holds arrays of these shapes."""
    return sum(_padded(shape) for shape in shapes)


def unpacked(packed: torch.Tensor, shapes: Sequence[tuple[int, ...]]) -> list[torch.Tensor]:
    """Views of these shapes, one behind the other, of a tensor of at least `packed_size`."""
    views, start = [], 0
    for shape in shapes:
        views.append(packed[start : start + math.prod(shape)].view(shape))
        start += _padded(shape)
    return views


def _padded(shape: tuple[int, ...]) -> int:
    return -(-math.prod(shape) // _ALIGNMENT) * _ALIGNMENT
