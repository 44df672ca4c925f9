"""While nothing is dropped, the engine says what Hugging Face's model says over the whole chat at once."""

import random

import pytest
import torch
from engine_oracle import full_forward
from engine_support import (
    GRIDS,
    INSTRUCTIONS,
    Outcome,
    Plan,
    assert_same,
    forced,
    make_rounds,
    run_all,
    run_plans,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from models.engine.config import EngineConfig
from models.engine.engine import Engine
from models.vlm.model import LanguageModel
from models.vlm.state import State


def config(**changes: int) -> EngineConfig:
    values = {"max_sessions": 8, "max_kv_tokens": 32_768, "max_batch_tokens": 256, "max_frame_tokens": 10}
    return EngineConfig(**{**values, **changes})


def run_alone(model: LanguageModel, instruction: str, rounds: list) -> list[Outcome]:
    engine = Engine(model, config(max_batch_tokens=4096))
    engine.open("alone", instruction)
    return run_all(engine, {"alone": rounds})["alone"]


def test_the_random_model_makes_every_kind_of_decision(model: LanguageModel) -> None:
    outcomes = run_alone(model, INSTRUCTIONS[0], make_rounds(model, seed=0, num_rounds=40))
    assert {outcome.state for outcome in outcomes} == set(State)
    assert {outcome.truncated for outcome in outcomes if outcome.state is State.RESPONSE} == {True, False}
    assert len({len(outcome.text_ids) for outcome in outcomes}) > 2
    spread = torch.tensor([outcome.state_logits for outcome in outcomes]).std(dim=0)
    assert (spread > 0.5).all(), "decisions hang too little on the frames to prove anything"


@pytest.mark.parametrize("seed", range(2))
def test_every_round_equals_the_full_forward(model: LanguageModel, seed: int) -> None:
    rounds = make_rounds(model, seed, num_rounds=30)
    outcomes = run_alone(model, INSTRUCTIONS[seed], rounds)
    assert_same(outcomes, full_forward(model, INSTRUCTIONS[seed], rounds, outcomes))


@settings(max_examples=10, deadline=None)
@given(
    sessions=st.lists(
        st.tuples(
            st.integers(0, 8),  # past rounds
            st.integers(0, 6),  # live rounds
            st.integers(0, 12),  # opens at that step
            st.sampled_from(["", "gate", "door"]),  # stream
            st.sampled_from([0.0, -1.5, 2.0]),  # sensitivity
            st.sampled_from(INSTRUCTIONS[:2]),
        ),
        min_size=1,
        max_size=5,
    ),
    grids=st.lists(st.sampled_from(GRIDS), min_size=1, max_size=3),
    max_batch_tokens=st.sampled_from([8, 13, 40, 97, 1024]),
    block_tokens=st.sampled_from([1, 7, 16]),
    max_pending_rounds=st.integers(1, 4),
    seed=st.integers(0, 10**6),
)
def test_any_mix_of_sessions_replays_and_budgets_equals_the_full_forward(
    model: LanguageModel,
    sessions: list[tuple[int, int, int, str, float, str]],
    grids: list[tuple[int, int]],
    max_batch_tokens: int,
    block_tokens: int,
    max_pending_rounds: int,
    seed: int,
) -> None:
    """Chunked equals at once, in company equals alone, a pinned prefix copied equals one fed: all of them are
    compared with the same reference.
    """
    order = random.Random(seed)
    engine = Engine(
        model,
        config(
            max_batch_tokens=max_batch_tokens,
            block_tokens=block_tokens,
            max_pending_rounds=max_pending_rounds,
        ),
    )
    plans, past_outcomes = {}, {}
    for place, (num_past, num_live, opens_at, stream_id, sensitivity, instruction) in enumerate(sessions):
        name = f"s{place}"
        rounds = make_rounds(model, seed + place, num_past + num_live, grids)
        past_outcomes[name] = [
            Outcome(state, (), tuple(model.dialogue.reply(State.RESPONSE, "cars")[1:]) if state == 2 else ())
            for state in (State(order.randrange(3)) for _ in range(num_past))
        ]
        past = forced(rounds[:num_past], past_outcomes[name], model.dialogue)
        plans[name] = Plan(instruction, past, rounds[num_past:], opens_at, stream_id, sensitivity)
    found = run_plans(engine, plans)
    for name, plan in plans.items():
        rounds, outcomes = [*plan.past, *plan.live], [*past_outcomes[name], *found[name]]
        expected = full_forward(model, plan.instruction, rounds, outcomes, plan.sensitivity) if rounds else []
        assert_same(found[name], expected[len(plan.past) :])
        window = engine.window(name)
        assert window.first_round == 0
        assert window.replies == tuple(outcome.reply(model.dialogue) for outcome in outcomes)
        assert window.states == tuple(outcome.state for outcome in outcomes)


def test_later_rounds_do_not_change_earlier_decisions(model: LanguageModel) -> None:
    rounds, other = make_rounds(model, 5, num_rounds=12), make_rounds(model, 6, num_rounds=12)
    one = run_alone(model, INSTRUCTIONS[0], rounds)
    two = run_alone(model, INSTRUCTIONS[0], [*rounds[:6], *other[6:]])
    assert one[:6] == two[:6]
    assert one[6:] != two[6:]


def test_the_same_calls_give_the_same_bits(model: LanguageModel) -> None:
    rounds = make_rounds(model, 7, num_rounds=20)
    assert run_alone(model, INSTRUCTIONS[0], rounds) == run_alone(model, INSTRUCTIONS[0], rounds)
