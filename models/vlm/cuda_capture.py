"""Work on a CUDA device, recorded once and played back: the host then queues it at once instead of kernel by kernel."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import torch

Compute = Callable[[], torch.Tensor]
Capture = Callable[[Compute], Compute]
"""Records a function that only queues work on the device. What it gives does that work again and hands out the same
tensor each time, with the new result in it.
"""


class CudaCapture:
    """Records as CUDA graphs, which share the memory of what is between input and output: one runs at a time."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, compute: Compute) -> Compute:
        """RuntimeError where the device refuses to record it."""
        current = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.stream(self._stream):
                # Libraries set themselves up and choose their kernels, which must not be recorded.
                for _ in range(2):
                    compute()
                # Other threads go on using the device meanwhile.
                with torch.cuda.graph(
                    graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
                ):
                    output = compute()
        except RuntimeError:
            # What breaks off stays open in the allocator, which then refuses the next recording and to free memory.
            with suppress(RuntimeError):
                torch._C._cuda_endAllocateToPool(self._stream.device_index, self._pool)
            raise
        current.wait_stream(self._stream)

        def replay() -> torch.Tensor:
            graph.replay()
            return output

        return replay
