"""Once rounds have been dropped, the engine equals a plain model that drops the same tokens and turns the
same keys.
"""

from typing import Any

import numpy as np
import pytest
import torch
from engine_oracle import Oracle
from engine_support import (
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

from models.engine.config import MAX_MEDIA_TIME_MS, EngineConfig
from models.engine.engine import Engine
from models.engine.rotary import shift_keys
from models.engine.session import Session
from models.vlm.model import LanguageModel
from models.vlm.state import State


def engine_of(model: LanguageModel, window_rounds: int, **changes: Any) -> Engine:
    values = {"max_sessions": 8, "max_kv_tokens": 16_384, "max_batch_tokens": 128, "max_frame_tokens": 10}
    return Engine(model, EngineConfig(**{**values, "window_rounds": window_rounds, **changes}))


def least_window_tokens(model: LanguageModel) -> int:
    """What holds one round at its longest, whatever the instruction."""
    dialogue = model.dialogue
    head = dialogue.round_head(MAX_MEDIA_TIME_MS - 100, MAX_MEDIA_TIME_MS, 10)
    pinned = max(len(dialogue.pinned_prefix(instruction)) for instruction in INSTRUCTIONS)
    return pinned + len(head) + 1 + model.config.max_reply_tokens + len(dialogue.round_tail)


def check_long_session(
    model: LanguageModel, num_rounds: int, window_rounds: int, first_position: int, **window: Any
) -> None:
    rounds = make_rounds(model, window_rounds, num_rounds)
    engine = engine_of(model, window_rounds, **window)
    engine.open("gate", INSTRUCTIONS[0], first_position=first_position)
    found = run_all(engine, {"gate": rounds}, check_integrity=False)["gate"]
    engine.check_integrity()
    oracle = Oracle(model, INSTRUCTIONS[0], window_rounds, first_position, **window)
    assert_same(found, [oracle.round(one) for one in rounds])
    kept = found[oracle.window[0][0] :]
    view = engine.window("gate")
    assert view.first_round == oracle.window[0][0]
    assert view.states == tuple(outcome.state for outcome in kept)
    assert view.replies == tuple(outcome.reply(model.dialogue) for outcome in kept)
    assert engine.stats.evicted_rounds == num_rounds - len(kept)


@pytest.mark.parametrize(
    ("window_rounds", "more_tokens", "num_rounds", "first_position", "pinned_positions"),
    [
        (1, None, 12, 0, "move"),
        (2, None, 12, 10**7, "keep"),
        (6, None, 24, 0, "move"),
        (3, None, 30, 10**9, "move"),
        (64, 0, 12, 0, "keep"),
        (64, 77, 24, 10**7, "move"),
        (4, 60, 24, 0, "keep"),
    ],
)
def test_a_session_equals_the_oracle_once_rounds_have_left(
    model: LanguageModel,
    window_rounds: int,
    more_tokens: int | None,
    num_rounds: int,
    first_position: int,
    pinned_positions: str,
) -> None:
    window: dict[str, Any] = {"pinned_positions": pinned_positions}
    if more_tokens is not None:
        window["max_window_tokens"] = least_window_tokens(model) + more_tokens
    check_long_session(model, num_rounds, window_rounds, first_position, **window)


@pytest.mark.slow
@pytest.mark.parametrize("first_position", [0, 10**7])
@pytest.mark.parametrize("pinned_positions", ["move", "keep"])
@pytest.mark.parametrize("more_tokens", [None, 150])
def test_a_session_equals_the_oracle_at_round_1000(
    model: LanguageModel, more_tokens: int | None, first_position: int, pinned_positions: str
) -> None:
    window: dict[str, Any] = {"pinned_positions": pinned_positions}
    if more_tokens is not None:
        window["max_window_tokens"] = least_window_tokens(model) + more_tokens
    check_long_session(model, 1000, 5, first_position, **window)


def test_dropping_rounds_matters(model: LanguageModel) -> None:
    """Guards the tests above: the answers would differ if the pinned keys stayed where they were."""
    rounds = make_rounds(model, 3, 12)
    oracle, unturned = (Oracle(model, INSTRUCTIONS[0], window_rounds=2) for _ in range(2))
    unturned._turn = lambda key, distance: key
    gaps = [
        np.abs(np.subtract(oracle.round(one).state_logits, unturned.round(one).state_logits)).max()
        for one in rounds
    ]
    assert max(gaps[:2]) == 0 and min(gaps[3:]) > 1e-2


@settings(max_examples=8, deadline=None)
@given(
    sessions=st.lists(
        st.tuples(
            st.integers(0, 9),  # past rounds
            st.integers(1, 9),  # live rounds
            st.integers(0, 20),  # opens at that step
            st.sampled_from([0, 10**7]),  # first position
            st.sampled_from(INSTRUCTIONS[:2]),
        ),
        min_size=1,
        max_size=4,
    ),
    window_rounds=st.integers(1, 5),
    more_tokens=st.none() | st.integers(0, 200),
    pinned_positions=st.sampled_from(["move", "keep"]),
    max_batch_tokens=st.sampled_from([8, 23, 64, 1024]),
    block_tokens=st.sampled_from([1, 7, 16]),
    in_pieces=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_any_mix_of_sliding_sessions_and_replays_equals_the_oracle(
    model: LanguageModel,
    sessions: list[tuple[int, int, int, int, str]],
    window_rounds: int,
    more_tokens: int | None,
    pinned_positions: str,
    max_batch_tokens: int,
    block_tokens: int,
    in_pieces: bool,
    seed: int,
) -> None:
    """Past rounds are forced to what the oracle decided, so a replay must come to what was live."""
    window: dict[str, Any] = {"pinned_positions": pinned_positions}
    if more_tokens is not None:
        window["max_window_tokens"] = least_window_tokens(model) + more_tokens
    engine = engine_of(
        model, window_rounds, max_batch_tokens=max_batch_tokens, block_tokens=block_tokens, **window
    )
    if in_pieces:  # every second block is taken, so that no session's slots are one run
        blocks = engine._memory.pool.allocate(engine._memory.pool.num_blocks)
        engine._memory.pool.release(blocks[::2])
    plans, expected = {}, {}
    for place, (num_past, num_live, opens_at, first_position, instruction) in enumerate(sessions):
        name = f"s{place}"
        rounds = make_rounds(model, seed + place, num_past + num_live)
        oracle = Oracle(model, instruction, window_rounds, first_position, **window)
        outcomes = [oracle.round(one) for one in rounds]
        past = forced(rounds[:num_past], outcomes[:num_past], model.dialogue)
        plans[name] = Plan(instruction, past, rounds[num_past:], opens_at, first_position=first_position)
        expected[name] = outcomes[num_past:]
    found = run_plans(engine, plans, check_integrity=not in_pieces)
    for name in plans:
        assert_same(found[name], expected[name])


@pytest.mark.parametrize("more_tokens", [None, 0, 90])
def test_the_window_never_exceeds_its_rounds_and_its_tokens(
    model: LanguageModel, more_tokens: int | None
) -> None:
    limit = None if more_tokens is None else least_window_tokens(model) + more_tokens
    engine = engine_of(model, 3, max_window_tokens=limit)
    engine.open("gate", INSTRUCTIONS[0])
    session = engine._sessions["gate"]
    reserved = 16 * (engine.stats.held_blocks - len(session.prefix.blocks))
    if limit:
        assert limit <= reserved < limit + 16
    longest = 0
    for index, one in enumerate(make_rounds(model, 8, 24, grids=[(2, 5), (1, 1), (2, 2)])):
        engine.append("gate", one)
        while engine.has_work:
            engine.step()
            assert len(session.rounds) <= 3
            longest = max(longest, engine.window("gate").num_tokens)
        if more_tokens is None:
            assert len(engine.window("gate").states) == min(index + 1, 3)
    assert 0.7 * reserved < longest <= reserved if limit else longest <= reserved


def test_an_instruction_that_leaves_no_room_for_a_round_is_refused(model: LanguageModel) -> None:
    engine = engine_of(model, 3, max_window_tokens=least_window_tokens(model))
    with pytest.raises(ValueError, match=r"max_window_tokens.*shorten the instruction"):
        engine.open("gate", INSTRUCTIONS[0] * 3)
    assert engine.stats.held_blocks == 0
    engine.open("gate", INSTRUCTIONS[0])


@pytest.mark.parametrize("more_tokens", [None, 120])
def test_ids_and_positions_of_what_is_kept_are_those_of_a_fresh_chat_up_to_a_shift(
    model: LanguageModel, more_tokens: int | None
) -> None:
    """Read off the keys and values of the first layer, which depend on nothing but ids and positions."""
    limit = None if more_tokens is None else least_window_tokens(model) + more_tokens
    engine = engine_of(model, 4, max_window_tokens=limit)
    rounds = make_rounds(model, 9, 30)
    text = tuple(model.dialogue.reply(State.RESPONSE, "cars")[1:])
    outcomes = [Outcome(State(i % 3), (), text if i % 3 == 2 else ()) for i in range(len(rounds))]
    rounds = forced(rounds, outcomes, model.dialogue)
    engine.open("old", INSTRUCTIONS[0])
    run_all(engine, {"old": rounds})
    engine.open("fresh", INSTRUCTIONS[0], first_position=3)
    run_all(engine, {"fresh": rounds[engine.window("old").first_round :]})
    assert engine.window("old").replies == engine.window("fresh").replies
    old, fresh = engine._sessions["old"], engine._sessions["fresh"]
    shift = old.rounds[0].first_position - fresh.rounds[0].first_position
    assert shift > 100
    assert [r.first_position - shift for r in old.rounds] == [r.first_position for r in fresh.rounds]

    def first_layer(session: Session, distance: int) -> torch.Tensor:
        slots = torch.from_numpy(session.table.slots)
        keys = shifted(engine._memory.cache.keys[0, slots], distance, model.rotary.inv_freq)
        return torch.cat((keys, engine._memory.cache.values[0, slots]), dim=1).flatten(1)

    gaps = torch.cdist(first_layer(fresh, shift), first_layer(old, 0), p=float("inf"))
    nearest, partner = gaps.min(dim=1)
    assert sorted(partner.tolist()) == list(range(len(gaps))), "each has its own counterpart"
    assert nearest.max() < TURN_TOLERANCE


TURN_TOLERANCE = 1e-5


def shifted(keys: torch.Tensor, distance: int, inv_freq: torch.Tensor) -> torch.Tensor:
    return shift_keys(keys, torch.tensor([distance]), torch.tensor([len(keys)]), inv_freq)


def test_shifting_keys_composes_and_inverts() -> None:
    inv_freq = 1.0 / 10_000 ** (torch.arange(0, 16, 2).double() / 16)
    keys = torch.randn(5, 2, 16, generator=torch.Generator().manual_seed(0))
    there = shifted(keys, 10**9, inv_freq)
    torch.testing.assert_close(shifted(there, -(10**9), inv_freq), keys, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        shifted(keys, 12_345, inv_freq),
        shifted(shifted(keys, 12_000, inv_freq), 345, inv_freq),
        atol=1e-5,
        rtol=0,
    )
    assert not torch.allclose(there, keys, atol=0.1)
