"""The size a frame is brought to before the model sees it: Qwen's "smart resize" under a pixel budget."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_ASPECT = 200


@dataclass(frozen=True)
class FrameBudget:
    """How many pixels a frame may have, and the grid its visual tokens stand on.

    One visual token covers a square of `unit` pixels a side, so a fitted size is a multiple of `unit` both
    ways.
    """

    min_pixels: int
    max_pixels: int
    patch_size: int = 14
    merge_size: int = 2

    def __post_init__(self) -> None:
        if self.patch_size < 1 or self.merge_size < 1:
            raise ValueError("patch_size and merge_size must be at least 1")
        if not 0 < self.min_pixels <= self.max_pixels:
            raise ValueError(
                f"min_pixels {self.min_pixels} must be positive and at most max_pixels {self.max_pixels}"
            )
        if self.max_pixels < self.unit**2:
            raise ValueError(
                f"max_pixels ({self.max_pixels}) is less than one token of {self.unit}x{self.unit} px"
            )

    @property
    def unit(self) -> int:
        """Side of the square that one visual token covers, in pixels."""
        return self.patch_size * self.merge_size

    @classmethod
    def load(cls, model_dir: str | Path) -> FrameBudget:
        """Read `preprocessor_config.json` of a model directory, in either of its two spellings."""
        path, config = read_preprocessor_config(model_dir)
        size = config.get("size") or {}
        min_pixels = config.get("min_pixels") or size.get("shortest_edge") or size.get("min_pixels")
        max_pixels = config.get("max_pixels") or size.get("longest_edge") or size.get("max_pixels")
        if min_pixels is None or max_pixels is None:
            raise ValueError(f"{path} names no pixel budget; give it min_pixels and max_pixels")
        return cls(
            min_pixels=int(min_pixels),
            max_pixels=int(max_pixels),
            patch_size=int(config.get("patch_size", 14)),
            merge_size=int(config.get("merge_size", 2)),
        )

    def fit(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) a picture of this size is resized to: aspect kept, within the budget.

        Equal to the resize of Hugging Face's Qwen2-VL processor wherever that stays within the budget.
        Raises ValueError for a picture without pixels, or so long and thin that no size fits.
        """
        if height < 1 or width < 1:
            raise ValueError(f"a frame needs at least one pixel each way, got height {height}, width {width}")
        if max(height, width) > MAX_ASPECT * min(height, width):
            raise ValueError(f"a frame of {width}x{height} px is thinner than 1:{MAX_ASPECT}; crop it first")
        unit = self.unit
        fitted_height, fitted_width = round(height / unit) * unit, round(width / unit) * unit
        if fitted_height * fitted_width > self.max_pixels:
            shrink = math.sqrt(height * width / self.max_pixels)
            fitted_height = max(unit, math.floor(height / shrink / unit) * unit)
            fitted_width = max(unit, math.floor(width / shrink / unit) * unit)
        elif fitted_height * fitted_width < self.min_pixels:
            grow = math.sqrt(self.min_pixels / (height * width))
            fitted_height = math.ceil(height * grow / unit) * unit
            fitted_width = math.ceil(width * grow / unit) * unit
        if fitted_height * fitted_width > self.max_pixels:
            raise ValueError(
                f"a frame of {width}x{height} px cannot keep its shape in the budget; crop it first"
            )
        return fitted_height, fitted_width

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of visual tokens of a size that `fit` gave. ValueError for any other."""
        if height < 1 or width < 1 or height % self.unit or width % self.unit:
            raise ValueError(
                f"frame size {width}x{height} px is not a multiple of {self.unit}; resize it with fit()"
            )
        return height // self.unit, width // self.unit

    def num_tokens(self, height: int, width: int) -> int:
        """Visual tokens of a frame whose size `fit` gave."""
        rows, cols = self.grid(height, width)
        return rows * cols


def read_preprocessor_config(model_dir: str | Path) -> tuple[Path, dict[str, Any]]:
    """The file and what it holds. ValueError where a model directory has none."""
    path = Path(model_dir) / "preprocessor_config.json"
    if not path.is_file():
        raise ValueError(f"{path} is missing: copy it from the checkpoint that this one was tuned from")
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return path, config
