"""The reference backend against attention written out."""

import pytest
import torch
from attention_support import random_step
from hypothesis import given, settings
from hypothesis import strategies as st

from models.engine.attention import SdpaAttention, sdpa

MIXED = ((5, 23), (1, 40), (19, 19), (1, 1), (2, 65))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    lengths=st.lists(
        st.tuples(st.integers(1, 9), st.integers(0, 60)).map(lambda pair: (pair[0], sum(pair))),
        min_size=1,
        max_size=4,
    ),
    num_shared=st.sampled_from((1, 2, 7)),
    block_tokens=st.sampled_from((1, 4, 16)),
    scattered=st.booleans(),
    split_from=st.sampled_from((1, 20, 1000)),
    seed=st.integers(0, 1000),
)
def test_any_step_is_attention_written_out(
    lengths: list[tuple[int, int]],
    num_shared: int,
    block_tokens: int,
    scattered: bool,
    split_from: int,
    seed: int,
) -> None:
    step = random_step(
        lengths, seed=seed, num_shared=num_shared, block_tokens=block_tokens, scattered=scattered
    )
    expected = step.expected()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sdpa, "SPLIT_FROM", split_from)
        output = step.run(SdpaAttention())
    torch.testing.assert_close(output.double(), expected, atol=2e-6, rtol=0)


def test_a_long_window_is_attended_in_two_parts_and_comes_to_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []
    cpu_attention = sdpa._cpu_attention

    def counting(query: torch.Tensor, keys: torch.Tensor, *rest: object, **named: object) -> object:
        calls.append(keys.shape[2])
        return cpu_attention(query, keys, *rest, **named)

    monkeypatch.setattr(sdpa, "_cpu_attention", counting)
    step = random_step(((3, sdpa.SPLIT_FROM + 3), (3, 40)))
    torch.testing.assert_close(step.run(SdpaAttention()).double(), step.expected(), atol=2e-6, rtol=0)
    assert calls == [sdpa.SPLIT_FROM, 3]


@pytest.mark.parametrize("split_from", [1, 1000])
def test_scores_far_apart_give_no_nan(monkeypatch: pytest.MonkeyPatch, split_from: int) -> None:
    monkeypatch.setattr(sdpa, "SPLIT_FROM", split_from)
    step = random_step(((4, 30), (4, 4)), scale=30.0)
    torch.testing.assert_close(step.run(SdpaAttention()).double(), step.expected(), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("split_from", [1, 1000])
def test_half_precision_keeps_its_dtype(monkeypatch: pytest.MonkeyPatch, split_from: int) -> None:
    monkeypatch.setattr(sdpa, "SPLIT_FROM", split_from)
    step = random_step(MIXED, dtype=torch.bfloat16)
    output = step.run(SdpaAttention())
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.double(), step.expected(), atol=0.03, rtol=0)


def test_all_tokens_are_stored_where_only_some_attend() -> None:
    step = random_step(MIXED).of_last_queries()
    torch.testing.assert_close(step.run(SdpaAttention()).double(), step.expected(), atol=2e-6, rtol=0)


def test_a_step_writes_its_tokens_and_nothing_else() -> None:
    step = random_step(MIXED)
    keys, values = step.cache.keys.clone(), step.cache.values.clone()
    step.run(SdpaAttention(), layer=1)
    keys[1, step.new_slots] = step.key[0].transpose(0, 1)
    values[1, step.new_slots] = step.value[0].transpose(0, 1)
    torch.testing.assert_close(step.cache.keys, keys, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(step.cache.values, values, rtol=0, atol=0, equal_nan=True)
