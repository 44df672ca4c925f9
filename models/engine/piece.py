"""A run of tokens on its way into the KV cache. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

# Owner of the tokens of the pinned prefix; those of a round are owned by its index.
PINNED = -1


@dataclass(frozen=True, eq=False)
class Piece:
    """Tokens of one round, or of the pinned prefix, their positions, and the frame that stands among them."""

    token_ids: np.ndarray  # int64 [n]
    positions: np.ndarray  # int64 [3, n]
    owner: int
    frame: torch.Tensor | None = None  # rows to put in place of the embeddings from frame_start on
    frame_start: int = 0

    def __len__(self) -> int:
        return len(self.token_ids)

    def cut(self, num_tokens: int) -> tuple[Piece, Piece]:
        """The first `num_tokens` tokens, and the rest."""
        frame_left = frame_right = self.frame
        if self.frame is not None:
            num_rows = min(max(num_tokens - self.frame_start, 0), len(self.frame))
            frame_left, frame_right = self.frame[:num_rows], self.frame[num_rows:]
        return (
            Piece(
                self.token_ids[:num_tokens],
                self.positions[:, :num_tokens],
                self.owner,
                frame_left,
                self.frame_start,
            ),
            Piece(
                self.token_ids[num_tokens:],
                self.positions[:, num_tokens:],
                self.owner,
                frame_right,
                max(self.frame_start - num_tokens, 0),
            ),
        )
