"""Which backend runs where."""

from __future__ import annotations

import logging

import numpy as np
import torch

from models.engine.attention.interface import AttentionBackend, AttentionRow
from models.engine.attention.sdpa import SdpaAttention
from models.engine.kv_cache import KVCache
from models.vlm.model import LanguageModel

_log = logging.getLogger(__name__)


def attention_backend(
    name: str, device: torch.device, model: LanguageModel | None = None
) -> AttentionBackend:
    """The backend `sdpa`, `varlen` or `paged`, or with `auto` the best one that works on the device.

    `auto` is sdpa on a CPU. On a GPU it tries paged, then varlen, each by a small step that has to come to what
    sdpa comes to, and logs why it passes one over. The step has the dtype and the heads of `model`: what works for
    those of one may not for those of another. ValueError for an unknown name, and for a backend that the
    device or what is installed cannot carry.
    """
    if name == "sdpa" or (name == "auto" and device.type != "cuda"):
        return SdpaAttention()
    if name in ("varlen", "paged"):
        return _gpu_backend(name, device)
    if name != "auto":
        raise ValueError(f"attention {name!r} is unknown; use auto, paged, sdpa or varlen")
    sizes = () if model is None else _sizes(model)
    for candidate in ("paged", "varlen"):
        try:
            backend = _gpu_backend(candidate, device)
            check_against_sdpa(backend, device, *sizes)
            return backend
        except Exception as error:  # compilers and drivers fail with anything
            _log.warning("attention %s does not work on %s: %s", candidate, device, error)
    return SdpaAttention()


def check_against_sdpa(
    backend: AttentionBackend,
    device: torch.device,
    dtype: torch.dtype = torch.bfloat16,
    head_dim: int = 64,
    num_kv_heads: int = 2,
    num_shared: int = 3,
) -> None:
    """Run one step with random keys. ArithmeticError if the result is not that of `SdpaAttention`."""
    rng = np.random.default_rng(0)
    block_tokens, num_heads = 16, num_kv_heads * num_shared
    # New tokens and all tokens: a decode row, an extend, a first chunk.
    lengths = ((1, 700), (45, 1300), (33, 33))
    num_blocks = [-(-num_keys // block_tokens) for _, num_keys in lengths]
    blocks = np.split(rng.permutation(sum(num_blocks)), np.cumsum(num_blocks)[:-1])
    rows = []
    for (num_queries, num_keys), of_row in zip(lengths, blocks, strict=True):
        slots = (of_row[:, None] * block_tokens + np.arange(block_tokens)).ravel()[:num_keys]
        rows.append(AttentionRow(num_queries, slots, None, of_row))
    new_slots = np.concatenate([row.slots[-row.num_queries :] for row in rows])

    cache = KVCache(
        num_layers=1,
        num_slots=sum(num_blocks) * block_tokens,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        inv_freq=torch.ones(head_dim // 2),
        dtype=dtype,
        device=device,
        block_tokens=block_tokens,
    )
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    cache.keys.copy_(random(*cache.keys.shape))
    cache.values.copy_(random(*cache.values.shape))
    query = random(1, len(new_slots), num_heads, head_dim).transpose(1, 2)
    key, value = (random(1, len(new_slots), num_kv_heads, head_dim).transpose(1, 2) for _ in range(2))
    ours, expected = (
        each.begin(cache, new_slots, rows, num_heads).attend(0, query, key, value, head_dim**-0.5)
        for each in (backend, SdpaAttention())
    )
    # Both results are rounded, and before that the weights. (Float32 may go through shorter products.)
    rounding = max(torch.finfo(dtype).eps, 1e-4) * (expected.float().abs() + 0.25)
    excess = float(((ours.float() - expected.float()).abs() / rounding).max())
    if not excess <= 1.0:
        raise ArithmeticError(f"its result is off that of sdpa by {excess:.2g} times what rounding explains")


def _sizes(model: LanguageModel) -> tuple[torch.dtype, int, int, int]:
    return model.dtype, model.head_dim, model.num_kv_heads, model.num_heads // model.num_kv_heads


def _gpu_backend(name: str, device: torch.device) -> AttentionBackend:
    if device.type != "cuda":
        raise ValueError(f"attention {name!r} needs a CUDA device, not {device}; use sdpa or auto")
    if name == "varlen":
        from models.engine.attention.varlen import VarlenAttention

        return VarlenAttention()
    try:
        from models.engine.attention.paged import PagedAttention
    except ImportError as error:
        raise ValueError(f"attention 'paged' needs Triton ({error}); use varlen or auto") from error
    return PagedAttention(device)
