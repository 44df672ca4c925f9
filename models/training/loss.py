"""Cross entropy with focal, balanced weights on the state tokens, so that rare decisions do not drown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F

Balance = Literal["frequency", "class_balanced"] | None
IGNORED = -100
CLASS_BALANCED_BETA = 0.9999


def state_focal_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    state_token_ids: Sequence[int],
    gamma: float = 2.0,
    balance: Balance = "frequency",
    detach: bool = False,
    num_items: torch.Tensor | int | None = None,
    class_counts: Sequence[int] | None = None,
) -> torch.Tensor:
    """Loss of logits [B, T, V] against labels [B, T] of the same positions, unshifted; -100 is ignored.

    Weights as in `weighted_token_losses`; their weighted sum is divided by `num_items` (default: number of
    targets).
    """
    targets = labels[:, 1:]
    chosen = targets != IGNORED
    losses = weighted_token_losses(
        logits[:, :-1][chosen],
        targets[chosen],
        state_token_ids,
        gamma,
        balance,
        detach,
        class_counts,
    )
    return losses.sum() / (max(1, losses.numel()) if num_items is None else num_items)


def weighted_token_losses(
    logits: torch.Tensor,
    targets: torch.Tensor,
    state_token_ids: Sequence[int],
    gamma: float = 2.0,
    balance: Balance = "frequency",
    detach: bool = False,
    class_counts: Sequence[int] | None = None,
) -> torch.Tensor:
    """Weighted cross entropies [N] of logits [N, V] that predict targets [N].

    A state token's weight is alpha_k * (1 - p)^gamma, p its probability over the whole vocabulary; the
    gradient goes through p unless `detach`. Every other token weighs 1. With n_k targets of state k (in this
    batch, or `class_counts`, one for each state), over the states present in them:
    - "frequency": alpha_k = sum(n) / (n_k * number present);
    - "class_balanced": alpha_k = (1 - beta) / (1 - beta^n_k), beta 0.9999, scaled to mean 1;
    - None: alpha_k = 1.
    """
    if balance not in ("frequency", "class_balanced", None):
        raise ValueError(f"balance must be 'frequency', 'class_balanced' or None, got {balance!r}")
    losses = F.cross_entropy(logits.float(), targets, reduction="none")
    states = torch.tensor(list(state_token_ids), device=targets.device)
    is_kind = targets[:, None] == states  # [N, kinds]
    counts = (
        is_kind.sum(0) if class_counts is None else torch.tensor(list(class_counts), device=targets.device)
    )
    alpha = class_weights(counts.to(losses.dtype), balance)
    probability = torch.exp(-losses)
    if detach:
        probability = probability.detach()
    # Clamped because a probability that rounds above 1 would make a negative base.
    focal = (1.0 - probability).clamp_min(0.0).pow(gamma) * (is_kind.to(losses.dtype) @ alpha)
    return losses * torch.where(is_kind.any(1), focal, torch.ones_like(focal))


def class_weights(counts: torch.Tensor, balance: Balance) -> torch.Tensor:
    """alpha of each state, from its float count [K]."""
    if balance is None:
        return torch.ones_like(counts)
    present = counts > 0
    num_present = present.sum().clamp_min(1)
    if balance == "frequency":
        weights = counts.sum() / (counts.clamp_min(1) * num_present)
    else:
        weights = (1 - CLASS_BALANCED_BETA) / (1 - CLASS_BALANCED_BETA ** counts.double().clamp_min(1))
        weights = (weights / ((weights * present).sum() / num_present)).to(counts.dtype)
    # A state that the counts do not know (only possible with given counts) weighs 1.
    return torch.where(present, weights, torch.ones_like(weights))
