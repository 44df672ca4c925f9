"""Sessions that begin alike share one master copy of their pinned prefix."""

import pytest
import torch
from engine_oracle import Oracle, full_forward
from engine_support import INSTRUCTIONS, Plan, assert_same, collect, make_rounds, run_all, run_plans

from models.engine.config import EngineConfig
from models.engine.engine import Engine
from models.engine.errors import IntegrityError
from models.vlm.model import LanguageModel


def engine_of(model: LanguageModel, **changes: int) -> Engine:
    values = {"max_sessions": 8, "max_kv_tokens": 8192, "max_batch_tokens": 512, "max_frame_tokens": 10}
    return Engine(model, EngineConfig(**{**values, "window_rounds": 6, **changes}))


def num_pinned(model: LanguageModel, instruction: str) -> int:
    return len(model.dialogue.pinned_prefix(instruction))


def test_a_prefix_is_fed_once_for_all_who_come_later(model: LanguageModel) -> None:
    engine = engine_of(model)
    feeds = {f"s{i}": make_rounds(model, i, 6) for i in range(4)}
    found = {}
    for name, rounds in feeds.items():
        before = engine.stats.extend_tokens
        engine.open(name, INSTRUCTIONS[0])
        engine.append(name, rounds[0])
        collect(engine.step(), found)
        one = rounds[0]
        head = len(model.dialogue.round_head(one.start_ms, one.end_ms, len(one.frame)))
        fed = engine.stats.extend_tokens - before
        assert fed == head + (num_pinned(model, INSTRUCTIONS[0]) if name == "s0" else 0)
        while engine.has_work:
            collect(engine.step(), found)
    assert engine.stats.pinned_prefixes == 1
    rest = run_all(engine, {name: rounds[1:] for name, rounds in feeds.items()})
    for name, rounds in feeds.items():
        outcomes = [found[name][0], *rest[name]]
        assert_same(outcomes, full_forward(model, INSTRUCTIONS[0], rounds, outcomes))


@pytest.mark.parametrize("first_position", [0, 10**7])
def test_the_copy_is_untouched_by_what_became_of_the_first_session(
    model: LanguageModel, first_position: int
) -> None:
    """The first one's own pinned keys have been turned away, and it may be closed."""
    engine = engine_of(model, window_rounds=2)
    engine.open("first", INSTRUCTIONS[0], first_position=first_position)
    engine.open("heir", INSTRUCTIONS[0], first_position=first_position)
    run_all(engine, {"first": make_rounds(model, 1, 12)})
    engine.close("first")
    engine.check_integrity()
    fed = engine.stats.extend_tokens
    engine.open("last", INSTRUCTIONS[0], first_position=first_position)
    feeds = {"heir": make_rounds(model, 2, 8), "last": make_rounds(model, 3, 8)}
    found = run_all(engine, feeds)
    for name, rounds in feeds.items():
        oracle = Oracle(model, INSTRUCTIONS[0], 2, first_position)
        assert_same(found[name], [oracle.round(one) for one in rounds])
    heads = [
        len(model.dialogue.round_head(one.start_ms, one.end_ms, len(one.frame)))
        for rounds in feeds.values()
        for one in rounds
    ]
    assert engine.stats.extend_tokens - fed < sum(heads) + 16 * len(model.dialogue.round_tail) + 16


def test_sessions_that_begin_otherwise_do_not_share(model: LanguageModel) -> None:
    engine = engine_of(model)
    plans = {
        "a": Plan(INSTRUCTIONS[0], (), make_rounds(model, 0, 2)),
        "b": Plan(INSTRUCTIONS[1], (), make_rounds(model, 1, 2), opens_at=3),
        "c": Plan(INSTRUCTIONS[0], (), make_rounds(model, 2, 2), opens_at=6, first_position=7),
        "d": Plan(INSTRUCTIONS[0], (), make_rounds(model, 3, 2), opens_at=9),
    }
    run_plans(engine, plans)
    assert engine.stats.pinned_prefixes == 3
    prefixes = {name: engine._sessions[name].prefix for name in plans}
    assert prefixes["a"] is prefixes["d"] and len(set(prefixes.values())) == 3


