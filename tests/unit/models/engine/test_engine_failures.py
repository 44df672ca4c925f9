"""What the engine refuses, and that a step which fails leaves nothing behind."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from engine_support import INSTRUCTIONS, assert_same, forced, make_model, make_rounds, run_all
from engine_support import Outcome as Out

from models.engine.attention import AttentionStep, SdpaAttention
from models.engine.config import EngineConfig
from models.engine.engine import Engine
from models.engine.errors import (
    BadLogits,
    EngineFull,
    IntegrityError,
    QueueFull,
    SessionExists,
    UnknownSession,
)
from models.vlm.model import LanguageModel
from models.vlm.state import State

CONFIG = EngineConfig(
    max_sessions=4, max_kv_tokens=8192, max_batch_tokens=128, max_frame_tokens=10, window_rounds=4
)


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    """None of this depends on the family."""
    return make_model()


class FailingAttention(SdpaAttention):
    """Fails in the middle of a forward, when armed: after the first layer has written its keys."""

    def __init__(self) -> None:
        self.is_armed = False

    def begin(self, *arguments: object) -> AttentionStep:
        return _FailingStep(super().begin(*arguments), self)


class _FailingStep:
    def __init__(self, step: AttentionStep, owner: FailingAttention) -> None:
        self._step, self._owner = step, owner

    def attend(self, layer: int, *arguments: object) -> torch.Tensor:
        if layer == 1 and self._owner.is_armed:
            raise RuntimeError("out of memory")
        return self._step.attend(layer, *arguments)


def snapshot(engine: Engine) -> dict[str, tuple]:
    return {
        name: (session.table.length, session.table.end, session.num_due, engine.window(name).num_tokens)
        for name, session in engine._sessions.items()
    }


def test_a_failed_step_leaves_nothing_behind_and_can_be_repeated(model: LanguageModel) -> None:
    attention = FailingAttention()
    engine = Engine(model, CONFIG, attention)
    sound = Engine(model, CONFIG)
    feeds = {f"s{i}": make_rounds(model, i, 12) for i in range(3)}
    past = make_rounds(model, 9, 7)
    past = forced(past, [Out(State.STANDBY, ())] * 7, model.dialogue)
    for name in feeds:
        for each in (engine, sound):
            each.open(name, INSTRUCTIONS[0], past if name == "s2" else ())
    waiting = {name: list(rounds) for name, rounds in feeds.items()}
    num_failures = 0
    while engine.has_work or any(waiting.values()):
        for name, rounds in waiting.items():
            if rounds and engine.can_append(name):
                one = rounds.pop(0)
                engine.append(name, one)
                sound.append(name, one)
        before = snapshot(engine)
        attention.is_armed = True
        with pytest.raises(RuntimeError, match="out of memory"):
            engine.step()
        num_failures += 1
        engine.check_integrity()
        if num_failures == 1:
            assert all(length == end == 0 for length, end, _, _ in snapshot(engine).values())
        else:  # a round may have been dropped to make room, which the repeated step would do too
            assert all(
                now[0] <= then[0]
                for now, then in zip(snapshot(engine).values(), before.values(), strict=True)
            )
        attention.is_armed = False
        assert engine.step() == sound.step()
    assert num_failures > 12
    assert {name: engine.window(name) for name in feeds} == {name: sound.window(name) for name in feeds}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("failing", ["copy", "copy_turned"])
def test_copying_can_fail_at_any_time_and_the_step_be_repeated(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch, failing: str, error: type[BaseException]
) -> None:
    """Prefixes saved and copied, and rounds that leave one by one and several at once."""
    config = replace(CONFIG, window_rounds=8, max_window_tokens=260)
    engine, sound = Engine(model, config), Engine(model, config)
    feeds = {"early": small_then_large(model, 0), "late": small_then_large(model, 1)}
    num_left, failures = [], 0
    real: Callable[..., None] = getattr(engine._memory.cache, failing)

    def fail_when_armed(*arguments: object) -> None:
        nonlocal is_armed, failures
        real(*arguments)
        if is_armed:
            is_armed, failures = False, failures + 1
            raise error("in the middle")

    monkeypatch.setattr(engine._memory.cache, failing, fail_when_armed)
    for name, rounds in feeds.items():
        for each in (engine, sound):
            each.open(name, INSTRUCTIONS[0])
        for one in rounds:
            for each in (engine, sound):
                each.append(name, one)
            while sound.has_work:
                evicted, is_armed, before = engine.stats.evicted_rounds, True, failures
                try:
                    outputs = engine.step()
                except error:
                    engine.check_integrity()
                    outputs = engine.step()
                assert outputs == sound.step()
                engine.check_integrity()
                if failures > before:
                    num_left.append(engine.stats.evicted_rounds - evicted)
    assert engine.stats == sound.stats and not engine.has_work
    assert max(num_left) > 1 and num_left.count(1) > 2
    assert num_left.count(0) == (2 if failing == "copy" else 0), "the prefix is saved once and copied once"


def small_then_large(model: LanguageModel, seed: int) -> list:
    small, large = (make_rounds(model, seed, 12, grids=[grid]) for grid in ((1, 1), (2, 5)))
    return [*small[:7], *large[7:9], *small[9:]]


def test_logits_that_are_no_numbers_name_their_session_and_harm_no_other(model: LanguageModel) -> None:
    engine = Engine(model, CONFIG)
    rounds = make_rounds(model, 0, 3)
    for name in ("good", "bad"):
        engine.open(name, INSTRUCTIONS[0])
    engine.append("good", rounds[0])
    engine.append("bad", replace(rounds[0], frame=rounds[0].frame * float("nan")))
    with pytest.raises(BadLogits) as raised:
        engine.step()
    assert raised.value.session_ids == ("bad",)
    engine.close("bad")
    found = run_all(engine, {"good": rounds[1:]})["good"]

    alone = Engine(model, CONFIG)
    alone.open("good", INSTRUCTIONS[0])
    assert_same(found, run_all(alone, {"good": rounds})["good"])


def test_a_bad_frame_of_a_replay_harms_no_session_that_begins_alike(model: LanguageModel) -> None:
    """Nothing of a replay is read, and behind it stands the prefix that others take over."""
    engine = Engine(model, CONFIG)
    (one,) = make_rounds(model, 0, 1)
    silence = tuple(model.dialogue.reply(State.SILENCE))
    bad = replace(one, frame=one.frame * float("nan"), forced_reply=silence)
    engine.open("bad", INSTRUCTIONS[0], [bad])
    with pytest.raises(BadLogits) as raised:
        engine.step()
    assert raised.value.session_ids == ("bad",)
    engine.close("bad")
    engine.open("good", INSTRUCTIONS[0])
    found = run_all(engine, {"good": make_rounds(model, 1, 3)})["good"]
    alone = Engine(model, CONFIG)
    alone.open("good", INSTRUCTIONS[0])
    assert_same(found, run_all(alone, {"good": make_rounds(model, 1, 3)})["good"])


def test_a_session_that_could_never_fit_is_not_asked_to_wait(model: LanguageModel) -> None:
    with pytest.raises(ValueError, match="the whole budget is 16: raise max_kv_tokens"):
        Engine(model, replace(CONFIG, max_kv_tokens=16))
    with pytest.raises(ValueError, match=r"max_window_tokens \(1\) cannot hold"):
        Engine(model, replace(CONFIG, max_window_tokens=1))
    shortest = Engine(model, CONFIG)
    shortest.open("gate", ".")
    needed = shortest.stats.held_blocks * CONFIG.block_tokens
    engine = Engine(model, replace(CONFIG, max_kv_tokens=needed))
    with pytest.raises(ValueError, match="the whole budget"):
        engine.open("gate", INSTRUCTIONS[0] * 3)
    engine.open("gate", ".")
    engine.check_integrity()


@pytest.mark.parametrize("position", [-1, 2**53 + 1, 1.0, None])
def test_positions_begin_at_a_whole_number(model: LanguageModel, position: object) -> None:
    engine = Engine(model, CONFIG)
    with pytest.raises(ValueError, match="first_position"):
        engine.open("gate", INSTRUCTIONS[0], first_position=position)
    engine.check_integrity()


def test_a_session_that_might_not_fit_is_refused_and_closing_makes_room(model: LanguageModel) -> None:
    engine = Engine(model, replace(CONFIG, max_sessions=100, max_kv_tokens=1000))
    engine.open("s0", INSTRUCTIONS[0])
    reserved = engine.stats.held_blocks
    opened = 1
    while engine.stats.free_blocks >= reserved:
        engine.open(f"s{opened}", INSTRUCTIONS[0])
        opened += 1
    with pytest.raises(EngineFull) as raised:
        engine.open("late", INSTRUCTIONS[0])
    message = str(raised.value)
    budget = 1000 // 16 * 16
    assert f"budget {budget}" in message and f"used {16 * engine.stats.held_blocks}" in message
    needed = int(message.rsplit("needed ", 1)[1])
    assert 16 * engine.stats.free_blocks < needed <= budget
    engine.check_integrity()

    feeds = {f"s{i}": make_rounds(model, i, 10, grids=[(2, 5)]) for i in range(opened)}
    run_all(engine, feeds)  # the worst that sessions may hold fits
    engine.close("s0")
    engine.open("late", INSTRUCTIONS[0])
    engine.check_integrity()


def test_max_sessions_is_kept(model: LanguageModel) -> None:
    engine = Engine(model, replace(CONFIG, max_sessions=2))
    engine.open("a", INSTRUCTIONS[0])
    engine.open("b", INSTRUCTIONS[0])
    with pytest.raises(EngineFull, match="max_sessions is 2"):
        engine.open("c", INSTRUCTIONS[0])


def test_close_frees_everything_even_in_the_middle_of_a_reply(model: LanguageModel) -> None:
    engine = Engine(model, CONFIG)
    free = engine.stats.free_blocks
    rounds = make_rounds(model, 0, 40)
    engine.open("gate", INSTRUCTIONS[0])
    replying = 0
    for one in rounds:
        engine.append("gate", one)
        (decision,) = engine.step()
        if decision.state is State.RESPONSE:
            replying += 1
            engine.close("gate")
            engine.check_integrity()
            assert engine.stats.free_blocks == free and not engine.has_work
            engine.open("gate", INSTRUCTIONS[0])
    assert replying > 2


def test_reused_slots_give_what_new_ones_give(model: LanguageModel) -> None:
    rounds = make_rounds(model, 0, 10)
    engine = Engine(model, CONFIG)
    engine.open("first", INSTRUCTIONS[0])
    first = run_all(engine, {"first": rounds})["first"]
    engine.open("other", INSTRUCTIONS[1])
    run_all(engine, {"other": make_rounds(model, 5, 10)})
    engine.close("first")
    engine.open("again", INSTRUCTIONS[0])
    assert_same(run_all(engine, {"again": rounds})["again"], first)


def test_a_full_queue_refuses(model: LanguageModel) -> None:
    engine = Engine(model, replace(CONFIG, max_pending_rounds=2))
    rounds = make_rounds(model, 0, 3)
    engine.open("gate", INSTRUCTIONS[0])
    assert [engine.append("gate", one) for one in rounds[:2]] == [0, 1]
    assert not engine.can_append("gate")
    with pytest.raises(QueueFull):
        engine.append("gate", rounds[2])
    engine.step()
    assert engine.can_append("gate")


def test_sessions_are_told_apart(model: LanguageModel) -> None:
    engine = Engine(model, CONFIG)
    engine.open("gate", INSTRUCTIONS[0])
    with pytest.raises(SessionExists):
        engine.open("gate", INSTRUCTIONS[0])
    for call in (engine.close, engine.can_append, engine.window):
        with pytest.raises(UnknownSession, match="door"):
            call("door")
    assert engine.step() == [] and not engine.has_work


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"grid": (3, 3)}, "grid"),
        ({"frame": torch.zeros(6)}, "frame"),
        ({"frame": torch.tensor(1.0)}, "frame"),
        ({"grid": (2, 3, 1)}, "grid"),
        ({"start_ms": 0.5}, "start_ms"),
        ({"end_ms": 2500.0}, "end_ms"),
        ({"frame": torch.zeros(6, 3), "grid": (2, 3)}, "frame"),
        ({"frame": torch.zeros(12, 64), "grid": (3, 4)}, "max_frame_tokens"),
        ({"start_ms": -1}, "start_ms"),
        ({"start_ms": 10**6, "end_ms": 10}, "end_ms"),
        ({"end_ms": 10**14}, "end_ms"),
        ({"deadline_ms": math.nan}, "deadline_ms"),
        ({"forced_reply": ()}, "forced_reply"),
        ({"forced_reply": (5,)}, "forced_reply"),
    ],
)
def test_a_malformed_round_is_refused_and_names_its_field(
    model: LanguageModel, change: dict, named: str
) -> None:
    engine = Engine(model, CONFIG)
    (one,) = make_rounds(model, 0, 1, grids=[(2, 3)])
    engine.open("gate", INSTRUCTIONS[0])
    with pytest.raises(ValueError, match=named):
        engine.append("gate", replace(one, **change))
    assert not engine.has_work
    free = engine.stats.free_blocks
    good = replace(one, forced_reply=tuple(model.dialogue.reply(State.SILENCE)))
    with pytest.raises(ValueError, match=named):
        engine.open("other", INSTRUCTIONS[0], [good, replace(good, **change)])
    assert engine.stats.free_blocks == free
    engine.check_integrity()


def test_forced_replies_hold_what_a_reply_may_hold(model: LanguageModel) -> None:
    engine = Engine(model, CONFIG)
    (one,) = make_rounds(model, 0, 1)
    engine.open("gate", INSTRUCTIONS[0])
    silence, _, response = model.dialogue.state_token_ids
    for reply in (
        (silence, 5),
        (response, *[5] * 6),
        (response, 5, silence),
        (response, model.dialogue.end_token_id),
        (response, model.vocab_size),
        (response, -1),
    ):
        with pytest.raises(ValueError, match="forced_reply"):
            engine.append("gate", replace(one, forced_reply=reply))


@pytest.mark.parametrize("sensitivity", [math.nan, math.inf])
def test_sensitivity_is_a_number(model: LanguageModel, sensitivity: float) -> None:
    engine = Engine(model, CONFIG)
    with pytest.raises(ValueError, match="sensitivity"):
        engine.open("gate", INSTRUCTIONS[0], sensitivity=sensitivity)


def test_past_rounds_need_replies_and_instructions_words(model: LanguageModel) -> None:
    engine = Engine(model, CONFIG)
    with pytest.raises(ValueError, match=r"past_rounds\[0\]"):
        engine.open("gate", INSTRUCTIONS[0], make_rounds(model, 0, 1))
    with pytest.raises(ValueError, match="instruction"):
        engine.open("gate", " ")
    engine.check_integrity()
    engine.open("gate", INSTRUCTIONS[0])


@pytest.mark.parametrize(
    "name",
    [
        "max_sessions",
        "max_kv_tokens",
        "max_batch_tokens",
        "window_rounds",
        "max_window_tokens",
        "max_frame_tokens",
        "pinned_positions",
    ],
)
def test_settings_that_cannot_work_are_named(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        replace(CONFIG, **{name: 0})


def test_the_integrity_check_finds_planted_faults(model: LanguageModel) -> None:
    def planted(fault: Callable[[Engine], None]) -> None:
        engine = Engine(model, CONFIG)
        engine.open("gate", INSTRUCTIONS[0])
        run_all(engine, {"gate": make_rounds(model, 0, 6)})
        fault(engine)
        with pytest.raises(IntegrityError):
            engine.check_integrity()

    planted(lambda engine: engine._memory.pool.release(np.array([0])))
    planted(lambda engine: engine._memory.pool.allocate(1))
    planted(lambda engine: setattr(engine._sessions["gate"].table, "end", 3))
    planted(lambda engine: engine._sessions["gate"].rounds.popleft())
    planted(lambda engine: engine._sessions["gate"].table._owners.__setitem__(0, 5))
