"""Visual tokens by content: a picture that was encoded before is not encoded again."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch

from models.vlm.model import VisionEncoder

_DIGEST_BYTES = 16


class CachedEncoder:
    """The encoder, with the tokens of the last `max_frames` different pictures at hand.

    Exact: only a picture that is equal byte for byte shares tokens with an earlier one, and frames do not see
    each other. It makes hours in which nothing moves cheap to evaluate. Not thread-safe.
    """

    def __init__(self, encoder: VisionEncoder, max_frames: int = 4096) -> None:
        if max_frames < 1:
            raise ValueError(f"max_frames must be at least 1, got {max_frames}")
        self._encoder = encoder
        self._max_frames = max_frames
        self._tokens: OrderedDict[bytes, torch.Tensor] = OrderedDict()
        self.num_asked = 0
        self.num_encoded = 0

    def grid(self, frame: np.ndarray) -> tuple[int, int]:
        """Rows and columns of the visual tokens of a frame."""
        return self._encoder.budget.grid(*frame.shape[:2])

    def encode(self, frames: Sequence[np.ndarray]) -> list[torch.Tensor]:
        """As `VisionEncoder.encode`."""
        digests = [_digest(frame) for frame in frames]
        fresh = {
            digest: frame for digest, frame in zip(digests, frames, strict=True) if digest not in self._tokens
        }
        found = {digest: self._tokens[digest] for digest in digests if digest in self._tokens}
        if fresh:
            found.update(zip(fresh, self._encoder.encode(list(fresh.values())), strict=True))
        for digest in dict.fromkeys(digests):
            self._tokens[digest] = found[digest]
            self._tokens.move_to_end(digest)
        while len(self._tokens) > self._max_frames:
            self._tokens.popitem(last=False)
        self.num_asked += len(frames)
        self.num_encoded += len(fresh)
        return [found[digest] for digest in digests]


def _digest(frame: np.ndarray) -> bytes:
    shape = np.asarray(frame.shape, dtype=np.int64).tobytes()
    return hashlib.blake2b(frame.tobytes(), digest_size=_DIGEST_BYTES, key=shape).digest()
