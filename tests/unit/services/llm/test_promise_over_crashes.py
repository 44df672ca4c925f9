"""Any history of frames, losses, watches and failures, and any number of crashes: the promise holds."""

from __future__ import annotations

from itertools import chain
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.llm_world import World
from support.promise import kept_frames, violations
from support.scripted_engine import picture

from models.vlm.state import State
from streamo.v1.event_pb2 import EventKind, Reason
from streamo.v1.frame_pb2 import Frame, FrameBatch, FrameRecord, PixelFormat, SourceState, SourceStatus
from streamo.v1.task_pb2 import Task
from streamo.v1.watch_pb2 import Watch

STREAMS = ("gate", "yard")
WATCHES = ("cars", "people")
TASKS = (Task.TASK_EVENT, Task.TASK_QA)

Action = tuple[Any, ...]

stream_ids = st.sampled_from(STREAMS)
rounds = st.lists(st.tuples(st.sampled_from(list(State)), st.integers(0, 4)), min_size=1, max_size=6)
what_comes: st.SearchStrategy[Action] = st.one_of(
    st.tuples(st.just("frames"), stream_ids, rounds, st.integers(1, 3)),
    st.tuples(st.just("late"), stream_ids, rounds, st.integers(1, 3)),
    st.tuples(st.just("lose"), stream_ids, st.integers(1, 3)),
    st.tuples(st.just("epoch"), stream_ids),
    st.tuples(st.just("bad picture"), stream_ids),
    st.tuples(st.just("junk"), stream_ids),
    st.tuples(st.just("repeat"), stream_ids),
    st.tuples(st.just("status"), stream_ids, st.sampled_from([2, 3, 3])),
    st.tuples(st.just("watch"), stream_ids, st.sampled_from(WATCHES), st.sampled_from(TASKS)),
    st.tuples(st.just("unwatch"), stream_ids, st.sampled_from(WATCHES)),
)
what_the_owner_does: st.SearchStrategy[Action] = st.one_of(
    st.tuples(st.just("receive"), st.integers(1, 10)),
    st.tuples(st.just("work"), st.integers(1, 3)),
    st.tuples(st.just("work"), st.integers(1, 12)),
    st.tuples(st.just("begin commit")),
    st.tuples(st.just("commit")),
    st.tuples(st.just("commit")),
)
what_goes_wrong: st.SearchStrategy[Action] = st.one_of(
    st.tuples(st.just("abort")),
    st.tuples(st.just("crash"), st.booleans()),
    st.tuples(st.just("lose redis")),
    st.tuples(st.just("time"), st.sampled_from([1, 5, 12])),
)
# Frames between everything: nothing shows while none are under way.
turn = st.tuples(
    st.tuples(st.just("frames"), stream_ids, rounds, st.integers(1, 2)),
    what_comes,
    st.tuples(st.just("frames"), stream_ids, rounds, st.just(1)),
    st.tuples(st.just("receive"), st.integers(3, 12)),
    what_the_owner_does,
    what_the_owner_does,
    what_goes_wrong,
)


