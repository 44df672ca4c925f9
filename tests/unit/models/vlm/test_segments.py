import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from models.vlm import segments
from models.vlm.segments import Segments

CPU = torch.device("cpu")


def make_rows(num_rows: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(num_rows, 2, 8, generator=generator) for _ in range(3)]


def one_by_one(rows: list[torch.Tensor], lengths: list[int]) -> torch.Tensor:
    """The definition."""
    parts = zip(*(tensor.split(lengths) for tensor in rows), strict=True)
    return torch.cat(
        [
            F.scaled_dot_product_attention(*(part.transpose(0, 1) for part in three)).transpose(0, 1)
            for three in parts
        ]
    )


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 7), min_size=1, max_size=8), seed=st.integers(0, 100))
def test_each_row_attends_over_its_own_segment(lengths: list[int], seed: int) -> None:
    rows = make_rows(sum(lengths), seed)
    found = Segments.of(lengths, CPU).attend(*rows)
    torch.testing.assert_close(found, one_by_one(rows, lengths))


def test_gradients_reach_every_row_of_mixed_segments() -> None:
    rows = [tensor.requires_grad_() for tensor in make_rows(9)]
    Segments.of([2, 4, 3], CPU).attend(*rows).square().sum().backward()
    again = [tensor.detach().clone().requires_grad_() for tensor in rows]
    one_by_one(again, [2, 4, 3]).square().sum().backward()
    for ours, expected in zip(rows, again, strict=True):
        torch.testing.assert_close(ours.grad, expected.grad)


def test_the_variable_length_kernel_is_told_the_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU's kernel is called with, carried out by its definition."""
    calls = []

    def kernel(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        cu_query: torch.Tensor,
        cu_key: torch.Tensor,
        max_query: int,
        max_key: int,
    ) -> torch.Tensor:
        assert cu_query.dtype == cu_key.dtype == torch.int32
        assert torch.equal(cu_query, cu_key)
        lengths = cu_query.diff().tolist()
        assert max_query == max_key == max(lengths)
        calls.append(lengths)
        return one_by_one([query, key, value], lengths)

    monkeypatch.setattr(segments, "varlen_attn", kernel)
    monkeypatch.setattr(segments, "_has_varlen_kernel", lambda query: True)
    rows = make_rows(9)
    torch.testing.assert_close(Segments.of([2, 4, 3], CPU).attend(*rows), one_by_one(rows, [2, 4, 3]))
    torch.testing.assert_close(Segments.of([3, 3, 3], CPU).attend(*rows), one_by_one(rows, [3, 3, 3]))
    assert calls == [[2, 4, 3]], "segments of one length are a batch, and need no kernel of their own"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_variable_length_kernel_of_a_device_equals_the_definition() -> None:
    lengths = [64, 48, 64, 7, 1]
    generator = torch.Generator().manual_seed(0)
    for head_dim in (72, 80):  # Qwen3-VL's and Qwen2.5-VL's towers
        rows = [torch.randn(sum(lengths), 16, head_dim, generator=generator) for _ in range(3)]
        found = Segments.of(lengths, torch.device("cuda")).attend(*(r.cuda().bfloat16() for r in rows))
        torch.testing.assert_close(found.float().cpu(), one_by_one(rows, lengths), atol=2e-2, rtol=2e-2)
