"""A model under training: Hugging Face's, its loss, and two heads that help it to see."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Qwen2_5_VLForConditionalGeneration

from models.training.loss import IGNORED, Balance, weighted_token_losses
from models.vlm import vision_tower

TRUTH_HEADS_FILE = "truth_heads.safetensors"


@dataclass(frozen=True)
class LossConfig:
    gamma: float = 2.0
    balance: Balance = "frequency"
    detach: bool = False
    # Weight of the truth heads' losses at the first step; it falls to zero in a straight line over the run.
    truth_weight: float = 1.0


@dataclass(frozen=True)
class LossParts:
    """Means over a batch, for the log."""

    state: float
    text: float
    seen: float
    read: float


class TrainingModel(nn.Module):
    """`forward` gives the loss of a batch of `Collator`. Frozen parts are frozen by the caller."""

    accepts_loss_kwargs = True  # tells Trainer that forward takes num_items_in_batch

    def __init__(
        self,
        vlm: Qwen2_5_VLForConditionalGeneration,
        state_token_ids: tuple[int, int, int],
        config: LossConfig,
        truth_sizes: tuple[int, ...] = (),
        tokens_per_frame: int = 0,
    ) -> None:
        super().__init__()
        self.vlm = vlm
        self.config = vlm.config  # where Trainer looks for it
        self.loss_config = config
        self.state_token_ids = state_token_ids
        self.truth_sizes = truth_sizes
        self.tokens_per_frame = tokens_per_frame
        self.truth_weight = config.truth_weight if truth_sizes else 0.0
        hidden_size = vlm.config.text_config.hidden_size
        width = tokens_per_frame * hidden_size
        # What is in a frame, told from its visual tokens (side by side, so that none need say where it stands),
        # and from where the language model decides: so the tower learns to see and the decoder to look.
        heads = {"seen": nn.Linear(width, sum(truth_sizes)), "read": nn.Linear(hidden_size, sum(truth_sizes))}
        self.truth_heads = nn.ModuleDict(heads) if truth_sizes else None
        self.last_parts = LossParts(0.0, 0.0, 0.0, 0.0)

    def hidden_states(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        patches: torch.Tensor,
        patch_grids: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Final hidden states [B, T, H] and the visual tokens [N, H] of all frames of the batch in order."""
        grids = tuple((int(rows), int(cols)) for rows, cols in patch_grids.tolist())
        visual = vision_tower.visual_tokens(self.vlm.model.visual, patches, grids)
        embeds = self.vlm.model.language_model.embed_tokens(input_ids)
        is_image = (input_ids == self.config.image_token_id)[..., None]
        embeds = embeds.masked_scatter(is_image, visual.to(embeds.dtype))
        output = self.vlm.model.language_model(
            inputs_embeds=embeds, position_ids=position_ids, use_cache=False
        )
        return output.last_hidden_state, visual

    def forward(
        self,
        input_ids: torch.Tensor,
        labels: torch.Tensor,
        position_ids: torch.Tensor,
        patches: torch.Tensor,
        patch_grids: torch.Tensor,
        decisions: torch.Tensor,
        truth: torch.Tensor,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> dict[str, torch.Tensor]:
        hidden, visual = self.hidden_states(input_ids, position_ids, patches, patch_grids)
        # The output head only where there is a target: one position in seven.
        chosen = labels[:, 1:] != IGNORED
        targets = labels[:, 1:][chosen]
        logits = self.vlm.lm_head(hidden[:, :-1][chosen])
        config = self.loss_config
        losses = weighted_token_losses(
            logits,
            targets,
            self.state_token_ids,
            config.gamma,
            config.balance,
            config.detach,
        )
        loss = losses.sum() / (max(1, losses.numel()) if num_items_in_batch is None else num_items_in_batch)
        seen = read = torch.zeros((), device=loss.device)
        if self.truth_heads is not None and self.truth_weight > 0:
            if len(visual) != len(truth) * self.tokens_per_frame:
                raise ValueError(
                    f"the truth heads need {self.tokens_per_frame} tokens a frame; use one frame size"
                )
            seen = self._truth_loss("seen", visual.reshape(len(truth), -1), truth)
            read = self._truth_loss("read", hidden.flatten(0, 1)[decisions], truth)
            loss = loss + self.truth_weight * (seen + read)
        is_state = torch.isin(targets, torch.tensor(self.state_token_ids, device=targets.device))
        detached = losses.detach()
        self.last_parts = LossParts(
            state=float(detached[is_state].mean()),
            text=float(detached[~is_state].mean()),
            seen=float(seen.detach()),
            read=float(read.detach()),
        )
        return {"loss": loss}

    def _truth_loss(self, head: str, features: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        assert self.truth_heads is not None
        columns = self.truth_heads[head](features).split(self.truth_sizes, dim=-1)
        return torch.stack([F.cross_entropy(logits, truth[:, k]) for k, logits in enumerate(columns)]).mean()

    def save(self, directory: str | Path) -> None:
        """Write the model as a standard checkpoint; the truth heads beside it are for resuming."""
        self.vlm.save_pretrained(str(directory))
        if self.truth_heads is not None:
            save_file(self.truth_heads.state_dict(), Path(directory) / TRUTH_HEADS_FILE)

    def load(self, directory: str | Path) -> None:
        """Read back what `save` wrote, in place."""
        loaded: Any = Qwen2_5_VLForConditionalGeneration.from_pretrained(str(directory), dtype="auto")
        self.vlm.load_state_dict(loaded.state_dict())
        if self.truth_heads is not None:
            self.truth_heads.load_state_dict(load_file(Path(directory) / TRUTH_HEADS_FILE))
