"""Who runs in the next step, in simulated time: a step takes as long as it has tokens, whatever they are."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.engine.scheduler import Row, Scheduler

REPLAY, ROUND, REPLY = "replay", "round", "reply"


@dataclass
class Turn:
    num_tokens: int
    deadline_ms: float = math.inf
    ticket: int = 0
    kind: str = ROUND
    at: int = 0  # when it came


@dataclass
class Waiting:
    """What the scheduler sees of a session."""

    session_id: str
    stream_id: str = ""
    turns: deque[Turn] = field(default_factory=deque)
    num_done: int = 0  # tokens of the first turn

    @property
    def num_due(self) -> int:
        return self.turns[0].num_tokens - self.num_done if self.turns else 0

    @property
    def deadline_ms(self) -> float:
        return self.turns[0].deadline_ms if self.turns else math.inf

    @property
    def ticket(self) -> int:
        return self.turns[0].ticket if self.turns else 0

    @property
    def is_replaying(self) -> bool:
        return self.kind == REPLAY

    @property
    def is_replying(self) -> bool:
        return self.kind == REPLY

    @property
    def kind(self) -> str:
        return self.turns[0].kind if self.turns else ""

    @property
    def awaits_logits(self) -> bool:
        return not self.is_replaying

    @property
    def stream(self) -> str:
        return self.stream_id or self.session_id

    def take(self, num_tokens: int) -> list[range]:
        return [range(num_tokens)]

    def feed(self, num_tokens: int) -> Turn | None:
        """The turn that this ends."""
        self.num_done += num_tokens
        if self.num_done < self.turns[0].num_tokens:
            return None
        self.num_done = 0
        return self.turns.popleft()


class World:
    def __init__(self, max_batch_tokens: int, next_rows: Callable[..., list[Row]] | None = None) -> None:
        self.scheduler = Scheduler(max_batch_tokens)
        self.next_rows = next_rows or self.scheduler.next_rows
        self.sessions: list[Waiting] = []
        self.now = 0
        self.given: list[Counter[str]] = []  # tokens by stream, a step each
        self.kept_waiting: list[set[str]] = []  # streams that a step left something of
        self.done: list[tuple[str, Turn, int]] = []  # session, its turn, when it was over
        self._tickets = count(1)

    def open(self, session_id: str, stream_id: str = "") -> Waiting:
        self.sessions.append(Waiting(session_id, stream_id))
        return self.sessions[-1]

    def add(
        self, session: Waiting, num_tokens: int, deadline_ms: float = math.inf, kind: str = ROUND
    ) -> None:
        session.turns.append(Turn(num_tokens, deadline_ms, next(self._tickets), kind, self.now))

    def step(self) -> list[tuple[str, int]]:
        before = {session.session_id: session.turns[0] for session in self.sessions if session.turns}
        rows = self.next_rows(self.sessions)
        given: Counter[str] = Counter()
        self.now += sum(row.num_tokens for row in rows)
        for row in rows:
            assert 0 < row.num_tokens <= row.session.num_due
            given[row.session.stream] += row.num_tokens
            ended = row.session.feed(row.num_tokens)
            assert row.reads_logits == (ended is not None and ended.kind != REPLAY)
            if ended is not None:
                self.done.append((row.session.session_id, ended, self.now))
        self.scheduler.commit()
        self.given.append(given)
        # What was due when the step began and still is.
        self.kept_waiting.append(
            {s.stream for s in self.sessions if s.turns and s.turns[0] is before.get(s.session_id)}
        )
        return named(rows)


def named(rows: Iterable[Row]) -> list[tuple[str, int]]:
    return [(row.session.session_id, row.num_tokens) for row in rows]


def earliest_deadline_first(max_batch_tokens: int) -> Callable[[Sequence[Waiting]], list[Row]]:
    """Rounds alone, by the book: a round that was cut is not put off, and else only the first is cut."""

    def next_rows(sessions: Sequence[Waiting]) -> list[Row]:
        rows: list[Row] = []
        left = max_batch_tokens
        for session in sorted(sessions, key=lambda s: (not s.num_done, s.deadline_ms, s.ticket)):
            if not session.num_due or left == 0 or (rows and session.num_due > left):
                if session.num_due:
                    break
                continue
            num_tokens = min(left, session.num_due)
            rows.append(Row(session, session.take(num_tokens), num_tokens, num_tokens == session.num_due))
            left -= num_tokens
        return rows

    return next_rows


turns = st.builds(
    Turn,
    num_tokens=st.integers(1, 60),
    deadline_ms=st.one_of(st.just(math.inf), st.integers(0, 5).map(float)),
    ticket=st.integers(0, 1000),
    kind=st.sampled_from([REPLAY, ROUND, ROUND, REPLY]),
)


@settings(max_examples=100, deadline=None)
@given(
    given_turns=st.lists(
        st.tuples(st.sampled_from(["", "a", "b", "c"]), st.lists(turns, max_size=3)), max_size=12
    ),
    max_batch_tokens=st.integers(8, 90),
    data=st.data(),
)
def test_every_step_keeps_the_rules(
    given_turns: list[tuple[str, list[Turn]]], max_batch_tokens: int, data: st.DataObject
) -> None:
    world = World(max_batch_tokens)
    for index, (stream_id, its_turns) in enumerate(given_turns):
        session = world.open(f"s{index}", stream_id)
        for turn in its_turns:
            num_tokens = 1 if turn.kind == REPLY else turn.num_tokens
            ticket = 12 * turn.ticket + index  # no two sessions have the same
            session.turns.append(replace(turn, num_tokens=num_tokens, ticket=ticket))
    while any(session.num_due for session in world.sessions):
        rows = world.scheduler.next_rows(world.sessions)
        shuffled = data.draw(st.permutations(world.sessions))
        assert named(world.scheduler.next_rows(shuffled)) == named(rows), "the same until it is committed"

        due = {session.session_id: session.num_due for session in world.sessions if session.num_due}
        fed = dict(named(rows))
        assert len(fed) == len(rows)
        total, kinds = sum(fed.values()), {s.session_id: s.kind for s in world.sessions}
        assert 0 < total <= max_batch_tokens
        by_kind = Counter(
            {kind: sum(n for s, n in fed.items() if kinds[s] == kind) for kind in (REPLAY, ROUND, REPLY)}
        )
        waiting = {
            kind: [s for s in due if kinds[s] == kind and fed.get(s) != due[s]]
            for kind in (REPLAY, ROUND, REPLY)
        }

        assert by_kind[REPLY] <= max_batch_tokens // 2
        assert not waiting[REPLY] or by_kind[REPLY] == max_batch_tokens // 2
        due_replays = sum(n for s, n in due.items() if kinds[s] == REPLAY)
        reserved = min(max_batch_tokens // 4, due_replays)
        assert by_kind[REPLAY] >= reserved
        # Nothing is left over that anybody could use: a replay any token, a round all its tokens.
        assert not waiting[REPLAY] or total == max_batch_tokens
        left_of_rounds = max_batch_tokens - by_kind[REPLY] - reserved - by_kind[ROUND]
        assert not waiting[ROUND] or max(due[s] for s in waiting[ROUND]) > left_of_rounds
        rounds = [s for s in fed if kinds[s] == ROUND]
        cut = [s for s in rounds if fed[s] < due[s]]
        assert cut in ([], rounds[:1]) and (not cut or rounds == cut), "only the first in line is cut"
        assert sum(fed[s] < due[s] for s in fed if kinds[s] == REPLAY) <= 1
        world.step()


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.lists(st.integers(1, 16), min_size=1, max_size=4), min_size=1, max_size=12),
    data=st.data(),
)
def test_while_no_stream_leads_the_order_is_earliest_deadline_first(
    sizes: list[list[int]], data: st.DataObject
) -> None:
    """All that a stream asks for is within half a step: what follows is what the oracle does, step for step."""
    ours = World(2 * 4 * 16)
    oracle = World(0, earliest_deadline_first(2 * 4 * 16))
    arrivals = []
    for index, its_sizes in enumerate(sizes):
        for one in (ours, oracle):
            one.open(f"s{index}", data.draw(st.sampled_from(["", f"cam{index}"])) if one is ours else "")
        at = data.draw(st.integers(0, 300))
        for size in its_sizes:
            arrivals.append((at, index, size, float(at + data.draw(st.integers(0, 200)))))
            at += data.draw(st.integers(0, 200))
    for one in (ours, oracle):
        left = deque(sorted(arrivals))
        while left or any(session.num_due for session in one.sessions):
            while left and left[0][0] <= one.now:
                _, index, size, deadline_ms = left.popleft()
                one.add(one.sessions[index], size, deadline_ms)
            if not one.step():
                one.now = left[0][0]
    assert [(s, now) for s, _, now in ours.done] == [(s, now) for s, _, now in oracle.done]


def test_cameras_at_nine_tenths_of_what_can_be_done_keep_their_deadlines_as_by_the_book() -> None:
    """Streams of unlike size, no idle moment for long: still never apart from the oracle."""
    lates = []
    for next_rows in (None, earliest_deadline_first(256)):
        world, rng = World(256, next_rows), np.random.default_rng(5)
        cameras = [
            (world.open(f"s{i}", f"c{i}"), int(rng.integers(10, 30)), float(rng.random())) for i in range(45)
        ]
        period = sum(size for _, size, _ in cameras) / 0.9
        due = sorted(((k + phase) * period, i) for i, (_, _, phase) in enumerate(cameras) for k in range(40))
        for at, index in due:
            while world.now < at:
                if not world.step():
                    world.now = math.ceil(at)
            session, size, _ = cameras[index]
            world.add(session, size, at + 300)
        while world.step():
            pass
        lates.append([(s, now - turn.deadline_ms) for s, turn, now in world.done])
        assert len(world.done) == 45 * 40
    assert lates[0] == lates[1]
    assert max(late for _, late in lates[0]) <= 0


@dataclass(frozen=True)
class Load:
    num_watches: int
    num_tokens: int
    period: int  # between two frames; 0: as fast as it is served
    slack_ms: float


loads = st.builds(
    Load,
    num_watches=st.integers(1, 8),
    num_tokens=st.integers(1, 40),
    period=st.sampled_from([0, 0, 50, 150, 400]),
    slack_ms=st.sampled_from([0.0, 100.0, math.inf]),
)
MAX_QUEUED = 4


def run_loads(world: World, streams: Sequence[Load], num_steps: int) -> None:
    sessions = [
        [world.open(f"{i}.{w}", f"{i}") for w in range(load.num_watches)] for i, load in enumerate(streams)
    ]
    next_at = [0] * len(streams)
    for _ in range(num_steps):
        for index, load in enumerate(streams):
            for session in sessions[index]:
                is_file_due = load.period == 0 and not session.turns
                is_frame_due = load.period and next_at[index] <= world.now and len(session.turns) < MAX_QUEUED
                if is_file_due or is_frame_due:
                    world.add(session, load.num_tokens, world.now + load.slack_ms)
            if load.period and next_at[index] <= world.now:
                next_at[index] = world.now + load.period
        if not world.step():
            world.now += 10


@settings(max_examples=50, deadline=None)
@given(streams=st.lists(loads, min_size=2, max_size=6), max_batch_tokens=st.integers(16, 120))
def test_no_stream_is_given_much_more_than_one_that_waits(streams: list[Load], max_batch_tokens: int) -> None:
    world = World(max_batch_tokens)
    run_loads(world, streams, 120)
    bound = 2 * (max_batch_tokens // 2 + max(load.num_tokens for load in streams))
    for waiting in range(len(streams)):
        for other in range(len(streams)):
            # The greatest excess over any run of steps that all kept the stream waiting.
            excess = greatest = 0
            for given_tokens, kept_waiting in zip(world.given, world.kept_waiting, strict=True):
                step = given_tokens[str(other)] - given_tokens[str(waiting)]
                excess = max(0, excess + step) if str(waiting) in kept_waiting else 0
                greatest = max(greatest, excess)
            assert greatest <= bound


def test_streams_that_all_ask_for_more_get_equal_shares_whatever_their_watches() -> None:
    world = World(200)
    loads = [Load(20, 10, 0, 0.0), Load(10, 25, 0, 0.0), Load(12, 17, 30, 0.0), Load(15, 13, 0, math.inf)]
    run_loads(world, loads, 400)
    total = sum((given_tokens for given_tokens in world.given), Counter())
    assert sum(total.values()) > 0.9 * 400 * 200
    fair = sum(total.values()) / 4
    assert all(abs(total[str(index)] - fair) <= 2 * (100 + 25) for index in range(4)), total


@pytest.mark.parametrize("slack_ms", [0.0, math.inf], ids=["cameras", "files"])
def test_a_camera_with_one_watch_keeps_its_deadlines_beside_streams_that_take_all_they_can(
    slack_ms: float,
) -> None:
    world = World(200)
    camera = world.open("camera", "camera")
    hogs = [world.open(f"{stream}.{i}", stream) for stream in ("x", "y") for i in range(20)]
    next_frame = 0
    for _ in range(500):
        for session in hogs:
            if not session.turns:
                world.add(session, 15, world.now + slack_ms)
        if next_frame <= world.now:
            # Less urgent than anything else, and less than its third: still in time.
            world.add(camera, 15, world.now + 900)
            next_frame = world.now + 1000
        world.step()
    rounds = [(turn, now) for session_id, turn, now in world.done if session_id == "camera"]
    assert len(rounds) >= 500 * 200 * 0.9 / 1100
    assert max(now - turn.deadline_ms for turn, now in rounds) <= 0


def test_a_file_with_one_watch_has_a_round_in_every_step_beside_an_endless_urgent_stream() -> None:
    world = World(200)
    file = world.open("file", "file")
    hogs = [world.open(f"hog{i}", "hog") for i in range(20)]
    for step in range(50):
        for session in [file, *hogs]:
            if not session.turns:
                world.add(session, 15, math.inf if session is file else step)
        assert ("file", 15) in world.step()


def test_a_stream_that_was_away_has_saved_nothing_up() -> None:
    world = World(100)
    away, busy, other = (
        [world.open(f"{stream}{i}", stream) for i in range(12)] for stream in ("a", "b", "c")
    )
    for step in range(60):
        for session in [*(away if step >= 30 else ()), *busy, *other]:
            if not session.turns:
                world.add(session, 10)
        world.step()
    total = sum(world.given[30:], Counter())
    assert all(abs(total[stream] - 1000) <= 2 * (50 + 10) for stream in "abc"), total


def test_after_steps_that_left_nobody_waiting_all_are_level() -> None:
    world = World(100)
    many, camera = [world.open(f"many{i}", "many") for i in range(4)], world.open("camera")
    for _ in range(9):
        for session in [*many, camera]:
            world.add(session, 10)
        assert len(world.step()) == 5
    for session in many:
        world.add(session, 12, 0)
    world.add(camera, 95, 1)
    assert [session_id for session_id, _ in world.step()] == [f"many{i}" for i in range(4)]


def test_a_round_longer_than_a_step_goes_on_until_it_is_done() -> None:
    world = World(40)
    long, short = world.open("long", "a"), [world.open(f"s{i}", f"b{i}") for i in range(4)]
    world.add(long, 100, 5)
    steps = []
    for _ in range(4):
        for session in short:
            if not session.turns:
                world.add(session, 10, 0 if steps else 9)  # from now on more urgent
        steps.append(world.step())
    assert steps[:3] == [[("long", 40)], [("long", 40)], [("long", 20), ("s0", 10), ("s1", 10)]]


def test_more_replies_than_half_a_step_take_turns_between_streams() -> None:
    world = World(16)
    for name, num in (("hog", 30), ("one", 1)):
        for i in range(num):
            session = world.open(f"{name}{i}", name)
            for _ in range(20):
                world.add(session, 1, 0 if name == "hog" else math.inf, kind=REPLY)
    for _ in range(20):
        rows = world.step()
        assert len(rows) == 16 // 2 and ("one0", 1) in rows


def test_replays_go_on_beside_any_live_load_one_session_after_the_other() -> None:
    world = World(80)
    replays = [world.open(f"r{i}", f"cam{i}") for i in range(3)]
    for session in replays:
        world.add(session, 130, kind=REPLAY)
    hogs = [world.open(f"hog{i}", f"hog{i}") for i in range(20)]
    for _ in range(math.ceil(3 * 130 / (80 // 4))):
        for session in hogs:
            if not session.turns:
                world.add(session, 15, 0)
        world.step()
        assert sum(session.num_done > 0 for session in replays) <= 1
    assert [s for s, turn, _ in world.done if turn.kind == REPLAY] == ["r0", "r1", "r2"]


def test_a_stream_with_many_sessions_to_rebuild_does_not_keep_another_from_its_one() -> None:
    world = World(100)
    for i in range(20):
        world.add(world.open(f"many{i}", "many"), 130, kind=REPLAY)
    world.add(world.open("one", "one"), 130, kind=REPLAY)
    while not any(session_id == "one" for session_id, _, _ in world.done):
        world.step()
    assert [s for s, _, _ in world.done] == ["many0", "one"]


def test_a_step_that_failed_is_dealt_again_as_it_was() -> None:
    world, twin = World(50), World(50)
    for one in (world, twin):
        for i in range(9):
            one.add(one.open(f"s{i}", f"cam{i % 3}"), 20, 9 - i)
    for step in range(5):
        for _ in range(step):
            world.scheduler.next_rows(world.sessions)  # and the forward fails
        assert world.step() == twin.step()


def test_closed_streams_are_forgotten() -> None:
    world = World(60)
    world.add(world.open("stays"), 60)
    for turn in range(40):
        guests = [world.open(f"guest{i}", f"guest{turn}.{i // 3}") for i in range(9)]
        for session in guests:
            world.add(session, 10, 0)
        assert sum(name.startswith("guest") for name, _ in world.step()) == 6
        assert 0 < len(world.scheduler._rounds._standing.tags) <= 3
        for session in guests:
            world.sessions.remove(session)
