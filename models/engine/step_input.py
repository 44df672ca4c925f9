"""What a step feeds to the language model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from models.engine.attention import AttentionRow


@dataclass(frozen=True, eq=False)
class StepInput:
    """The new tokens of all rows, one row behind the other. On the device are embeds [1, T, hidden_size] and `visual`,
    as `LanguageModel.forward` takes it; positions int64 [3, T] and new_slots int64 [T] are not. `reading`: places of
    the rows whose logits after the last token are wanted.
    """

    embeds: torch.Tensor
    visual: tuple[torch.Tensor, torch.Tensor] | None
    positions: np.ndarray
    new_slots: np.ndarray
    rows: Sequence[AttentionRow]
    reading: Sequence[int]

    @cached_property
    def last_tokens(self) -> np.ndarray:
        """Of the reading rows the place of the last token: int64 [n]."""
        ends: np.ndarray = np.cumsum([row.num_queries for row in self.rows])
        return ends[self.reading] - 1

    @property
    def last_queries(self) -> list[AttentionRow]:
        """The reading rows with their last tokens alone asking. All new tokens of a row are there before it looks."""
        return [replace(self.rows[place], num_queries=1) for place in self.reading]
