"""A small model's first lessons: to see what the simulator knows to be there, and to read it where states are decided.

Decisions teach a tower that knows nothing very slowly. A head that reads the truth off the visual tokens teaches it
in minutes. One reads it off all of them side by side, which is soon learnt. Another has their mean alone, as whoever
looks at all of them does, so that each token has to say where in the frame it stands. A third reads it where the state
of a round is decided, half-way up the language model, whose first layers so learn to look at a frame. The last two are
asked for coordinates too, and go on into the main run, where their weight falls to zero, and are dropped after it.
"""

from __future__ import annotations

import math
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

from models.data.sample import TruthSizes
from models.training.dataset import SampleMaker
from models.training.truth_heads import (
    TRUTH_HEADS_FILE,
    CoordinateHead,
    TruthHead,
    half_way_layer,
    means_of_frames,
    normed,
)
from models.vlm import vision_tower
from models.vlm.dialogue import Dialogue
from models.vlm.pixels import PixelFormat
from models.vlm.positions import round_positions
from models.vlm.state import State

_FIRST_SEED = 1_000_000_000
_HEADS = ("side_by_side", "seen", "read", "seen_coordinates", "read_coordinates")


@dataclass(frozen=True)
class WarmUp:
    """A batch is `frames_per_clip` frames, spread evenly, of `clips_per_batch` clips of `clip_rounds` rounds.

    `reading_learning_rate` is for the matrices of the language model. Those that have grown learn all else slowly: at
    0.004 they keep their norms, at 0.02 they come to twice of them.
    """

    max_steps: int = 1250
    clips_per_batch: int = 8
    clip_rounds: int = 24
    frames_per_clip: int = 8
    learning_rate: float = 1.5e-3
    matrix_learning_rate: float = 0.02
    reading_learning_rate: float = 0.004
    warmup_steps: int = 50
    save_every_steps: int = 100


@dataclass(frozen=True)
class SeenFrames:
    """Frames uint8 [n, H, W, 3], what is to be seen in each, int64 [n, columns], and where things are that move,
    float32 [n, coordinates]."""

    frames: np.ndarray
    seen: np.ndarray
    coordinates: np.ndarray


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
        truth = sample.truth
        return SeenFrames(sample.frames[chosen], truth.seen[chosen], truth.coordinates[chosen])


@dataclass(frozen=True)
class SeenFramesCollator:
    pixels: PixelFormat

    def __call__(self, items: Sequence[SeenFrames]) -> dict[str, Any]:
        patches, grids = self.pixels.patchify_all([frame for item in items for frame in item.frames])
        return {
            "patches": torch.from_numpy(patches),
            "patch_grids": torch.tensor(grids),
            "seen": torch.from_numpy(np.concatenate([item.seen for item in items])),
            "coordinates": torch.from_numpy(np.concatenate([item.coordinates for item in items])),
        }


