"""What the last layer leaves out is not missed."""

import pytest
import torch
from engine_families import FAMILIES
from engine_oracle import full_forward
from engine_support import INSTRUCTIONS, assert_same, make_model, make_rounds, run_all

from models.engine.config import EngineConfig
from models.engine.engine import Engine
from models.vlm.last_layer import LastLayer


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Tokens that go into and come out of each run of the last layer."""
    shapes: list[tuple[int, int]] = []
    forward = LastLayer.forward

    def watched(self: LastLayer, hidden: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        result = forward(self, hidden, *args, **kwargs)
        shapes.append((hidden.shape[1], result.shape[1]))
        return result

    monkeypatch.setattr(LastLayer, "forward", watched)
    return shapes


# DeepStack features are added after the first three layers, so that only a fourth has something to leave out.
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_the_full_forward(family: str, seen: list[tuple[int, int]]) -> None:
    model = make_model(family, num_layers=4)
    feeds = {
        instruction: make_rounds(model, seed=number, num_rounds=8)
        for number, instruction in enumerate(INSTRUCTIONS)
    }
    config = EngineConfig(max_sessions=3, max_kv_tokens=16_384, max_batch_tokens=64, max_frame_tokens=10)
    engine = Engine(model, config)
    for instruction in feeds:
        engine.open(instruction, instruction)
    outcomes = run_all(engine, feeds)
    assert any(0 < num_wanted < num_fed for num_fed, num_wanted in seen)
    for instruction, rounds in feeds.items():
        assert_same(outcomes[instruction], full_forward(model, instruction, rounds, outcomes[instruction]))


def test_a_step_of_three_quiet_rounds_runs_three_tokens_of_the_last_layer(
    seen: list[tuple[int, int]],
) -> None:
    model = make_model("qwen2_5_vl")
    engine = Engine(
        model, EngineConfig(max_sessions=3, max_kv_tokens=16_384, max_batch_tokens=512, max_frame_tokens=10)
    )
    for number, instruction in enumerate(INSTRUCTIONS):
        engine.open(instruction, instruction)
        (one,) = make_rounds(model, seed=number, num_rounds=1)
        engine.append(instruction, one)
    engine.step()
    assert [num_wanted for _, num_wanted in seen] == [3]
