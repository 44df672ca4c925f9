"""Steps of random rows, and what attention comes to when it is written out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from models.engine.attention import AttentionBackend, AttentionRow
from models.engine.kv_cache import KVCache

NUM_LAYERS = 2
CPU = torch.device("cpu")


@dataclass
class RandomStep:
    """Rows over scattered blocks, or over runs, of a cache that is full of random numbers."""

    cache: KVCache
    rows: list[AttentionRow]
    new_slots: np.ndarray
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor

    @property
    def num_heads(self) -> int:
        return self.query.shape[1]

    def run(self, backend: AttentionBackend, layer: int = 1) -> torch.Tensor:
        step = backend.begin(self.cache, self.new_slots, self.rows, self.num_heads)
        return step.attend(layer, self.query, self.key, self.value, scaling=0.3)

    def of_last_queries(self) -> RandomStep:
        """The same step, of which only the last token of each row but the first attends."""
        ends = np.cumsum([row.num_queries for row in self.rows])
        rows = [replace(row, num_queries=1) for row in self.rows[1:]]
        return replace(self, rows=rows, query=self.query[:, :, ends[1:] - 1])

    def expected(self, layer: int = 1) -> torch.Tensor:
        """Query by query, head by head, in float64: [1, T, num_heads, head_dim]."""
        keys, values = self.cache.keys[layer].double(), self.cache.values[layer].double()
        keys[self.new_slots] = self.key[0].transpose(0, 1).double()
        values[self.new_slots] = self.value[0].transpose(0, 1).double()
        num_shared = self.num_heads // keys.shape[1]
        output, token = [], 0
        for row in self.rows:
            for place in range(row.num_queries):
                seen = row.slots[: len(row.slots) - (row.num_queries - 1 - place)]
                heads = []
                for head in range(self.num_heads):
                    scores = keys[seen, head // num_shared] @ self.query[0, head, token].double() * 0.3
                    heads.append(scores.softmax(0) @ values[seen, head // num_shared])
                output.append(torch.stack(heads))
                token += 1
        return torch.stack(output)[None]


def random_step(
    lengths: Sequence[tuple[int, int]],
    *,
    seed: int = 0,
    num_kv_heads: int = 2,
    num_shared: int = 2,
    head_dim: int = 16,
    block_tokens: int = 16,
    dtype: torch.dtype = torch.float32,
    device: torch.device = CPU,
    scattered: bool = True,
    scale: float = 1.0,
    spare_blocks: int = 0,
) -> RandomStep:
    """`lengths` are the number of new tokens and of all tokens of each row. `spare_blocks`: that no row has."""
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return (scale * torch.randn(shape, generator=generator)).to(device, dtype)

    # A session holds a block more than it fills.
    num_blocks = [-(-num_keys // block_tokens) + 1 for _, num_keys in lengths]
    order = rng.permutation(sum(num_blocks)) if scattered else np.arange(sum(num_blocks))
    rows = []
    for (num_queries, num_keys), blocks in zip(
        lengths, np.split(order, np.cumsum(num_blocks)[:-1]), strict=True
    ):
        slots = (blocks[:, None] * block_tokens + np.arange(block_tokens)).ravel()[:num_keys]
        rows.append(AttentionRow(num_queries, slots, None if scattered else int(slots[0]), blocks))
    cache = KVCache(
        num_layers=NUM_LAYERS,
        num_slots=(sum(num_blocks) + spare_blocks) * block_tokens,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        inv_freq=torch.ones(head_dim // 2),
        dtype=dtype,
        device=device,
        block_tokens=block_tokens,
    )
    for each in (cache.keys, cache.values):
        each[:, : cache.num_slots].copy_(random(NUM_LAYERS, cache.num_slots, num_kv_heads, head_dim))
        each[:, cache.spare_slot].fill_(float("nan"))
    new_slots = np.concatenate([row.slots[-row.num_queries :] for row in rows])
    # As Hugging Face's layers hand them over: transposed views.
    query = random(1, len(new_slots), num_kv_heads * num_shared, head_dim).transpose(1, 2)
    key, value = (random(1, len(new_slots), num_kv_heads, head_dim).transpose(1, 2) for _ in range(2))
    return RandomStep(cache, rows, new_slots, query, key, value)