class WarmUpModel(nn.Module):
    """`forward` gives the loss of a batch of `SeenFramesCollator`. Only the tower, the language model's layers up to
    half-way and the heads are trained."""

    def __init__(
        self,
        vlm: Qwen2_5_VLForConditionalGeneration,
        sizes: TruthSizes,
        dialogue: Dialogue,
        grid: tuple[int, int],
        num_rounds: int,
    ) -> None:
        """`sizes`: of what is seen. `grid`: of a frame's visual tokens. `num_rounds`: frames of a clip, in a batch one
        behind the other."""
        super().__init__()
        self.vlm = vlm.requires_grad_(False)
        text = vlm.model.language_model
        self._layers = text.layers[: half_way_layer(len(text.layers)) + 1]
        for part in (vlm.model.visual, self._layers):
            part.requires_grad_(True)
        self.config = vlm.config  # where Trainer looks for it
        self._tokens_per_frame = math.prod(grid)
        hidden_size = vlm.config.text_config.hidden_size
        self.side_by_side = TruthHead(self._tokens_per_frame * hidden_size, sizes.seen)
        self.seen = TruthHead(hidden_size, sizes.seen)
        self.read = TruthHead(hidden_size, sizes.seen)
        self.seen_coordinates = CoordinateHead(hidden_size, sizes.coordinates)
        self.read_coordinates = CoordinateHead(hidden_size, sizes.coordinates)
        token_ids, self._decisions = _silent_rounds(dialogue, self._tokens_per_frame, num_rounds)
        positions, _ = round_positions(token_ids, dialogue.image_token_id, grid, start=0)
        self._token_ids = torch.tensor(token_ids)
        self._positions = torch.from_numpy(positions)
        self._image_token_id = dialogue.image_token_id
        self.last_parts: dict[str, torch.Tensor] = {}

    def forward(
        self,
        patches: torch.Tensor,
        patch_grids: torch.Tensor,
        seen: torch.Tensor,
        coordinates: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        visual = self._visual_tokens(patches, patch_grids)
        means, decided = means_of_frames(visual, self._tokens_per_frame), self._decided(visual)
        losses = {
            "side_by_side": self.side_by_side(visual.reshape(len(seen), -1), seen),
            "seen": self.seen(means, seen),
            "read": self.read(decided, seen),
            "seen_coordinates": self.seen_coordinates(means, coordinates),
            "read_coordinates": self.read_coordinates(decided, coordinates),
        }
        self.last_parts = {name: loss.detach() for name, loss in losses.items()}
        return {"loss": torch.stack([*losses.values()]).sum()}

    @torch.no_grad()
    def accuracy(
        self,
        patches: torch.Tensor,
        patch_grids: torch.Tensor,
        seen: torch.Tensor,
        coordinates: torch.Tensor,
    ) -> tuple[torch.Tensor, float]:
        """Read where states are decided: share of right classes of each column of what is seen, and how far off
        coordinates are (`off_by`)."""
        decided = self._decided(self._visual_tokens(patches, patch_grids))
        return self.read.accuracy(decided, seen), self.read_coordinates.off_by(decided, coordinates)

    def _visual_tokens(self, patches: torch.Tensor, patch_grids: torch.Tensor) -> torch.Tensor:
        grids = tuple((int(rows), int(cols)) for rows, cols in patch_grids.tolist())
        return vision_tower.visual_tokens(self.vlm.model.visual, patches, grids)

    def _decided(self, visual: torch.Tensor) -> torch.Tensor:
        """[N, hidden], half-way up where the states of N frames are decided, of visual [N * tokens, hidden]."""
        text = self.vlm.model.language_model
        token_ids, positions = self._token_ids.to(visual.device), self._positions.to(visual.device)
        is_image = token_ids == self._image_token_id
        of_clips = visual.reshape(-1, int(is_image.sum()), visual.shape[-1])
        hidden = text.embed_tokens(token_ids).expand(len(of_clips), -1, -1)
        hidden = hidden.masked_scatter(is_image[:, None], of_clips)
        rotation = text.rotary_emb(hidden, positions[:, None].expand(-1, len(of_clips), -1))
        is_past = torch.ones(len(is_image), len(is_image), dtype=torch.bool, device=visual.device).tril()
        for layer in self._layers:
            hidden = layer(hidden, attention_mask=is_past[None, None], position_embeddings=rotation)
        decided = hidden[:, self._decisions].flatten(0, 1)
        return normed(decided)

    def save(self, directory: str | Path, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        """Write a standard checkpoint, and the heads where `TrainingModel` looks for those it goes on with."""
        self.vlm.save_pretrained(str(directory))
        save_file(self._heads().state_dict(), Path(directory) / TRUTH_HEADS_FILE)

    def load(self, directory: str | Path) -> None:
        """Read back what `save` wrote, in place."""
        loaded: Any = Qwen2_5_VLForConditionalGeneration.from_pretrained(str(directory), dtype="auto")
        self.vlm.load_state_dict(loaded.state_dict())
        self._heads().load_state_dict(load_file(Path(directory) / TRUTH_HEADS_FILE))

    def _heads(self) -> nn.ModuleDict:
        return nn.ModuleDict({name: getattr(self, name) for name in _HEADS})


def _silent_rounds(dialogue: Dialogue, tokens_per_frame: int, num_rounds: int) -> tuple[list[int], list[int]]:
    """Token ids of a dialogue of a second a round, and where its states are decided."""
    token_ids: list[int] = []
    decisions = []
    for second in range(num_rounds):
        token_ids += dialogue.round_head(second * 1000, (second + 1) * 1000, tokens_per_frame)
        decisions.append(len(token_ids) - 1)
        token_ids += [*dialogue.reply(State.SILENCE), *dialogue.round_tail]
    return token_ids, decisions
