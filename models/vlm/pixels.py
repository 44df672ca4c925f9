"""Frames to the patch rows that the vision tower reads, and the layout of those rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from models.vlm.frame_size import FrameBudget, read_preprocessor_config


@dataclass(frozen=True)
class PixelFormat:
    """How pixels become numbers: patch geometry and the normalisation of `preprocessor_config.json`."""

    budget: FrameBudget
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    # (x / 255 - mean) / std as one multiply and one add, for each number of a patch row.
    _scale: np.ndarray = field(init=False, repr=False, compare=False)
    _shift: np.ndarray = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        std = np.asarray(self.std, dtype=np.float64)
        shift = -np.asarray(self.mean, dtype=np.float64) / std
        area = self.budget.patch_size**2
        object.__setattr__(self, "_scale", (1.0 / (255.0 * std)).astype(np.float32).repeat(area))
        object.__setattr__(self, "_shift", shift.astype(np.float32).repeat(area))

    @classmethod
    def load(cls, model_dir: str | Path) -> PixelFormat:
        path, config = read_preprocessor_config(model_dir)
        for name in ("image_mean", "image_std"):
            if name not in config:
                raise ValueError(f"{path} has no {name}: three numbers, for red, green and blue")
        mean, std = (tuple(float(value) for value in config[name]) for name in ("image_mean", "image_std"))
        if len(mean) != 3 or len(std) != 3:
            raise ValueError(f"{path}: image_mean and image_std must have three numbers each")
        return cls(budget=FrameBudget.load(model_dir), mean=mean, std=std)

    def patch_grid(self, frame: np.ndarray) -> tuple[int, int]:
        """Rows and columns of *patches* of a frame. ValueError for any other than fitted uint8."""
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
            raise ValueError(f"a frame is uint8 [height, width, 3], got {frame.dtype} {list(frame.shape)}")
        rows, cols = self.budget.grid(frame.shape[0], frame.shape[1])
        return rows * self.budget.merge_size, cols * self.budget.merge_size

    def patchify(self, frames: np.ndarray) -> np.ndarray:
        """uint8 [N, H, W, 3] of one fitted size to float32 [N * patches, 3 * patch * patch].

        Rows are in the tower's order, the patches of one visual token together. Hugging Face's processor
        gives every row twice over, once for each step of the temporal patch; a still frame needs it only
        once.
        """
        num_frames = frames.shape[0]
        patch_rows, patch_cols = self.patch_grid(frames[0])
        patch, merge = self.budget.patch_size, self.budget.merge_size
        pixels = frames.reshape(
            num_frames, patch_rows // merge, merge, patch, patch_cols // merge, merge, patch, 3
        )
        # Put in order while still bytes: a quarter of the memory to move.
        rows = np.ascontiguousarray(pixels.transpose(0, 1, 4, 2, 5, 7, 3, 6))
        scaled = rows.reshape(num_frames * patch_rows * patch_cols, 3 * patch * patch).astype(np.float32)
        scaled *= self._scale
        scaled += self._shift
        return scaled

    def patchify_all(self, frames: Sequence[np.ndarray]) -> tuple[np.ndarray, list[tuple[int, int]]]:
        """Patch rows of frames of any fitted sizes, in their order, and each frame's grid of patches."""
        grids = [self.patch_grid(frame) for frame in frames]
        if len(set(grids)) == 1:
            return self.patchify(np.stack(frames)), grids
        return np.concatenate([self.patchify(frame[None]) for frame in frames]), grids
