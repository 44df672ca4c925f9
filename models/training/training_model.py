"""A model under training: Hugging Face's, its loss, and the heads that help a small one to see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForImageTextToText

from models.training.bundled_packing import BundledPacking
from models.training.loss import IGNORED, Balance, weighted_token_losses
from models.training.other_decisions import OtherDecisions
from models.training.other_dialogue import OtherDialogueBatch
from models.training.packing import PACKED_ATTENTION, Look, Packing, Stretch
from models.training.truth_heads import (
    HEADS_OF_WHAT_IS_SEEN,
    TRUTH_HEADS_FILE,
    Heights,
    TruthBatch,
    TruthHeads,
    TruthShape,
    half_way_layer,
)
from models.vlm import vision_tower
from models.vlm.last_layer import LastLayer, Wanted
from models.vlm.model import FAMILIES


@dataclass(frozen=True)
class LossConfig:
    gamma: float = 2.0
    balance: Balance = "frequency"
    # Silence, Standby, Response in what is learnt, for the balance over a whole data set; None: over each batch.
    class_counts: tuple[int, int, int] | None = None
    # Weight of the truth heads' losses at the first step; it falls to zero in a straight line over the run.
    truth_weight: float = 1.0
    # Of a reply's words beside the states, which are many more.
    text_weight: float = 1.0
    # Beside the other heads, the weight of those that are asked what each frame shows, and what has changed. A model
    # that knows needs little of it, and has room for more.
    seen_weight: float = 1.0


class TrainingModel(nn.Module):
    """`forward` gives the loss of a batch of `Collator`. Frozen parts are frozen by the caller.

    The model's own language half runs over packed sequences, with exact rotary angles, as it is served.
    """

    accepts_loss_kwargs = True  # tells Trainer that forward takes num_items_in_batch

    def __init__(
        self,
        vlm: Any,
        state_token_ids: tuple[int, int, int],
        config: LossConfig,
        truth: TruthShape | None = None,
        *,
        trims_last_layer: bool = False,
    ) -> None:
        """`vlm` is one of Hugging Face's `...ForConditionalGeneration` of a known family; it is changed in place.

        `trims_last_layer`: leave out the last layer's work where nothing is learnt; not with gradient checkpointing.
        """
        super().__init__()
        self.vlm = vlm
        self.config = vlm.config  # where Trainer looks for it
        self.loss_config = config
        self.state_token_ids = state_token_ids
        self._trims_last_layer = trims_last_layer
        text = vlm.model.language_model
        text.rotary_emb = FAMILIES[vlm.config.model_type].rotary(vlm.config.text_config)
        text.set_attn_implementation(PACKED_ATTENTION)
        if trims_last_layer:
            text.layers[-1] = LastLayer(text.layers[-1])
        self.truth_weight = config.truth_weight if truth is not None else 0.0
        self.truth_heads = None
        self._on_the_way: dict[str, torch.Tensor] = {}
        self._shares: dict[str, torch.Tensor] = {}
        self._heads: dict[str, tuple[str, int, int]] = {}
        self._other_decisions: OtherDecisions | None = None
        self._higher_up = 0
        if truth is not None:
            self.truth_heads = TruthHeads(truth, vlm.config.text_config.hidden_size)
            num_layers = len(text.layers)
            if num_layers < 3:
                raise ValueError("the truth heads need a language model of at least three layers")
            half_way = half_way_layer(num_layers)
            # Never the last layer, which may leave out what is not wanted and has to decide.
            higher_up = self._higher_up = min(half_way + 1, num_layers - 2)
            for name, layer in (
                ("lower_down", half_way - 1),
                ("half_way", half_way),
                ("higher_up", higher_up),
            ):
                self._keep(name, text.layers[layer])
            last_head = vlm.config.text_config.num_attention_heads - 1
            # Name -> where to look, layer, head. The first and the last of a layer, so that they can have keys of their
            # own; a frame takes the values of both.
            self._heads = {
                "frame": ("frame", 0, 0),
                "frame_too": ("frame", 0, last_head),
                "change": ("change", 0, last_head),
                "before": ("before", half_way, last_head),
                "reply": ("reply", higher_up, 0),
                "state": ("state", half_way, last_head),
                "time": ("time", higher_up, last_head),
                "instruction": ("instruction", half_way, 0),
            }
            self._other_decisions = OtherDecisions(text.layers, self._heads["instruction"][1:])
            for layer in {layer for _, layer, _ in self._heads.values()}:
                self._keep_shares(text.layers[layer].self_attn)
        self.last_parts: dict[str, torch.Tensor] = {}
        """Means of the last batch, for the log; left on the device."""

    def forward(
        self,
        input_ids: torch.Tensor,
        labels: torch.Tensor,
        position_ids: torch.Tensor,
        patches: torch.Tensor,
        patch_grids: torch.Tensor,
        stretches: Sequence[Sequence[Stretch]],
        truth: TruthBatch | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> dict[str, torch.Tensor]:
        """`loss`; where the model is not training also the `logits` [n, V] that predict the `targets` [n].

        Labels [1, T] are unshifted. The sum of the losses is divided by `num_items_in_batch`, by default the number
        of targets.
        """
        at = (labels[0] != IGNORED).nonzero().flatten() - 1
        targets = labels[0, at + 1]
        asked = truth if self.truth_weight > 0 else None
        hidden, visual = self._hidden_states(
            input_ids,
            position_ids,
            stretches,
            patches,
            patch_grids,
            at,
            {} if asked is None else self._looks(asked),
        )
        # The output head only where there is a target: one position in seven.
        logits = self.vlm.lm_head(hidden)
        config = self.loss_config
        losses = weighted_token_losses(
            logits,
            targets,
            self.state_token_ids,
            config.gamma,
            config.balance,
            class_counts=config.class_counts,
        )
        is_state = torch.isin(targets, torch.tensor(self.state_token_ids, device=targets.device))
        self._note_parts(losses.detach(), is_state)
        losses = torch.where(is_state, losses, config.text_weight * losses)
        num_targets = losses.numel() if num_items_in_batch is None else num_items_in_batch
        loss = losses.sum() / torch.as_tensor(num_targets).clamp_min(1)
        if asked is not None:
            parts = self._truth_losses(visual, asked)
            parts["turn"] = self._loss_at_turns(hidden, at, input_ids[0], labels[0], asked)
            if asked["others"] is not None:
                parts |= self._losses_of_others(asked["others"])
            weights = dict.fromkeys(HEADS_OF_WHAT_IS_SEEN, config.seen_weight)
            weighted = [weights.get(name, 1.0) * part for name, part in parts.items()]
            loss = loss + self.truth_weight * torch.stack(weighted).sum()
            self.last_parts |= {name: part.detach() for name, part in parts.items()}
        self._on_the_way.clear()
        self._shares.clear()
        if self._other_decisions is not None:
            self._other_decisions.forget()
        return {"loss": loss} if self.training else {"loss": loss, "logits": logits, "targets": targets}

    def _hidden_states(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        stretches: Sequence[Sequence[Stretch]],
        patches: torch.Tensor,
        patch_grids: torch.Tensor,
        wanted: torch.Tensor,
        looks: Mapping[str, Look],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Final hidden states [n, H] of the wanted tokens, and the visual tokens [N, ...] of all frames in order."""
        grids = tuple((int(rows), int(cols)) for rows, cols in patch_grids.tolist())
        tower, text = self.vlm.model.visual, self.vlm.model.language_model
        visual = vision_tower.visual_tokens(tower, patches, grids)
        embeds = text.embed_tokens(input_ids)
        is_image = input_ids == self.config.image_token_id
        first, *deepstack = visual.to(embeds.dtype).split(embeds.shape[-1], dim=1)
        embeds = embeds.masked_scatter(is_image[..., None], first)
        packing = self._packing(stretches, looks)
        extra: dict[str, Any] = {"packing": packing}
        if deepstack:
            extra |= {"visual_pos_masks": is_image, "deepstack_visual_embeds": deepstack}
        if self._trims_last_layer:
            extra["wanted"] = Wanted(wanted, {"packing": packing.only(wanted)})
        output = text(inputs_embeds=embeds, position_ids=position_ids, use_cache=False, **extra)
        hidden = output.last_hidden_state[0]
        return (hidden if self._trims_last_layer else hidden[wanted]), visual

    def _packing(
        self, stretches: Sequence[Sequence[Stretch]], looks: Mapping[str, Look]
    ) -> Packing | BundledPacking:
        inv_freq = self.vlm.model.language_model.rotary_emb.inv_freq
        is_plain = not looks and all(len(of_example) == 1 for of_example in stretches)
        kind = BundledPacking if inv_freq.is_cuda and not is_plain else Packing
        return kind.of(stretches, inv_freq.device, inv_freq, looks)

    def _looks(self, truth: TruthBatch) -> dict[str, Look]:
        looks = truth["looks"]
        return {
            name: Look(layer, head, *looks[where])
            for name, (where, layer, head) in self._heads.items()
            if where in looks
        }

    def _truth_losses(self, visual: torch.Tensor, truth: TruthBatch) -> dict[str, torch.Tensor]:
        assert self.truth_heads is not None
        losses: dict[str, torch.Tensor] = self.truth_heads(
            visual,
            Heights(**{name: hidden[0] for name, hidden in self._on_the_way.items()}),
            truth,
            asks_what_is_seen=self.loss_config.seen_weight > 0,
        )
        looks = {f"look_{name}": -shares.sum() / max(1, len(shares)) for name, shares in self._shares.items()}
        return losses | looks

    def _loss_at_turns(
        self,
        hidden: torch.Tensor,
        at: torch.Tensor,
        token_ids: torch.Tensor,
        labels: torch.Tensor,
        truth: TruthBatch,
    ) -> torch.Tensor:
        """hidden [n, H] of the tokens `at`, int64 [n], of which what comes next is learnt; token_ids, labels [T]."""
        assert self.truth_heads is not None
        ids = torch.tensor(self.state_token_ids, device=labels.device)
        decisions = truth["decisions"]
        before = token_ids[decisions + 1].roll(1).masked_fill(truth["is_first"], self.state_token_ids[0])
        right = labels[decisions + 1]
        is_learnt = right != IGNORED
        states = (right[is_learnt, None] == ids).int().argmax(1)
        is_turn = (right != before)[is_learnt]
        return self.truth_heads.at_turns(hidden[torch.isin(at, decisions)], states, is_turn)

    def _losses_of_others(self, others: OtherDialogueBatch) -> dict[str, torch.Tensor]:
        assert self.truth_heads is not None and self._other_decisions is not None
        text = self.vlm.model.language_model
        hidden = self._other_decisions.hidden_states(others)
        last = text.norm(hidden[len(text.layers) - 1])
        return self.truth_heads.of_others(hidden[self._higher_up], last, others)

    def _keep_shares(self, attention: nn.Module) -> None:
        """Has what was looked at in this layer at hand after each forward pass."""

        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            self._shares |= output[1]

        attention.register_forward_hook(keep)

    def _keep(self, name: str, layer: nn.Module) -> None:
        """Has what the layer gives, [1, T, H], at hand after each forward pass."""

        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            self._on_the_way[name] = output[0] if isinstance(output, tuple) else output

        layer.register_forward_hook(keep)

    def _note_parts(self, losses: torch.Tensor, is_state: torch.Tensor) -> None:
        parts = {"state": losses[is_state], "text": losses[~is_state]}
        self.last_parts = {name: part.mean() for name, part in parts.items() if len(part)}

    def save(self, directory: str | Path, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        """Write the model as a standard checkpoint; the truth heads beside it are for resuming.

        `state_dict`: this module's, gathered by the caller where it is sharded.
        """
        whole = self.state_dict() if state_dict is None else state_dict
        own = {name.removeprefix("vlm."): tensor for name, tensor in whole.items() if name.startswith("vlm.")}
        self.vlm.save_pretrained(str(directory), state_dict=own)
        if self.truth_heads is not None:
            save_file(self.truth_heads.state_dict(), Path(directory) / TRUTH_HEADS_FILE)

    def load(self, directory: str | Path) -> None:
        """Read back what `save` wrote, in place."""
        loaded = AutoModelForImageTextToText.from_pretrained(str(directory), dtype="auto")
        self.vlm.load_state_dict(loaded.state_dict())
        if self.truth_heads is not None:
            self.truth_heads.load_state_dict(load_file(Path(directory) / TRUTH_HEADS_FILE))
