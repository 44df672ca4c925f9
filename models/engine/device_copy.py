"""Integer arrays on their way to the device, none of which waits for what a GPU is at."""

from __future__ import annotations

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
    starts, end = [], 0
    for array in arrays:
        starts.append(end)
        end += -(-array.size // _ALIGNMENT) * _ALIGNMENT
    on_host = torch.empty(end, dtype=torch.int32, pin_memory=device.type == "cuda")
    packed = on_host.numpy()
    for start, array in zip(starts, arrays, strict=True):
        packed[start : start + array.size] = array.reshape(-1)
    on_device = on_host.to(device, non_blocking=True)
    return [
        on_device[start : start + array.size].view(array.shape)
        for start, array in zip(starts, arrays, strict=True)
    ]
