"""Gathering for torch's varlen kernel. Without a GPU a plain function stands in for that one call."""

import pytest
import torch
from attention_support import random_step

from models.engine.attention import attention_backend, varlen
from models.engine.attention.choice import check_against_sdpa
from models.engine.attention.varlen import VarlenAttention

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def plain_varlen_attn(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float,
    window_size: tuple[int, int],
    enable_gqa: bool = True,
) -> torch.Tensor:
    """What the documentation of `torch.nn.attention.varlen.varlen_attn` says, causal from the bottom right."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert window_size == (-1, 0)
    assert enable_gqa
    assert len(query) == cu_seq_q[-1]
    assert len(key) == len(value) == cu_seq_k[-1]
    assert cu_seq_q.diff().max() == max_q
    assert cu_seq_k.diff().max() == max_k
    output = torch.empty_like(query)
    num_shared = query.shape[1] // key.shape[1]
    for row in range(len(cu_seq_q) - 1):
        queries = slice(int(cu_seq_q[row]), int(cu_seq_q[row + 1]))
        keys = slice(int(cu_seq_k[row]), int(cu_seq_k[row + 1]))
        of_heads = key[keys].float().repeat_interleave(num_shared, dim=1)
        scores = torch.einsum("qhd,khd->hqk", query[queries].float(), of_heads) * scale
        num_queries, num_keys = scores.shape[1:]
        seen = torch.ones(num_queries, num_keys, dtype=torch.bool).tril(num_keys - num_queries)
        weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
        values = value[keys].float().repeat_interleave(num_shared, dim=1)
        output[queries] = torch.einsum("hqk,khd->qhd", weights, values).to(output.dtype)
    return output


@pytest.mark.parametrize(
    ("lengths", "block_tokens"),
    [(((5, 23), (1, 40), (19, 19), (1, 1)), 16), (((3, 64), (1, 48)), 16), (((2, 7), (4, 9)), 1)],
)
@pytest.mark.parametrize("num_shared", [1, 7])
def test_what_is_gathered_is_what_the_rows_see(
    monkeypatch: pytest.MonkeyPatch, lengths: tuple[tuple[int, int], ...], block_tokens: int, num_shared: int
) -> None:
    monkeypatch.setattr(varlen, "varlen_attn", plain_varlen_attn)
    step = random_step(lengths, block_tokens=block_tokens, num_shared=num_shared, dtype=torch.float16)
    expected = step.expected()
    torch.testing.assert_close(step.run(VarlenAttention()).double(), expected, atol=2e-3, rtol=0)


def test_every_layer_of_a_step_gathers_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen, "varlen_attn", plain_varlen_attn)
    random = random_step(((5, 23), (1, 40)), dtype=torch.float16)
    step = VarlenAttention().begin(random.cache, random.new_slots, random.rows, random.num_heads)
    for layer in (0, 1):
        expected = random.expected(layer)
        output = step.attend(layer, random.query, random.key, random.value, scaling=0.3)
        torch.testing.assert_close(output.double(), expected, atol=2e-3, rtol=0)


def test_all_tokens_are_stored_where_only_some_attend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen, "varlen_attn", plain_varlen_attn)
    step = random_step(((5, 23), (1, 40), (19, 19)), dtype=torch.float16).of_last_queries()
    expected = step.expected()
    torch.testing.assert_close(step.run(VarlenAttention()).double(), expected, atol=2e-3, rtol=0)


def test_keys_of_32_bits_are_refused() -> None:
    with pytest.raises(ValueError, match="takes keys of float16 or bfloat16"):
        random_step(((1, 2),)).run(VarlenAttention())


@needs_gpu
@pytest.mark.parametrize("head_dim", [64, 80, 128])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_real_kernel_comes_to_what_sdpa_comes_to(head_dim: int, dtype: torch.dtype) -> None:
    device = torch.device("cuda")
    check_against_sdpa(attention_backend("varlen", device), device, dtype, head_dim, num_shared=7)
