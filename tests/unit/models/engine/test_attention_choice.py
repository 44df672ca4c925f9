"""Which backend is taken, and that one which computes something else is not."""

import copy
import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from attention_support import CPU

from models.engine.attention import (
    AttentionBackend,
    AttentionRow,
    AttentionStep,
    SdpaAttention,
    attention_backend,
    choice,
)
from models.engine.device_copy import copy_to_device
from models.engine.kv_cache import KVCache
from models.vlm.model import LanguageModel

GPU = torch.device("cuda")


class Forgetful(SdpaAttention):
    """Lets no query of the longest row see its oldest block."""

    def begin(
        self, cache: KVCache, new_slots: np.ndarray, rows: Sequence[AttentionRow], num_heads: int
    ) -> AttentionStep:
        longest = max(rows, key=lambda row: row.num_keys)
        shorter = replace(longest, slots=longest.slots[cache.block_tokens :])
        return super().begin(
            cache, new_slots, [shorter if row is longest else row for row in rows], num_heads
        )


@pytest.mark.parametrize("name", ["auto", "sdpa"])
def test_a_cpu_takes_sdpa(name: str) -> None:
    assert isinstance(attention_backend(name, CPU), SdpaAttention)


@pytest.mark.parametrize("name", ["paged", "varlen"])
def test_gpu_backends_refuse_a_cpu(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' needs a CUDA device, not cpu"):
        attention_backend(name, CPU)


@pytest.mark.parametrize("device", [CPU, GPU])
def test_unknown_names_are_refused(device: torch.device) -> None:
    with pytest.raises(ValueError, match="'flash' is unknown; use auto, paged, sdpa or varlen"):
        attention_backend("flash", device)


def test_a_backend_that_computes_something_else_is_found_out() -> None:
    choice.check_against_sdpa(SdpaAttention(), CPU)
    with pytest.raises(ArithmeticError, match="off that of sdpa"):
        choice.check_against_sdpa(Forgetful(), CPU)


def test_auto_passes_over_what_does_not_work_and_says_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sound, asked = SdpaAttention(), []

    def gpu_backend(name: str, device: torch.device) -> AttentionBackend:
        asked.append(name)
        if name == "paged":
            raise RuntimeError("no C compiler")
        return sound

    monkeypatch.setattr(choice, "_gpu_backend", gpu_backend)
    check = choice.check_against_sdpa
    monkeypatch.setattr(choice, "check_against_sdpa", lambda backend, device: check(backend, CPU))
    with caplog.at_level(logging.WARNING):
        assert attention_backend("auto", GPU) is sound
    assert asked == ["paged", "varlen"]
    assert [record.getMessage() for record in caplog.records] == [
        "attention paged does not work on cuda: no C compiler"
    ]

    monkeypatch.setattr(choice, "_gpu_backend", lambda name, device: Forgetful())
    fallback = attention_backend("auto", GPU)
    assert type(fallback) is SdpaAttention


class BFloat16Only(SdpaAttention):
    """Notes what heads it is asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int, int]] = []

    def begin(
        self, cache: KVCache, new_slots: np.ndarray, rows: Sequence[AttentionRow], num_heads: int
    ) -> AttentionStep:
        self.asked.append((num_heads, *cache.keys.shape[2:]))
        if cache.keys.dtype is not torch.bfloat16:
            raise ValueError("takes keys of bfloat16")
        return super().begin(cache, new_slots, rows, num_heads)


def test_auto_asks_for_the_dtype_and_the_heads_of_the_model(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, check = BFloat16Only(), choice.check_against_sdpa
    monkeypatch.setattr(choice, "_gpu_backend", lambda name, device: backend)
    monkeypatch.setattr(
        choice, "check_against_sdpa", lambda backend, device, *sizes: check(backend, CPU, *sizes)
    )
    assert model.dtype is torch.float32
    assert type(attention_backend("auto", GPU, model)) is SdpaAttention
    heads = (model.num_heads, model.num_kv_heads, model.head_dim)
    assert backend.asked == [heads, heads]
    halved = copy.copy(model)
    halved.dtype = torch.bfloat16
    assert attention_backend("auto", GPU, halved) is backend


def test_arrays_reach_the_device_in_their_shapes_and_aligned() -> None:
    arrays = [
        np.arange(5),
        np.zeros((0, 4), dtype=np.int64),
        np.arange(12).reshape(3, 4),
        np.array([2**31 - 1]),
    ]
    copies = copy_to_device(arrays, CPU)
    for array, copied in zip(arrays, copies, strict=True):
        assert copied.dtype == torch.int32
        assert copied.storage_offset() % 4 == 0
        np.testing.assert_array_equal(copied.numpy(), array)
