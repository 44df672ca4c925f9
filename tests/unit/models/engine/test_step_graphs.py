"""Recorded steps against steps computed anew. What can be seen without a GPU is in `interpreted_paged.py`."""

import logging

import pytest
import torch
from engine_support import INSTRUCTIONS, make_model, make_rounds, run_all

from models.engine.attention import SdpaAttention
from models.engine.config import EngineConfig
from models.engine.engine import Engine
from models.engine.step_graphs import graph_sizes
from models.vlm.model import LanguageModel

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize(
    ("max_tokens", "last", "count"),
    [(8, 8, 1), (9, 16, 2), (320, 384, 7), (1024, 1024, 12), (4000, 4096, 24)],
)
def test_sizes_reach_what_a_step_may_have(max_tokens: int, last: int, count: int) -> None:
    sizes = graph_sizes(max_tokens)
    assert (sizes[-1], len(sizes)) == (last, count)
    assert list(sizes) == sorted(set(sizes))


def on_gpu(model: LanguageModel) -> LanguageModel:
    device = torch.device("cuda")
    return LanguageModel(
        model._text.to(device),
        model._lm_head.to(device),
        model.dialogue,
        model.config,
        model.dtype,
        device,
        model.num_deepstack,
    )


@needs_gpu
@pytest.mark.parametrize(("family", "seed"), [("qwen2_5_vl", 2), ("qwen3_vl", 1)])
def test_recorded_steps_decide_what_others_decide(family: str, seed: int) -> None:
    make_model.cache_clear()  # moved to the device, it is not what the other tests know
    model = on_gpu(make_model(family, seed=seed, num_layers=3, window_rounds=4))
    make_model.cache_clear()
    config = EngineConfig(max_sessions=3, max_kv_tokens=4096, max_batch_tokens=96, max_frame_tokens=10)
    outcomes = []
    for attention in (SdpaAttention(), None):
        engine = Engine(model, config, attention)
        for index in range(3):
            engine.open(f"s{index}", INSTRUCTIONS[index])
        feeds = {f"s{index}": make_rounds(model, index, 40) for index in range(3)}
        outcomes.append(run_all(engine, feeds))
    expected, actual = outcomes
    assert engine._runner._forward.__qualname__.startswith("StepGraphs")
    for name, rounds in expected.items():
        # Until one of them says something else: from there on the two have different histories.
        for ours, theirs in zip(actual[name], rounds, strict=True):
            assert ours.state_logits == pytest.approx(theirs.state_logits, abs=2e-3)
            if (ours.state, ours.text_ids) != (theirs.state, theirs.text_ids):
                logging.getLogger(__name__).warning("%s: a tie broken otherwise", name)
                break
