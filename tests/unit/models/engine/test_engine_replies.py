"""Replies: decoded token by token beside the others' rounds, bounded, and the same when they are replayed."""

from dataclasses import replace

import pytest
import torch
from engine_support import (
    INSTRUCTIONS,
    Outcome,
    assert_same,
    collect,
    forced,
    make_model,
    make_rounds,
    run_all,
)

from models.engine.config import EngineConfig
from models.engine.engine import Engine
from models.engine.engine_stats import EngineStats
from models.engine.round import Decision, Reply
from models.vlm.model import LanguageModel
from models.vlm.state import State

CONFIG = EngineConfig(max_sessions=8, max_kv_tokens=16_384, max_batch_tokens=512, max_frame_tokens=10)


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    """None of this depends on the family."""
    return make_model()


def outcomes_of(model: LanguageModel, rounds: list, config: EngineConfig = CONFIG) -> list[Outcome]:
    engine = Engine(model, config)
    engine.open("gate", INSTRUCTIONS[0])
    return run_all(engine, {"gate": rounds})["gate"]


def test_a_quiet_round_is_one_step_and_a_reply_one_step_a_token(model: LanguageModel) -> None:
    rounds = make_rounds(model, 0, 40)
    engine = Engine(model, CONFIG)
    engine.open("gate", INSTRUCTIONS[0])
    for one in rounds:
        engine.append("gate", one)
        (decision,) = engine.step()
        assert isinstance(decision, Decision)
        if decision.state is not State.RESPONSE:
            assert not engine.has_work
            continue
        num_steps, outputs = 0, []
        while not outputs:
            num_steps += 1
            outputs = engine.step()
        (reply,) = outputs
        assert isinstance(reply, Reply)
        assert num_steps == len(reply.token_ids) + (0 if reply.truncated else 1)
        assert reply.text == model.dialogue.text(reply.token_ids)
        assert reply.round_index == decision.round_index
        assert not engine.has_work


def test_others_go_on_while_a_session_replies_and_its_own_rounds_wait(model: LanguageModel) -> None:
    rounds = make_rounds(model, 0, 40)
    alone = outcomes_of(model, rounds)
    start = next(i for i, outcome in enumerate(alone) if len(outcome.text_ids) >= 3)
    others = make_rounds(model, 1, 20)
    others_alone = outcomes_of(model, others)
    engine = Engine(model, CONFIG)
    engine.open("speaker", INSTRUCTIONS[0])
    engine.open("other", INSTRUCTIONS[0])
    found = {"speaker": {}, "other": {}}
    for one in rounds[: start + 1]:
        while engine.has_work:
            collect(engine.step(), found)
        engine.append("speaker", one)
    collect(engine.step(), found)
    assert found["speaker"][start].state is State.RESPONSE

    engine.append("speaker", rounds[start + 1])
    for other in others[: len(alone[start].text_ids)]:
        before = len(found["other"])
        engine.append("other", other)
        collect(engine.step(), found)
        assert len(found["other"]) == before + 1 or others_alone[before - 1].state is State.RESPONSE
        if not found["speaker"][start].text_ids:
            assert start + 1 not in found["speaker"], "the next round overtook the running reply"
    while engine.has_work:
        collect(engine.step(), found)
    assert_same([found["speaker"][i] for i in range(start + 2)], alone[: start + 2])
    assert_same([found["other"][i] for i in sorted(found["other"])], others_alone[: len(found["other"])])


def test_a_reply_is_cut_at_its_bound() -> None:
    long, short = make_model(max_reply_tokens=9), make_model(max_reply_tokens=2)
    rounds = make_rounds(long, 0, 40)
    for model, limit in ((long, 9), (short, 2)):
        for outcome in outcomes_of(model, rounds):
            assert len(outcome.text_ids) <= limit
            assert not outcome.truncated or len(outcome.text_ids) == limit
    first = next(i for i, o in enumerate(outcomes_of(long, rounds)) if len(o.text_ids) > 2)
    cut, whole = outcomes_of(short, rounds)[first], outcomes_of(long, rounds)[first]
    assert cut.truncated and cut.text_ids == whole.text_ids[:2]