def test_the_master_goes_with_its_last_session(model: LanguageModel) -> None:
    engine = engine_of(model)
    rounds = make_rounds(model, 0, 4)
    engine.open("a", INSTRUCTIONS[0])
    held_by_one = engine.stats.held_blocks
    engine.open("b", INSTRUCTIONS[0])
    first = run_all(engine, {"a": rounds, "b": rounds})["a"]
    window_blocks = len(engine._sessions["a"].table.blocks)
    assert engine.stats.held_blocks == held_by_one + window_blocks
    master_blocks = -(-num_pinned(model, INSTRUCTIONS[0]) // 16)
    assert held_by_one == window_blocks + master_blocks
    engine.close("a")
    engine.check_integrity()
    assert engine.stats.held_blocks == held_by_one and engine.stats.pinned_prefixes == 1
    engine.close("b")
    engine.check_integrity()
    assert engine.stats.held_blocks == 0 and engine.stats.pinned_prefixes == 0

    before = engine.stats.extend_tokens
    engine.open("c", INSTRUCTIONS[0])
    assert_same(run_all(engine, {"c": rounds})["c"], first)
    assert engine.stats.extend_tokens - before > num_pinned(model, INSTRUCTIONS[0])


def test_a_session_that_shares_is_admitted_where_another_is_not(model: LanguageModel) -> None:
    probe = engine_of(model)
    probe.open("a", INSTRUCTIONS[0])
    window_blocks = len(probe._sessions["a"].table.blocks)
    engine = engine_of(model, max_kv_tokens=(probe.stats.held_blocks + window_blocks) * 16)
    engine.open("a", INSTRUCTIONS[0])
    with pytest.raises(RuntimeError, match="refused"):
        engine.open("other", INSTRUCTIONS[0], first_position=1)
    engine.check_integrity()
    engine.open("like a", INSTRUCTIONS[0])
    assert engine.stats.free_blocks == 0
    engine.check_integrity()


def test_those_who_begin_in_one_step_each_feed_it(model: LanguageModel) -> None:
    engine = engine_of(model)
    feeds = {name: make_rounds(model, seed, 3) for seed, name in enumerate(("a", "b"))}
    for name in feeds:
        engine.open(name, INSTRUCTIONS[0])
    found = run_all(engine, feeds)
    for name, rounds in feeds.items():
        assert_same(found[name], full_forward(model, INSTRUCTIONS[0], rounds, found[name]))
    assert engine.stats.pinned_prefixes == 1


def test_the_integrity_check_counts_holders(model: LanguageModel) -> None:
    def planted(fault) -> None:
        engine = engine_of(model)
        for name in ("a", "b"):
            engine.open(name, INSTRUCTIONS[0])
        run_all(engine, {"a": make_rounds(model, 0, 2), "b": make_rounds(model, 1, 2)})
        engine.check_integrity()
        fault(engine, engine._sessions["a"])
        with pytest.raises(IntegrityError):
            engine.check_integrity()

    planted(lambda engine, session: engine._memory.pool.release(session.prefix.blocks))
    planted(lambda engine, session: engine._memory.pool.share(session.prefix.blocks))
    planted(lambda engine, session: engine._memory.pool.share(session.table.blocks))
    planted(lambda engine, session: setattr(session.prefix, "is_saved", False))
    planted(lambda engine, session: setattr(session.rounds[0], "num_tokens", 1))


def test_a_hundred_cameras_with_one_instruction(model: LanguageModel) -> None:
    """All of them open at once; those beyond the first step's budget copy."""
    engine = engine_of(model, max_sessions=100, max_kv_tokens=100_000, window_rounds=2, max_batch_tokens=256)
    feeds = {f"s{i}": make_rounds(model, i, 1, grids=[(1, 3)]) for i in range(100)}
    for name in feeds:
        engine.open(name, INSTRUCTIONS[0])
    found = run_all(engine, feeds, check_integrity=False)
    engine.check_integrity()
    for name in ("s0", "s50", "s99"):
        assert_same(found[name], full_forward(model, INSTRUCTIONS[0], feeds[name], found[name]))
    pinned = num_pinned(model, INSTRUCTIONS[0])
    assert engine.stats.extend_tokens < 100 * 40 + 4 * pinned
    keys = engine._memory.cache.keys
    tables = [session.table for session in engine._sessions.values()]
    first = keys[:, torch.from_numpy(tables[0].pinned_slots)]
    assert all(torch.allclose(first, keys[:, torch.from_numpy(t.pinned_slots)], atol=1e-5) for t in tables)
