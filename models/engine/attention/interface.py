"""What a way to attend has to offer, and how Hugging Face's layers come to call it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from transformers import AttentionInterface

from models.engine.kv_cache import KVCache

# transformers gives names with "flash", "flex_attention" or "/" a meaning of its own.
ATTENTION_NAME = "streamo_kv"


@dataclass(frozen=True, eq=False)
class AttentionRow:
    """One session's share of a step: its last `num_queries` tokens, new ones, and the slots of all its tokens.

    The new tokens come last in `slots`, in order: query i sees all slots but the last `num_queries - 1 - i`.
    """

    num_queries: int
    slots: np.ndarray
    first_slot: int | None
    """Set if the slots are one unbroken run from here."""
    blocks: np.ndarray
    """The blocks that the slots fill in order, each of `KVCache.block_tokens`; there may be more of them."""

    @property
    def num_keys(self) -> int:
        return len(self.slots)


class AttentionStep(Protocol):
    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        """Store the step's rotated keys and values, and attend.

        key and value [1, num_kv_heads, T, head_dim] hold all new tokens, in the order of `new_slots`; query
        [1, num_heads, Q, head_dim] the queries of the rows, one row after another. Q is T, or less in a layer
        whose result is wanted at the last tokens of some rows only. Returns [1, Q, num_heads, head_dim].
        """
        ...


class AttentionBackend(Protocol):
    def begin(
        self, cache: KVCache, new_slots: np.ndarray, rows: Sequence[AttentionRow], num_heads: int
    ) -> AttentionStep:
        """Prepare what all layers of a step share. `new_slots` [T] is where the new tokens go.

        Whatever the device has to be told of the step it is told here, so that `attend` neither copies from
        the host nor waits for the device.
        """
        ...


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    attention_step: AttentionStep,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    layer: int = module.layer_idx  # type: ignore[assignment]
    return attention_step.attend(layer, query, key, value, scaling), None


AttentionInterface.register(ATTENTION_NAME, _attend)