class History:
    """Sends what ingest would, and remembers what could be read of it."""

    def __init__(self) -> None:
        self.world = World(max_pending_frames=2)
        self.frames: dict[str, list[FrameRecord]] = {stream_id: [] for stream_id in STREAMS}
        self.epoch: dict[str, int] = {}
        self.seq: dict[str, int] = {}
        self.num_epochs = dict.fromkeys(STREAMS, 0)
        self.number = 0
        self.time_ms = 1000
        for stream_id in STREAMS:
            self.world.add_stream(stream_id)
            self.do(("epoch", stream_id))
            self.do(("watch", stream_id, "cars", Task.TASK_EVENT))

    def do(self, action: Action) -> None:
        world, (name, *arguments) = self.world, action
        match name:
            case "frames":
                stream_id, scripts, a_record = arguments
                for first in range(0, len(scripts), a_record):
                    self._send(stream_id, scripts[first : first + a_record])
            case "late":
                self.do(("frames", *arguments))
                world.now_us += 12_000_000
            case "lose":
                self.seq[arguments[0]] += arguments[1]
            case "epoch":
                self.epoch[arguments[0]] = world.begin_epoch(arguments[0])
                self.seq[arguments[0]] = 0
                self.num_epochs[arguments[0]] += 1
            case "bad picture":
                frame = Frame(
                    frame_seq=self._next_seq(arguments[0]), media_time_ms=self.time_ms, width=1, height=1
                )
                world.send(self._record(arguments[0], [frame]))
            case "junk":
                self._next_seq(arguments[0])  # what it was before it was spoilt
                world.logs.append("frames", arguments[0].encode(), b"\xff\xff\xff")
            case "repeat":
                if self.frames[arguments[0]]:
                    world.send(self.frames[arguments[0]][-1])
            case "status":
                stream_id, state = arguments
                num_kept = self.seq[stream_id] if state == SourceState.SOURCE_STATE_DISCONNECTED else 0
                status = SourceStatus(state=state, num_kept=num_kept)
                record = FrameRecord(stream_id=stream_id, epoch=self.epoch[stream_id], status=status)
                self.frames[stream_id].append(record)
                world.send(record)
            case "watch":
                stream_id, watch_id, task = arguments
                world.add_watch(Watch(stream_id=stream_id, watch_id=watch_id, task=task, instruction="cars"))
            case "unwatch":
                world.remove_watch(*arguments)
            case "receive":
                world.receive(arguments[0])
                world.advance()
            case "work":
                for _ in range(arguments[0]):
                    world.advance()
                    world.step()
            case "begin commit":
                world.begin_commit()
            case "commit":
                world.begin_commit()
                world.committer.commit()
            case "abort":
                world.committer.abort()
            case "crash":
                if arguments[0]:
                    world.committer.commit()  # Kafka had the whole transaction; its owner never learnt it
                world.take_over()
            case "lose redis":
                world.redis.clear()
            case "time":
                world.now_us += arguments[0] * 1_000_000

    def check(self) -> None:
        for stream_id in STREAMS:
            found = violations(self.world.records(stream_id, self.frames[stream_id]))
            # How far behind the owner may be is for `finish`.
            assert [violation for violation in found if "frames wait" not in violation] == []
            self._check_gaps(stream_id)

    def _check_gaps(self, stream_id: str) -> None:
        """Nothing is told missing twice, and nothing that was there."""
        reasons = [event.reason for event in self.world.events(stream_id)]
        assert reasons.count(Reason.REASON_DISCONNECTED) < self.num_epochs[stream_id]
        named: set[tuple[int, int]] = set()
        for event in self.world.events(stream_id):
            if event.gap.HasField("first"):
                assert event.gap.first.epoch == event.gap.last.epoch
                numbers = range(event.gap.first.frame_seq, event.gap.last.frame_seq + 1)
                assert len(numbers) == event.gap.num_frames
                frames = {(event.gap.first.epoch, number) for number in numbers}
                assert not frames & named
                named |= frames
                if event.reason != Reason.REASON_LAG:
                    assert not frames & set(kept_frames(self.frames[stream_id]))

    def _check_source(self, stream_id: str) -> None:
        """Each change of the source is told once; whoever gives frames is live again."""
        changes, state = [], SourceState.SOURCE_STATE_UNSPECIFIED
        for record in self.frames[stream_id]:
            before, state = state, SourceState.SOURCE_STATE_LIVE
            if record.HasField("status"):
                state = record.status.state
                if state != before:
                    changes.append(state)
        events = self.world.events(stream_id)
        told = [event.source_state for event in events if event.kind == EventKind.EVENT_KIND_SOURCE]
        assert told == changes

    def finish(self) -> None:
        self.world.finish()
        for stream_id in STREAMS:
            self._check_source(stream_id)
            state = self.world.state(stream_id)
            kept = [
                (record.epoch, frame.frame_seq)
                for record in self.frames[stream_id]
                for frame in record.frames.frames
            ]
            for watch in state.watches:
                if kept and watch.HasField("activation"):
                    assert (watch.next_frame.epoch, watch.next_frame.frame_seq) > max(kept)

    def _next_seq(self, stream_id: str) -> int:
        self.seq[stream_id] += 1
        self.time_ms += 500
        return self.seq[stream_id] - 1

    def _send(self, stream_id: str, scripts: list[tuple[State, int]]) -> None:
        frames = []
        for state, steps in scripts:
            self.number = (self.number + 1) % 250
            frames.append(
                Frame(
                    frame_seq=self._next_seq(stream_id),
                    media_time_ms=self.time_ms,
                    captured_at_us=self.world.now_us,
                    width=28,
                    height=28,
                    format=PixelFormat.PIXEL_FORMAT_RGB24,
                    data=picture(state, steps, self.number).tobytes(),
                    num_seen=1,
                )
            )
        record = self._record(stream_id, frames)
        self.frames[stream_id].append(record)
        self.world.send(record)

    def _record(self, stream_id: str, frames: list[Frame]) -> FrameRecord:
        return FrameRecord(stream_id=stream_id, epoch=self.epoch[stream_id], frames=FrameBatch(frames=frames))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(turn, min_size=1, max_size=12))
def test_the_promise_holds_over_any_history(turns: list[tuple[Action, ...]]) -> None:
    run = History()
    for action in chain.from_iterable(turns):
        run.do(action)
        if action[0] in ("commit", "crash"):
            run.check()
    run.finish()
    run.check()
    opens = [e for s in STREAMS for e in run.world.events(s) if e.kind == EventKind.EVENT_KIND_OPEN]
    assert len({event.event_id for event in opens}) == len(opens)
    assert "reply lost" not in run.world.counts
