"""Work on a CUDA device, recorded once and played back: the host then queues it at once instead of kernel by kernel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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
        """RuntimeError where the device refuses to record it; it may then refuse whatever follows as well."""
        current = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(self._stream):
            # Libraries set themselves up and choose their kernels, which must not be recorded.
            for _ in range(2):
                compute()
            # Other threads go on using the device meanwhile.
            with torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
            ):
                output = compute()
        current.wait_stream(self._stream)
        return _Recording(graph, output, compute)


@dataclass(frozen=True, eq=False)
class _Recording:
    """`compute` is kept for all that it reads: a graph knows addresses alone."""

    graph: torch.cuda.CUDAGraph
    output: torch.Tensor
    compute: Compute

    def __call__(self) -> torch.Tensor:
        self.graph.replay()
        return self.output
