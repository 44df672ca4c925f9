"""The vision tower's first lessons: to see what the simulator knows to be there, one frame at a time.

Decisions teach a tower that knows nothing very slowly. A head that reads the truth off the visual tokens teaches it
in minutes. One reads it off all of them side by side, which is soon learnt. Another has their mean alone, as whoever
looks at all of them does, so that each token has to say where in the frame it stands; that head goes on into the main
run, where its weight falls to zero, and is dropped after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import Dataset
from transformers import Qwen2_5_VLForConditionalGeneration

from models.training.dataset import SampleMaker
from models.training.truth_heads import TRUTH_HEADS_FILE, TruthHead, TruthShape, means_of_frames
from models.vlm import vision_tower
from models.vlm.pixels import PixelFormat

_FIRST_SEED = 1_000_000_000


@dataclass(frozen=True)
class WarmUp:
    """A batch is `frames_per_clip` frames, spread evenly, of `clips_per_batch` clips of `clip_rounds` rounds."""

    max_steps: int = 1000
    clips_per_batch: int = 8
    clip_rounds: int = 24
    frames_per_clip: int = 8
    learning_rate: float = 1.5e-3
    matrix_learning_rate: float = 0.02
    warmup_steps: int = 50
    save_every_steps: int = 100


@dataclass(frozen=True)
class SeenFrames:
    """Frames uint8 [n, H, W, 3] and what is to be seen in each, int64 [n, columns]."""

    frames: np.ndarray
    truth: np.ndarray


class SeenFramesDataset(Dataset[SeenFrames]):
    """Frames of one clip; item i depends on i alone. Their seeds are far from those of the main run."""

    def __init__(self, make_sample: SampleMaker, split: str, length: int, plan: WarmUp) -> None:
        self._make_sample = make_sample
        self._split = split
        self._length = length
        self._plan = plan

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> SeenFrames:
        if not 0 <= index < self._length:
            raise IndexError(index)
        plan = self._plan
        sample = self._make_sample(_FIRST_SEED + index, self._split, plan.clip_rounds)
        chosen = np.arange(plan.frames_per_clip) * plan.clip_rounds // plan.frames_per_clip
        return SeenFrames(sample.frames[chosen], sample.truth.seen[chosen])


@dataclass(frozen=True)
class SeenFramesCollator:
    pixels: PixelFormat

    def __call__(self, items: Sequence[SeenFrames]) -> dict[str, Any]:
        patches, grids = self.pixels.patchify_all([frame for item in items for frame in item.frames])
        return {
            "patches": torch.from_numpy(patches),
            "patch_grids": torch.tensor(grids),
            "truth": torch.from_numpy(np.concatenate([item.truth for item in items])),
        }


class WarmUpModel(nn.Module):
    """`forward` gives the loss of a batch of `SeenFramesCollator`. Only the tower and the heads are trained."""

    def __init__(self, vlm: Qwen2_5_VLForConditionalGeneration, truth: TruthShape) -> None:
        super().__init__()
        self.vlm = vlm.requires_grad_(False)
        self.vlm.model.visual.requires_grad_(True)
        self.config = vlm.config  # where Trainer looks for it
        self._tokens_per_frame = truth.tokens_per_frame
        hidden_size = vlm.config.text_config.hidden_size
        self.side_by_side = TruthHead(truth.tokens_per_frame * hidden_size, truth.sizes.seen)
        self.seen = TruthHead(hidden_size, truth.sizes.seen)
        self.last_parts: dict[str, torch.Tensor] = {}

    def forward(
        self, patches: torch.Tensor, patch_grids: torch.Tensor, truth: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        visual = self._visual_tokens(patches, patch_grids)
        side_by_side = self.side_by_side(visual.reshape(len(truth), -1), truth)
        seen = self.seen(means_of_frames(visual, self._tokens_per_frame), truth)
        self.last_parts = {"side_by_side": side_by_side.detach(), "seen": seen.detach()}
        return {"loss": side_by_side + seen}

    @torch.no_grad()
    def accuracy(self, patches: torch.Tensor, patch_grids: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        """Share of right classes of each column of the truth, read off the mean."""
        visual = self._visual_tokens(patches, patch_grids)
        return self.seen.accuracy(means_of_frames(visual, self._tokens_per_frame), truth)

    def _visual_tokens(self, patches: torch.Tensor, patch_grids: torch.Tensor) -> torch.Tensor:
        grids = tuple((int(rows), int(cols)) for rows, cols in patch_grids.tolist())
        return vision_tower.visual_tokens(self.vlm.model.visual, patches, grids)

    def save(self, directory: str | Path, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        """Write a standard checkpoint, and the heads where `TrainingModel` looks for the one it goes on with."""
        self.vlm.save_pretrained(str(directory))
        save_file(self._heads().state_dict(), Path(directory) / TRUTH_HEADS_FILE)

    def load(self, directory: str | Path) -> None:
        """Read back what `save` wrote, in place."""
        loaded: Any = Qwen2_5_VLForConditionalGeneration.from_pretrained(str(directory), dtype="auto")
        self.vlm.load_state_dict(loaded.state_dict())
        self._heads().load_state_dict(load_file(Path(directory) / TRUTH_HEADS_FILE))

    def _heads(self) -> nn.ModuleDict:
        return nn.ModuleDict({"side_by_side": self.side_by_side, "seen": self.seen})
