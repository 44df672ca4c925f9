"""Passes of the vision tower recorded on a CUDA device and played back.

To queue a tower's kernels one by one takes the host longer than the device needs to run them for a few frames. A
recorded pass is queued at once, but only for the very shapes that it was recorded with.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch

from models.vlm import vision_tower
from models.vlm.cuda_capture import Capture

_log = logging.getLogger(__name__)

BUCKETS = (1, 2, 3, 4, 6, 8, 12, 16)
"""Numbers of frames that passes are recorded for; others are filled up to the next one."""
MAX_GRAPHS = 64
"""Each keeps its input and output, 30 MB for 16 frames of a Qwen2.5-VL-7B; what is between they share."""

Grid = tuple[int, int]


class TowerGraphs:
    """Visual tokens by recorded passes, the `max_graphs` used last kept. Not thread-safe.

    A pass is over frames of one grid of patches. Frames do not see each other, so those that fill a pass up change
    nothing.
    """

    def __init__(self, visual: Any, capture: Capture, max_graphs: int = MAX_GRAPHS) -> None:
        """`visual` as in `vision_tower.visual_tokens`; its weights are to stay where they are."""
        self._visual = visual
        self._capture = capture
        self._max_graphs = max_graphs
        self._graphs: OrderedDict[tuple[Grid, int], _Graph] = OrderedDict()
        self._goes_on_recording = True

    def tokens(self, patches: torch.Tensor, grids: Sequence[Grid]) -> list[torch.Tensor]:
        """Visual tokens [rows * cols / merge^2, visual_size] of each frame, in order; the caller's to keep.

        `patches` and `grids` as in `vision_tower.visual_tokens`.
        """
        frames = patches.split([rows * cols for rows, cols in grids])
        alike: dict[Grid, list[int]] = {}
        for index, grid in enumerate(grids):
            alike.setdefault(grid, []).append(index)
        found: dict[int, torch.Tensor] = {}
        for grid, indices in alike.items():
            for start in range(0, len(indices), BUCKETS[-1]):
                chunk = indices[start : start + BUCKETS[-1]]
                tokens = self._pass(grid, [frames[index] for index in chunk])
                found.update(zip(chunk, tokens.chunk(len(chunk)), strict=True))
        return [found[index] for index in range(len(grids))]

    def _pass(self, grid: Grid, frames: Sequence[torch.Tensor]) -> torch.Tensor:
        size = next(bucket for bucket in BUCKETS if bucket >= len(frames))
        graph = self._graph(grid, size, frames[0])
        if graph is None:
            return vision_tower.visual_tokens(self._visual, torch.cat(list(frames)), (grid,) * len(frames))
        return graph(frames)

    def _graph(self, grid: Grid, size: int, frame: torch.Tensor) -> _Graph | None:
        """None where there is no recording and none can be made."""
        key = (grid, size)
        if key not in self._graphs:
            if not self._goes_on_recording:
                return None
            try:
                graph = _Graph(self._visual, grid, size, frame, self._capture)
            except RuntimeError:
                # The allocator may be left in the midst of it, and would refuse the next one.
                self._goes_on_recording = False
                _log.warning(
                    "the pass of the vision tower over %d frames of %dx%d patches could not be recorded; "
                    "kernels are queued one by one wherever no recording is at hand",
                    size,
                    *grid,
                    exc_info=True,
                )
                return None
            while len(self._graphs) >= self._max_graphs:
                self._graphs.popitem(last=False)
            self._graphs[key] = graph
        self._graphs.move_to_end(key)
        return self._graphs[key]


class _Graph:
    """A recorded pass over `size` frames of one grid. Holds all that it reads where it was when it was recorded."""

    # What is kept is written to later, in whatever mode.
    @torch.inference_mode(False)
    @torch.no_grad()
    def __init__(self, visual: Any, grid: Grid, size: int, frame: torch.Tensor, capture: Capture) -> None:
        """`frame` is the patches of one frame, for their kind only."""
        patches = frame.new_zeros(size * frame.shape[0], frame.shape[1])
        plan = vision_tower.prepare(visual, (grid,) * size, frame.device)

        def run() -> torch.Tensor:
            return vision_tower.run(visual, patches, plan)

        self._size = size
        self._patches = patches
        self._run = run  # holds the weights and the plan
        self._replay = capture(run)

    def __call__(self, frames: Sequence[torch.Tensor]) -> torch.Tensor:
        """Visual tokens of up to `size` frames, one after another, in a tensor of their own."""
        num_rows = len(frames) * frames[0].shape[0]
        torch.cat(list(frames), out=self._patches[:num_rows])
        self._patches[num_rows:].zero_()
        tokens = self._replay()
        return tokens[: len(frames) * tokens.shape[0] // self._size].clone()