def test_no_reply_holds_a_control_token() -> None:
    eager = make_model(seed=1)
    control = sorted(eager.dialogue.control_token_ids - {eager.dialogue.end_token_id})
    eager._lm_head[control] *= 4.0  # so that control tokens are nearly always the best
    outcomes = outcomes_of(eager, make_rounds(eager, 4, 40))
    assert any(outcome.text_ids for outcome in outcomes)
    for outcome in outcomes:
        assert not eager.dialogue.control_token_ids & set(outcome.text_ids)


def window_content(engine: Engine, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of a session, in an order that does not depend on how they got there."""
    slots = torch.from_numpy(engine._sessions[name].table.slots)
    keys, values = engine._memory.cache.keys[:, slots], engine._memory.cache.values[:, slots]
    order = keys[0].flatten(1).sum(dim=1).argsort()
    return keys[:, order], values[:, order]


def test_a_replay_and_forced_rounds_come_to_the_keys_and_decisions_of_the_live_session() -> None:
    model = make_model(window_rounds=6)
    rounds = make_rounds(model, 2, 30)
    engine = Engine(model, CONFIG)
    engine.open("live", INSTRUCTIONS[0])
    live = run_all(engine, {"live": rounds[:25]})["live"]
    assert State.RESPONSE in {outcome.state for outcome in live[-6:]}, "nothing said in the window"

    engine.open("replayed", INSTRUCTIONS[0], forced(rounds[:25], live, model.dialogue))
    assert run_all(engine, {"replayed": []})["replayed"] == []
    engine.open("forced", INSTRUCTIONS[0])
    again = run_all(engine, {"forced": forced(rounds[:25], live, model.dialogue)})["forced"]
    assert [outcome.state for outcome in again] == [outcome.state for outcome in live]
    for ours, theirs in zip(again, live, strict=True):
        torch.testing.assert_close(ours.state_logits, theirs.state_logits, atol=1e-4, rtol=0)
        assert ours.text_ids == theirs.text_ids

    for name in ("replayed", "forced"):
        assert engine.window(name) == engine.window("live")
        for ours, theirs in zip(window_content(engine, name), window_content(engine, "live"), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    after = run_all(engine, dict.fromkeys(("live", "replayed", "forced"), rounds[25:]))
    assert_same(after["replayed"], after["live"])
    assert_same(after["forced"], after["live"])


def test_a_session_opened_over_the_window_alone_decides(model: LanguageModel) -> None:
    rounds = make_rounds(model, 3, 8)
    past = forced(rounds[:5], [Outcome(State.SILENCE, ())] * 5, model.dialogue)
    engine = Engine(model, CONFIG)
    engine.open("gate", INSTRUCTIONS[1], past)
    assert engine.has_work
    assert engine.append("gate", rounds[5]) == 5
    (decision,) = [output for _ in range(3) for output in engine.step() if isinstance(output, Decision)]
    assert decision.round_index == 5


def test_full_softmax_agreement_is_told(model: LanguageModel) -> None:
    engine = Engine(model, CONFIG)
    engine.open("gate", INSTRUCTIONS[0])
    told = set()
    for one in make_rounds(model, 0, 60):
        engine.append("gate", one)
        while engine.has_work:
            told |= {output.full_softmax_agrees for output in engine.step() if isinstance(output, Decision)}
    assert False in told  # a random model seldom agrees with itself


def test_sensitivity_moves_the_choice_and_not_what_the_model_says() -> None:
    model = make_model(seed=5)
    model._lm_head[list(model.dialogue.state_token_ids)] *= 8.0  # so that the best token is a state token
    (one,) = make_rounds(model, 0, 1)
    decisions = {}
    for sensitivity in (-100.0, 0.0, 100.0):
        engine = Engine(model, CONFIG)
        engine.open("gate", INSTRUCTIONS[0], sensitivity=sensitivity)
        engine.append("gate", one)
        (decisions[sensitivity],) = engine.step()
    silenced, own, eager = decisions.values()
    assert silenced.state_logits == own.state_logits == eager.state_logits
    _, standby, response = own.state_logits
    assert silenced.state is State.SILENCE
    assert eager.state is (State.STANDBY if standby >= response else State.RESPONSE)
    assert silenced.state is not eager.state
    assert all(decision.full_softmax_agrees for decision in decisions.values())


def test_sensitivity_decides_at_its_threshold(model: LanguageModel) -> None:
    engine = Engine(model, CONFIG)
    for one in make_rounds(model, 3, 6):
        engine.open("probe", INSTRUCTIONS[0])
        engine.append("probe", one)
        (decision,) = engine.step()
        engine.close("probe")
        silence, standby, response = decision.state_logits
        threshold = silence - max(standby, response)
        for sensitivity, is_silent in ((threshold - 1e-3, True), (threshold + 1e-3, False)):
            engine.open("gate", INSTRUCTIONS[0], sensitivity=sensitivity)
            engine.append("gate", one)
            (decision,) = engine.step()
            assert (decision.state is State.SILENCE) == is_silent
            engine.close("gate")


def test_a_checkpoint_s_own_bias_decides_with_that_of_the_watch() -> None:
    model = make_model(seed=5)
    (one,) = make_rounds(model, 0, 1)

    def decide(state_bias: tuple[float, float], sensitivity: float = 0.0) -> Decision:
        model.config = replace(model.config, state_bias=state_bias)
        engine = Engine(model, CONFIG)
        engine.open("gate", INSTRUCTIONS[0], sensitivity=sensitivity)
        engine.append("gate", one)
        (decision,) = (output for output in engine.step() if isinstance(output, Decision))
        return decision

    own = decide((0.0, 0.0))
    assert decide((-100.0, -100.0)).state is State.SILENCE
    assert decide((100.0, 0.0)).state is State.STANDBY
    assert decide((0.0, 100.0)).state is State.RESPONSE
    # What the watch asks for comes on top, and what is told of the model stays what it said.
    evened_out = decide((-2.0, -2.0), sensitivity=2.0)
    assert (evened_out.state, evened_out.state_logits) == (own.state, own.state_logits)


def test_the_counts_are_those_of_what_was_done() -> None:
    model = make_model(window_rounds=4)
    engine = Engine(model, CONFIG)
    assert engine.stats == EngineStats(free_blocks=1024)
    rounds = make_rounds(model, 2, 20)
    sizes = [len(model.dialogue.round_head(r.start_ms, r.end_ms, len(r.frame))) for r in rounds]
    pinned, tail = len(model.dialogue.pinned_prefix(INSTRUCTIONS[0])), len(model.dialogue.round_tail)
    quiet = [Outcome(State.SILENCE, ())] * 8
    engine.open("gate", INSTRUCTIONS[0], forced(rounds[:8], quiet, model.dialogue))
    run_all(engine, {"gate": []})
    stats = engine.stats
    assert (stats.rounds, stats.evicted_rounds, stats.extend_tokens) == (0, 4, 0)
    assert stats.replay_tokens == pinned + sum(sizes[:8]) + 7 * (1 + tail)

    num_steps, disagreements, decode_tokens, text_tokens = 0, 0, 0, 0
    for one in rounds[8:]:
        engine.append("gate", one)
        while engine.has_work:
            num_steps += 1
            for output in engine.step():
                if isinstance(output, Decision):
                    disagreements += not output.full_softmax_agrees
                else:
                    text_tokens += len(output.token_ids)
                    decode_tokens += len(output.token_ids) + (not output.truncated)
    assert decode_tokens and disagreements
    assert engine.stats.plus(steps=-stats.steps) == replace(
        stats,
        steps=num_steps,
        rounds=12,
        disagreements=disagreements,
        evicted_rounds=16,
        decode_tokens=decode_tokens,
        extend_tokens=engine.stats.extend_tokens,
    )
    fed = stats.replay_tokens + engine.stats.extend_tokens + decode_tokens
    everything = pinned + sum(sizes) + text_tokens + 20 * (1 + tail)
    assert fed == everything - engine._sessions["gate"]._num_pending, "each token is fed and counted once"
