"""What a small model is asked besides its replies, so that it learns to see and to compare. Dropped after training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from models.data.sample import Truth, TruthSizes
from models.training.loss import IGNORED
from models.training.past_times import NUM_CLASSES

TRUTH_HEADS_FILE = "truth_heads.safetensors"


@dataclass(frozen=True)
class TruthShape:
    """What the truth heads are told about each frame. `tokens_per_frame`: visual tokens, the same for every frame."""

    sizes: TruthSizes
    tokens_per_frame: int


class TruthBatch(TypedDict):
    """The truth of N frames of one or more examples: int64 [N, columns] each."""

    seen: torch.Tensor
    acts: torch.Tensor
    asked: torch.Tensor


def truth_batch(truths: Sequence[Truth]) -> TruthBatch:
    asked = [np.broadcast_to(truth.asked, (len(truth.seen), len(truth.asked))) for truth in truths]
    return TruthBatch(
        seen=torch.from_numpy(np.concatenate([truth.seen for truth in truths])),
        acts=torch.from_numpy(np.concatenate([truth.acts for truth in truths])),
        asked=torch.from_numpy(np.concatenate(asked)),
    )


class TruthHead(nn.Module):
    """Classes of truth columns, read off features by one linear map."""

    def __init__(self, width: int, sizes: Sequence[int]) -> None:
        super().__init__()
        self.sizes = list(sizes)
        self.linear = nn.Linear(width, sum(self.sizes))

    def forward(self, features: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        """Mean cross entropy of features [N, width] against truth [N, columns], of which some may be IGNORED."""
        return self._losses(features, truth).sum() / (truth != IGNORED).sum().clamp(min=1)

    def balanced(self, features: torch.Tensor, truth: torch.Tensor, is_rare: torch.Tensor) -> torch.Tensor:
        """Mean cross entropy where `is_rare`, bool [N, columns], and that where it is not, added up."""
        losses = self._losses(features, truth)
        rare = losses[is_rare]
        return losses[~is_rare].mean() + (rare.mean() if len(rare) else rare.sum())

    @torch.no_grad()
    def accuracy(self, features: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        """Share of right classes of each column."""
        columns = self.linear(features).split(self.sizes, dim=-1)
        right = [(logits.argmax(-1) == truth[:, k]).float().mean() for k, logits in enumerate(columns)]
        return torch.stack(right)

    def _losses(self, features: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        columns = self.linear(features).split(self.sizes, dim=-1)
        losses = [
            F.cross_entropy(logits, truth[:, k], reduction="none", ignore_index=IGNORED)
            for k, logits in enumerate(columns)
        ]
        return torch.stack(losses, dim=1)


class TruthHeads(nn.Module):
    """Heads on a model's way from pictures to decisions.

    `seen`: what is in a frame, from its visual tokens, side by side, so that none need say where it stands. `read`:
    the same, from where the state is decided, half-way up the layers. `before` and `changed`, from the same place
    higher up: what was in the frame before, and what has come to be since (class 0: nothing has). Without the last
    two a model learns to go on with what it decided last, and not to compare: of two frames' features no single one
    says that they differ. Little changes from frame to frame, so in both what has changed weighs as much as all else.
    `acts` and `asked`, from there too: what goes on, asked for or not, weighed likewise, and what the instruction asks
    for. Only where the two are the same is there anything to tell, and what is asked for is rare: from states alone a
    model learns to go by what happens, or to say nothing.
    `understood`: what is asked for, half-way up where the instruction ends, so that there is one token to look at.
    `times`: letters of times that stand in the history, from the same height, see `PastTimes`: replies that name a time
    are too rare to learn from them alone how one is looked up.
    """

    def __init__(self, shape: TruthShape, hidden_size: int) -> None:
        super().__init__()
        self.shape = shape
        seen, acts, asked = shape.sizes
        self.seen = TruthHead(shape.tokens_per_frame * hidden_size, seen)
        self.read = TruthHead(hidden_size, seen)
        self.before = TruthHead(hidden_size, seen)
        self.changed = TruthHead(hidden_size, [1 + size for size in seen])
        self.acts = TruthHead(hidden_size, acts)
        self.understood = TruthHead(hidden_size, asked)
        self.asked = TruthHead(hidden_size, asked)
        self.times = TruthHead(hidden_size, [NUM_CLASSES])

    def what_is_seen(
        self,
        visual: torch.Tensor,
        half_way: torch.Tensor,
        higher_up: torch.Tensor,
        seen: torch.Tensor,
        is_first: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """Losses of the first four, for N frames: visual [N * tokens, hidden], half_way and higher_up [N, hidden] where
        each frame's state is decided, seen [N, K]; is_first, bool [N]: the frame has none before it.
        """
        if len(visual) != len(seen) * self.shape.tokens_per_frame:
            raise ValueError(
                f"the truth heads need {self.shape.tokens_per_frame} tokens a frame; use one frame size"
            )
        losses = {
            "seen": self.seen(visual.reshape(len(seen), -1), seen),
            "read": self.read(_normed(half_way), seen),
        }
        later = (~is_first).nonzero().flatten()
        if len(later):
            features, now, before = _normed(higher_up[later]), seen[later], seen[later - 1]
            has_changed = now != before
            losses["before"] = self.before.balanced(features, before, has_changed)
            losses["changed"] = self.changed.balanced(features, (now + 1) * has_changed, has_changed)
        return losses

    def what_goes_on(self, higher_up: torch.Tensor, acts: torch.Tensor) -> torch.Tensor:
        """Loss of what is under way, [N, A], read off higher_up [N, hidden] where a state is decided."""
        return self.acts.balanced(_normed(higher_up), acts, acts != 0)

    def what_is_asked(self, higher_up: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
        """Loss of what is asked for, [n, columns], read off higher_up [n, hidden] where a state is decided."""
        return self.asked(_normed(higher_up), asked)

    def understood_at_once(self, half_way: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
        """The same, read off half_way [n, hidden] where the instruction ends."""
        return self.understood(_normed(half_way), asked)

    def past_times(self, higher_up: torch.Tensor, letters: torch.Tensor) -> torch.Tensor:
        """Loss of the M letters of `PastTimes`: higher_up [M, hidden] where they are asked for."""
        return self.times(_normed(higher_up), letters[:, None])


def _normed(hidden: torch.Tensor) -> torch.Tensor:
    return F.rms_norm(hidden, hidden.shape[-1:])
