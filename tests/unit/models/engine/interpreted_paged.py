"""Run by test_attention_paged.py in a process of its own, in which Triton interprets its kernels.

The interpreter multiplies the bits of bfloat16 as integers, so these tests use the other dtypes.
"""

import pytest
import torch
import triton
from attention_support import CPU, random_step
from engine_support import INSTRUCTIONS, assert_same, make_model, make_rounds, run_all

from models.engine.attention import SdpaAttention
from models.engine.attention.paged import PagedAttention
from models.engine.config import EngineConfig
from models.engine.engine import Engine
from models.engine.step_graphs import StepGraphs

MIXED = ((5, 23), (1, 40), (19, 19), (1, 1))


def test_kernels_are_interpreted() -> None:
    assert triton.knobs.runtime.interpret


@pytest.mark.parametrize("max_keys_per_item", [None, 7, 32])
def test_a_mixed_step_is_attention_written_out(max_keys_per_item: int | None) -> None:
    step = random_step(MIXED)
    output = step.run(PagedAttention(CPU, max_keys_per_item))
    torch.testing.assert_close(output.double(), step.expected(), atol=2e-6, rtol=0)


@pytest.mark.parametrize(
    ("num_kv_heads", "num_shared", "head_dim"),
    [(2, 7, 128), (1, 1, 80), (1, 16, 64), (2, 3, 48), (1, 20, 16)],
)
def test_any_shape_of_heads(num_kv_heads: int, num_shared: int, head_dim: int) -> None:
    step = random_step(
        ((5, 40), (1, 33)), num_kv_heads=num_kv_heads, num_shared=num_shared, head_dim=head_dim
    )
    output = step.run(PagedAttention(CPU, max_keys_per_item=30))
    torch.testing.assert_close(output.double(), step.expected(), atol=5e-6, rtol=0)


@pytest.mark.parametrize("block_tokens", [1, 5])
def test_any_size_of_block(block_tokens: int) -> None:
    step = random_step(MIXED, block_tokens=block_tokens)
    output = step.run(PagedAttention(CPU, max_keys_per_item=16))
    torch.testing.assert_close(output.double(), step.expected(), atol=2e-6, rtol=0)


@pytest.mark.parametrize("max_keys_per_item", [None, 64])
def test_half_precision_in_tiles_of_128_queries(max_keys_per_item: int | None) -> None:
    step = random_step(((70, 150), (1, 90), (33, 33)), num_kv_heads=1, num_shared=7, dtype=torch.float16)
    output = step.run(PagedAttention(CPU, max_keys_per_item))
    assert output.dtype == torch.float16
    torch.testing.assert_close(output.double(), step.expected(), atol=2e-3, rtol=0)


def test_all_tokens_are_stored_where_only_some_attend() -> None:
    step = random_step(MIXED).of_last_queries()
    output = step.run(PagedAttention(CPU, max_keys_per_item=16))
    torch.testing.assert_close(output.double(), step.expected(), atol=2e-6, rtol=0)


@pytest.mark.parametrize("max_keys_per_item", [None, 16])
def test_a_fixed_step_takes_one_step_after_another(max_keys_per_item: int | None) -> None:
    steps = [
        random_step(lengths, seed=seed, spare_blocks=spare_blocks)
        for seed, (lengths, spare_blocks) in enumerate(
            ((MIXED, 0), (((1, 23), (1, 40), (24, 24)), 2), (((26, 31),), 9), (MIXED, 0))
        )
    ]
    cache = steps[0].cache
    new_slots = torch.zeros(len(steps[0].new_slots), dtype=torch.int64)
    fixed = PagedAttention(CPU, max_keys_per_item).fixed(
        cache, new_slots, len(MIXED), steps[0].num_heads, one_query=False
    )
    for step in steps:
        cache.keys.copy_(step.cache.keys)
        cache.values.copy_(step.cache.values)
        new_slots.copy_(torch.from_numpy(step.new_slots))
        fixed.set(step.rows)
        output = fixed.begin().attend(1, step.query, step.key, step.value, scaling=0.3)
        torch.testing.assert_close(output.double(), step.expected(), atol=2e-6, rtol=0)


def test_a_fixed_step_of_last_queries_stores_all_tokens() -> None:
    step = random_step(MIXED).of_last_queries()
    new_slots = torch.from_numpy(step.new_slots)
    fixed = PagedAttention(CPU).fixed(step.cache, new_slots, len(MIXED), step.num_heads, one_query=True)
    fixed.set(step.rows)
    output = fixed.begin().attend(1, step.query, step.key, step.value, scaling=0.3)
    torch.testing.assert_close(output.double(), step.expected(), atol=2e-6, rtol=0)


def test_scores_far_apart_give_no_nan() -> None:
    step = random_step(((4, 30), (4, 4)), scale=30.0)
    output = step.run(PagedAttention(CPU, max_keys_per_item=5))
    torch.testing.assert_close(output.double(), step.expected(), atol=1e-3, rtol=1e-4)


def test_with_a_bound_company_changes_no_bit() -> None:
    lengths = ((6, 60), (1, 75), (20, 40))
    step = random_step(lengths)
    together = step.run(PagedAttention(CPU, max_keys_per_item=16))
    start = 0
    for row in step.rows:
        end = start + row.num_queries
        alone = PagedAttention(CPU, max_keys_per_item=16).begin(
            step.cache, step.new_slots[start:end], [row], step.num_heads
        )
        of_row = [each[:, :, start:end] for each in (step.query, step.key, step.value)]
        assert torch.equal(alone.attend(1, *of_row, scaling=0.3), together[:, start:end])
        start = end


@pytest.mark.parametrize(("family", "seed"), [("qwen2_5_vl", 2), ("qwen3_vl", 1)])
def test_the_engine_decides_the_same(family: str, seed: int) -> None:
    # Few heads and small frames: the interpreter takes milliseconds for an item.
    model = make_model(family, seed=seed, num_layers=3, num_kv_heads=1, max_reply_tokens=3)
    config = EngineConfig(
        max_sessions=2, max_kv_tokens=1024, max_batch_tokens=64, max_frame_tokens=4, window_rounds=2
    )
    outcomes = []
    paged = PagedAttention(CPU, max_keys_per_item=48)
    for attention, has_graphs in ((SdpaAttention(), False), (paged, False), (paged, True)):
        engine = Engine(model, config, attention)
        if has_graphs:
            runner = engine._runner
            graphs = StepGraphs(
                model,
                engine._memory.cache,
                paged,
                config.max_batch_tokens,
                config.max_sessions,
                runner._reduced,
                capture=lambda compute: compute,
            )
            runner._forward = graphs.forward
        for index in range(2):
            engine.open(f"s{index}", INSTRUCTIONS[index])
        feeds = {f"s{index}": make_rounds(model, index, 3, grids=((1, 1), (2, 2))) for index in range(2)}
        outcomes.append(run_all(engine, feeds))
    expected, *others = outcomes
    assert any(outcome.text_ids for rounds in expected.values() for outcome in rounds), "nobody spoke"
    for actual in others:
        for name in expected:
            assert_same(actual[name], expected[name])
