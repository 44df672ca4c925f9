"""The bookkeeping of the engine: blocks, slots, and who runs next. None of it needs torch."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from engine_support import INSTRUCTIONS, tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from models.engine.block_pool import BlockPool
from models.engine.config import EngineConfig, SessionLimits
from models.engine.errors import IntegrityError
from models.engine.piece import PINNED, Piece
from models.engine.pinned_prefix import PinnedPrefix
from models.engine.round import RoundInput
from models.engine.scheduler import Row, Scheduler
from models.engine.session import Session
from models.engine.slot_table import SlotTable
from models.vlm.dialogue import Dialogue
from models.vlm.state import State
from models.vlm.streamo_config import StreamoConfig

DIALOGUE = Dialogue(tokenizer(), "Watch.")
LIMITS = SessionLimits.of(
    EngineConfig(max_sessions=8, max_kv_tokens=4096, max_batch_tokens=64, max_frame_tokens=9),
    StreamoConfig(window_rounds=5, max_reply_tokens=4, system_prompt="Watch."),
    DIALOGUE,
)
FRAME = np.zeros((4, 1))  # the books look at nothing but its shape


def test_the_books_import_without_torch() -> None:
    modules = (
        "config",
        "errors",
        "round",
        "piece",
        "block_pool",
        "slot_table",
        "session",
        "fair_share",
        "scheduler",
    )
    modules += ("pinned_prefix", "engine_stats", "round_check", "fair_share")
    imports = ", ".join(f"models.engine.{module}" for module in modules)
    program = f"import {imports}, sys; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=110).returncode == 0


# --- blocks


@settings(deadline=None)
@given(requests=st.lists(st.integers(1, 12), max_size=30), data=st.data())
def test_blocks_are_free_again_when_nobody_holds_them(requests: list[int], data: st.DataObject) -> None:
    pool, held = BlockPool(40), []
    for request in requests:
        if request > pool.num_free:
            with pytest.raises(ValueError, match="free"):
                pool.allocate(request)
            pool.release(held.pop(data.draw(st.integers(0, len(held) - 1))))
        elif held and request % 3 == 0:
            held.append(held[data.draw(st.integers(0, len(held) - 1))])
            pool.share(held[-1])
        else:
            blocks = pool.allocate(request)
            assert len(blocks) == request and (np.diff(blocks) > 0).all()
            assert not any(set(blocks) & set(others) for others in held)
            held.append(blocks)
        pool.check_integrity(held)
        assert pool.num_free == 40 - len({block for blocks in held for block in blocks})


def test_blocks_come_as_one_run_while_there_is_one() -> None:
    pool = BlockPool(10)
    first, second, third = (pool.allocate(3) for _ in range(3))
    pool.release(second)
    assert pool.allocate(1).tolist() == [9], "the shortest run that fits"
    assert pool.allocate(2).tolist() == [3, 4]
    pool.release(first)
    assert pool.allocate(4).tolist() == [0, 1, 2, 5], "no run is left, so whatever is free"
    pool.release(third)


def test_lost_and_doubled_blocks_are_found() -> None:
    pool = BlockPool(4)
    blocks = pool.allocate(2)
    for held in ([], [blocks, blocks[:1]], [np.array([0, 1, 2])]):
        with pytest.raises(IntegrityError):
            pool.check_integrity(held)
    pool.check_integrity([blocks])
    for call in (pool.share, pool.release):
        with pytest.raises(IntegrityError):
            call(np.array([1, 2]))
    pool.check_integrity([blocks])


# --- slots


def piece(owner: int, num_tokens: int) -> Piece:
    return Piece(np.zeros(num_tokens, dtype=np.int64), np.zeros((3, num_tokens), dtype=np.int64), owner)


@settings(max_examples=40, deadline=None)
@given(
    num_pinned=st.integers(1, 5),
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=40),
    window_rounds=st.integers(1, 4),
    block_tokens=st.integers(1, 5),
    data=st.data(),
)
def test_dropping_a_round_keeps_exactly_the_others_without_a_hole(
    num_pinned: int, lengths: list[int], window_rounds: int, block_tokens: int, data: st.DataObject
) -> None:
    """Plays the moves on an array that stands for the cache: each slot holds the name of its token."""
    capacity = num_pinned + 9 * window_rounds
    num_blocks = -(-capacity // block_tokens)
    order = np.array(data.draw(st.permutations(range(2 * num_blocks)))[:num_blocks])
    table = SlotTable(np.sort(order), block_tokens, capacity, num_pinned)
    cache = np.full(2 * num_blocks * block_tokens, None)
    names, window = set(), []

    def feed(owner: int, num_tokens: int) -> None:
        for attempt in ("failed", "good"):
            slots = table.extend([piece(owner, num_tokens)])
            new = [(owner, token, attempt) for token in range(num_tokens)]
            for slot, name in zip(slots, new, strict=True):
                cache[slot] = name
            assert table.slots[-num_tokens:].tolist() == slots.tolist(), "the new ones come last, in order"
            if attempt == "failed":
                table.trim()
        table.commit()
        names.update(new)

    feed(PINNED, num_pinned)
    for index, num_tokens in enumerate(lengths):
        if len(window) == window_rounds:
            oldest = window.pop(0)
            eviction = table.plan_eviction(oldest + 1)
            cache[eviction.targets] = cache[eviction.sources]
            table.evict(eviction)
            names = {name for name in names if name[0] != oldest}
        feed(index, num_tokens)
        window.append(index)
        assert set(cache[table.slots]) == names and len(table.slots) == len(names) == table.length
        assert [name[0] for name in cache[table.pinned_slots]] == [PINNED] * num_pinned
        assert table.owners() == {PINNED, *window}
        assert table.is_pinned_in_place(num_pinned)
        run = table.slots
        assert (table.first_slot is None) or (run == table.first_slot + np.arange(len(run))).all()


def test_a_step_beyond_the_reservation_is_refused() -> None:
    table = SlotTable(np.arange(3), 4, 8, 2)
    table.extend([piece(PINNED, 2), piece(0, 6)])
    with pytest.raises(ValueError, match="exceeded"):
        table.extend([piece(0, 1)])


@settings(deadline=None)
@given(
    num_tokens=st.integers(1, 12),
    frame_start=st.integers(0, 5),
    num_rows=st.integers(0, 6),
    at=st.integers(0, 12),
)
def test_a_cut_piece_keeps_its_frame_rows_on_their_tokens(
    num_tokens: int, frame_start: int, num_rows: int, at: int
) -> None:
    num_tokens = max(num_tokens, frame_start + num_rows)
    at = min(at, num_tokens)
    ids = np.arange(num_tokens)
    whole = Piece(ids, np.tile(ids, (3, 1)), 7, ids[frame_start : frame_start + num_rows], frame_start)
    found = []
    for part in whole.cut(at):
        rows_on = part.token_ids[part.frame_start : part.frame_start + len(part.frame)]
        assert rows_on.tolist() == part.frame.tolist()
        assert part.positions[0].tolist() == part.token_ids.tolist() and part.owner == 7
        found += [*part.token_ids]
    assert found == ids.tolist()


# --- who runs next


def session(name: str, ticket: int, num_past: int = 0, num_queued: int = 0) -> Session:
    silence = tuple(DIALOGUE.reply(State.SILENCE))
    past = [RoundInput(0, 1000, FRAME, (2, 2), silence)] * num_past
    capacity = LIMITS.max_window_tokens(20)
    prefix = PinnedPrefix(DIALOGUE.pinned_prefix(INSTRUCTIONS[0])[:20], 0, np.arange(20), 1)
    prefix.is_saved = True
    table = SlotTable(np.arange(capacity), 1, capacity, 20)
    made = Session(name, DIALOGUE, LIMITS, prefix, past, table, ticket)
    for _ in range(num_queued):
        made.append(RoundInput(0, 1000, FRAME, (2, 2)), ticket)
    begin(made)
    return made


def begin(made: Session) -> None:
    while made.can_begin_round:
        if plan := made.plan_eviction():
            made.evict(plan)
        made.begin_round()


def run(rows: list[Row], state: State = State.SILENCE) -> None:
    for row in rows:
        assert sum(map(len, row.pieces)) == row.num_tokens > 0
        row.session.table.extend(row.pieces)
        row.session.commit(row.num_tokens)
        if row.reads_logits:
            row.session.accept(5) if row.session.is_replying else row.session.decide(state)
        begin(row.session)


def replying(name: str, ticket: int) -> Session:
    made = session(name, ticket, num_queued=1)
    run(Scheduler(1000).next_rows([made]), State.RESPONSE)
    assert made.is_replying and made.num_due == 1
    return made


def named(rows: list[Row]) -> list[tuple[str, int]]:
    return [(row.session.session_id, row.num_tokens) for row in rows]


def test_rounds_run_in_order_of_arrival_and_whole() -> None:
    sessions = [session(name, ticket, num_queued=1) for name, ticket in (("c", 3), ("a", 1), ("b", 2))]
    size = sessions[0].num_due
    assert named(Scheduler(3 * size).next_rows(sessions)) == [("a", size), ("b", size), ("c", size)]
    assert named(Scheduler(2 * size + size // 2).next_rows(sessions)) == [("a", size), ("b", size)]
    assert named(Scheduler(size // 2).next_rows(sessions)) == [("a", size // 2)], "too long for any step: cut"


def test_a_cut_round_goes_on_first_and_decides_at_its_end() -> None:
    sessions = [session("a", 1, num_queued=1), session("b", 2, num_queued=1)]
    size = sessions[0].num_due
    rows = Scheduler(size - 1).next_rows(sessions)
    assert named(rows) == [("a", size - 1)] and not rows[0].reads_logits
    run(rows)
    rows = Scheduler(size + 1).next_rows(sessions)
    assert named(rows) == [("a", 1), ("b", size)] and all(row.reads_logits for row in rows)


def test_a_later_round_of_a_busy_session_waits_behind_others() -> None:
    busy, other = session("busy", 1, num_queued=2), session("other", 2, num_queued=1)
    busy._queue[0] = (3, busy._queue[0][1])
    size = other.num_due
    run(Scheduler(size).next_rows([busy, other]))
    assert named(Scheduler(size).next_rows([busy, other])) == [("other", size)]


def test_running_replies_come_first_but_leave_room() -> None:
    sessions = [replying(f"r{i}", i) for i in range(6)] + [session("new", 9, num_queued=1)]
    rows = Scheduler(8).next_rows(sessions)
    assert named(rows) == [("r0", 1), ("r1", 1), ("r2", 1), ("r3", 1), ("new", 4)]


def test_replays_take_what_is_left_and_at_least_a_quarter() -> None:
    replay, lives = (
        session("replay", 1, num_past=4),
        [session(f"l{i}", 2 + i, num_queued=1) for i in range(4)],
    )
    size = lives[0].num_due
    rows = Scheduler(2 * size).next_rows([replay, *lives])
    assert named(rows) == [("l0", size), ("replay", size)]
    rows = Scheduler(8 * size).next_rows([replay, *lives[:1]])
    assert named(rows) == [("l0", size), ("replay", replay.num_due)]
    assert not rows[1].reads_logits


def test_two_replays_run_oldest_first() -> None:
    old, new = session("old", 1, num_past=4), session("new", 2, num_past=4)
    rows = Scheduler(old.num_due + 5).next_rows([new, old])
    assert named(rows) == [("old", old.num_due), ("new", 5)]


@settings(max_examples=40, deadline=None)
@given(
    kinds=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4)), min_size=1, max_size=6),
    max_batch_tokens=st.integers(8, 200),
)
def test_every_session_comes_to_an_end_within_the_budget(
    kinds: list[tuple[int, int]], max_batch_tokens: int
) -> None:
    sessions = [session(f"s{i}", i, num_past, num_queued) for i, (num_past, num_queued) in enumerate(kinds)]
    scheduler, turn = Scheduler(max_batch_tokens), 0
    while rows := scheduler.next_rows(sessions):
        assert sum(row.num_tokens for row in rows) <= max_batch_tokens
        assert len({row.session.session_id for row in rows}) == len(rows)
        run(rows, State(turn % 3))
        turn += 1
        assert turn < 2000
    for made, (num_past, num_queued) in zip(sessions, kinds, strict=True):
        made.check_integrity()
        assert not made.has_work
        assert made.view().first_round + len(made.view().states) == num_past + num_queued


def test_limits_hold_for_the_longest_tag_and_reply() -> None:
    assert replace(LIMITS, window_rounds=1).max_window_tokens(20) == 20 + LIMITS.max_round_tokens
    assert replace(LIMITS, window_tokens=200).max_window_tokens(20) == 200
    assert replace(LIMITS, window_tokens=10**6).max_window_tokens(20) == LIMITS.max_window_tokens(20)
    with pytest.raises(ValueError, match="max_window_tokens"):
        replace(LIMITS, window_tokens=20 + LIMITS.max_round_tokens - 1).max_window_tokens(20)
    head = DIALOGUE.round_head(10**12, 10**12 + 100, 9)
    assert LIMITS.max_round_tokens >= len(head) + 1 + 4 + len(DIALOGUE.round_tail)
