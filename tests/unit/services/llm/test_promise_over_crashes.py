"""Any history of frames, losses, streams, watches and failures, and any number of crashes: the promise holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.llm_world import TOPICS, World
from support.promise import FrameId, StreamRecords, WatchKey, is_missed, kept_frames, violations
from support.scripted_engine import picture

from models.vlm.state import State
from streamo.v1.event_pb2 import Event, EventKind, FrameRef, Reason
from streamo.v1.frame_pb2 import Frame, FrameBatch, FrameRecord, PixelFormat, SourceState, SourceStatus
from streamo.v1.task_pb2 import Task
from streamo.v1.watch_pb2 import Watch

LIVE, DISCONNECTED, ENDED = (
    SourceState.SOURCE_STATE_LIVE,
    SourceState.SOURCE_STATE_DISCONNECTED,
    SourceState.SOURCE_STATE_ENDED,
)
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
    st.tuples(st.just("status"), stream_ids, st.sampled_from([LIVE, DISCONNECTED, DISCONNECTED, ENDED])),
    st.tuples(st.just("overtaken"), stream_ids, rounds),
    st.tuples(st.just("ask"), stream_ids, st.sampled_from([3, 60])),
    st.tuples(st.just("remove"), stream_ids),
    st.tuples(st.just("replace"), stream_ids),
    st.tuples(st.just("retention"), st.integers(0, 4)),
    st.tuples(st.just("watch"), stream_ids, st.sampled_from(WATCHES), st.sampled_from(TASKS)),
    st.tuples(st.just("unwatch"), stream_ids, st.sampled_from(WATCHES)),
)
what_the_owner_does: st.SearchStrategy[Action] = st.one_of(
    st.tuples(st.just("receive"), st.integers(1, 10)),
    st.tuples(st.just("work"), st.integers(1, 3)),
    st.tuples(st.just("work"), st.integers(1, 12)),
    st.tuples(st.just("hold"), stream_ids, st.sampled_from(WATCHES)),
    st.tuples(st.just("begin commit")),
    st.tuples(st.just("commit")),
    st.tuples(st.just("commit")),
)
what_goes_wrong: st.SearchStrategy[Action] = st.one_of(
    st.tuples(st.just("abort")),
    st.tuples(st.just("crash"), st.booleans()),
    st.tuples(st.just("crash"), st.booleans()),
    st.tuples(st.just("another model"), st.sampled_from([14, 16])),
    st.tuples(st.just("room"), st.sampled_from([1, 2, 1000])),
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


@dataclass
class _Run:
    """Of one watch version, from its STARTED on."""

    key: WatchKey
    activation: FrameRef
    told: list[tuple[FrameId, str]] = field(default_factory=list)
    ended: Event | None = None


class History:
    """Sends what ingest would, and remembers what could be read of it."""

    def __init__(self) -> None:
        self.world = World(max_pending_frames=2)
        self.frames: dict[str, list[FrameRecord]] = {stream_id: [] for stream_id in STREAMS}
        self.epoch: dict[str, int] = {}
        self.seq: dict[str, int] = {}
        self.former: dict[str, tuple[int, int]] = {}  # of the epoch before: its id, and its next frame
        self.num_epochs = dict.fromkeys(STREAMS, 0)
        self.added: set[str] = set()
        self.num_asks = 0
        self.version: dict[str, int] = {}
        self.first_version: dict[str, int] = {}
        self.deleted: dict[str, set[FrameId]] = {stream_id: set() for stream_id in STREAMS}
        self.lost: set[str] = set()  # streams of which records were deleted before they were committed
        self.models = {14}
        self.number = 0
        self.time_ms = 1000
        for stream_id in STREAMS:
            self._add(stream_id)

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
            case "overtaken":
                stream_id, scripts = arguments
                # What nobody has overtaken yet is still its own.
                epochs = [record.epoch for record in self.frames[stream_id]]
                if stream_id in self.former and self.epoch[stream_id] in epochs:
                    present = self.epoch[stream_id], self.seq[stream_id]
                    self.epoch[stream_id], self.seq[stream_id] = self.former[stream_id]
                    self._send(stream_id, scripts[:1])
                    self.former[stream_id] = self.epoch[stream_id], self.seq[stream_id]
                    self.epoch[stream_id], self.seq[stream_id] = present
            case "lose":
                self.seq[arguments[0]] += arguments[1]
            case "epoch" | "watch" | "unwatch" | "ask" | "remove" if arguments[0] not in self.added:
                pass
            case "epoch":
                if arguments[0] in self.epoch:
                    self.former[arguments[0]] = self.epoch[arguments[0]], self.seq[arguments[0]]
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
                num_kept = 0 if state == LIVE else self.seq[stream_id]
                status = SourceStatus(state=state, num_kept=num_kept)
                record = FrameRecord(stream_id=stream_id, epoch=self.epoch[stream_id], status=status)
                self.frames[stream_id].append(record)
                world.send(record)
            case "watch":
                stream_id, watch_id, task = arguments
                world.add_watch(Watch(stream_id=stream_id, watch_id=watch_id, task=task, instruction="cars"))
            case "unwatch":
                world.remove_watch(*arguments)
            case "ask":
                stream_id, seconds = arguments
                self.num_asks += 1
                world.add_watch(
                    Watch(
                        stream_id=stream_id,
                        watch_id=f"ask {self.num_asks}",
                        task=Task.TASK_QA,
                        instruction="cars?",
                        once=True,
                        expires_at_us=world.now_us + seconds * 1_000_000,
                    )
                )
            case "remove":
                self.added.remove(arguments[0])
                world.remove_stream(arguments[0])
                for watch_id in world.view.watches_of(arguments[0]):
                    world.remove_watch(arguments[0], watch_id)
            case "replace":
                self.do(("remove", arguments[0]))
                self._add(arguments[0])
            case "retention":
                self._expire(arguments[0])
            case "room":
                world.max_sessions = world.engine.max_sessions = arguments[0]
            case "hold":
                stream_id, watch_id = arguments
                prefix = f"{stream_id}/{watch_id}/"
                world.engine.held = {name for name in world.engine.sessions if name.startswith(prefix)}
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
            case "another model":
                self.models.add(arguments[0])
                world.take_over(arguments[0])
            case "lose redis":
                world.redis.clear()
            case "time":
                world.now_us += arguments[0] * 1_000_000

    def check(self) -> None:
        for stream_id in STREAMS:
            records = self.world.records(stream_id, self.frames[stream_id])
            # How far behind the owner may be is for `finish`.
            assert [violation for violation in violations(records) if "frames wait" not in violation] == []
            self._check_gaps(stream_id)
            self._check_replies(records)

    def _check_gaps(self, stream_id: str) -> None:
        """Nothing is told missing twice, and nothing that was there."""
        reasons = [event.reason for event in self.world.events(stream_id)]
        assert reasons.count(Reason.REASON_DISCONNECTED) < self.num_epochs[stream_id]
        named: set[FrameId] = set()
        for event in self.world.events(stream_id):
            if event.gap.HasField("first"):
                assert event.gap.first.epoch == event.gap.last.epoch
                numbers = range(event.gap.first.frame_seq, event.gap.last.frame_seq + 1)
                assert len(numbers) == event.gap.num_frames
                frames = {(event.gap.first.epoch, number) for number in numbers}
                assert not frames & named
                named |= frames
                if event.reason == Reason.REASON_LAG:
                    continue
                if event.reason == Reason.REASON_UNREADABLE and len(self.models) > 1:
                    continue
                assert not frames & set(kept_frames(self.frames[stream_id])) - self.deleted[stream_id]

    def _check_replies(self, records: StreamRecords) -> None:
        """Each watch has told the replies that the pictures ask for, in their order and none beside them."""
        scripts = {
            (record.epoch, frame.frame_seq): frame.data[:3]
            for record in records.frames
            for frame in record.frames.frames
        }
        asked_for = [
            (frame, f"number {scripts[frame][2]}")
            for frame in kept_frames(records.frames)
            if scripts[frame][0] == State.RESPONSE
        ]
        runs: list[_Run] = []
        running: dict[WatchKey, _Run] = {}
        for event in records.events:
            key = (event.watch_id, event.watch_version)
            match event.kind:
                case EventKind.EVENT_KIND_STARTED:
                    running[key] = _Run(key, event.frame)
                    runs.append(running[key])
                case EventKind.EVENT_KIND_CLOSE | EventKind.EVENT_KIND_ANSWER:
                    running[key].told.append(((event.frame.epoch, event.frame.frame_seq), event.text))
                case EventKind.EVENT_KIND_ENDED:
                    if key in running:
                        running.pop(key).ended = event
        next_frames = {(watch.watch_id, watch.version): watch.next_frame for watch in records.state.watches}
        for run in runs:
            first = (run.activation.epoch, run.activation.frame_seq)
            # A gap that was told when the watch had ended is not meant for it.
            told = [event for event in records.events if run.ended is None or event.seq < run.ended.seq]
            known = replace(records, events=told)
            wanted = [
                (frame, text)
                for frame, text in asked_for
                if frame >= first and not is_missed(known, run.key, frame)
            ]
            if run.ended is None:
                end = (next_frames[run.key].epoch, next_frames[run.key].frame_seq)
            elif run.ended.HasField("frame"):
                end = (run.ended.frame.epoch, run.ended.frame.frame_seq + 1)
            else:  # how far it came is not told
                assert run.told == wanted[: len(run.told)]
                continue
            assert run.told == [(frame, text) for frame, text in wanted if frame < end]

    def _check_asks(self, stream_id: str) -> None:
        """A question is answered once at most; one that has ended is not in `control` any more."""
        asks: dict[str, list[Event]] = {}
        for event in self.world.events(stream_id):
            if event.watch_id.startswith("ask") and event.kind != EventKind.EVENT_KIND_STARTED:
                asks.setdefault(event.watch_id, []).append(event)
        for watch_id, told in asks.items():
            *answers, ended = told
            assert ended.kind == EventKind.EVENT_KIND_ENDED
            assert [event.kind for event in answers] == [EventKind.EVENT_KIND_ANSWER] * (
                ended.reason == Reason.REASON_ANSWERED
            )
            assert watch_id not in self.world.view.watches_of(stream_id)

    def _check_source(self, stream_id: str) -> None:
        """Each change of the source is told once; whoever gives frames is live again."""
        changes, state, newest = [], SourceState.SOURCE_STATE_UNSPECIFIED, self.version[stream_id]
        for _, record in self._log():
            if record.stream_id != stream_id or record.epoch < newest:
                continue  # of another stream, of a former one, or of an overtaken worker
            newest = record.epoch
            before, state = state, SourceState.SOURCE_STATE_LIVE
            if record.HasField("status"):
                state = record.status.state
                if state != before:
                    changes.append(state)
        events = self.world.events(stream_id)
        told = [event.source_state for event in events if event.kind == EventKind.EVENT_KIND_SOURCE]
        if self.version[stream_id] != self.first_version[stream_id]:
            told = told[len(told) - len(changes) :]  # what came before is of the former stream
        assert told == changes

    def finish(self) -> None:
        self.world.engine.held.clear()
        self.do(("room", 1000))
        self.world.finish()
        for stream_id in STREAMS:
            if stream_id in self.added and stream_id not in self.lost:
                self._check_source(stream_id)
            self._check_asks(stream_id)
            state = self.world.state(stream_id)
            kept = kept_frames(self.frames[stream_id])
            for watch in state.watches:
                if kept and watch.HasField("activation"):
                    assert (watch.next_frame.epoch, watch.next_frame.frame_seq) > max(kept)

    def start_all(self) -> None:
        """Once there is room, no watch waits for it any longer, whoever owns its stream."""
        self.world.take_over()
        self.world.now_us += 31_000_000
        for stream_id in sorted(self.added):
            self._send(stream_id, [(State.SILENCE, 0)])
        self.world.finish()
        for stream_id in self.added:
            known = {watch.watch_id: watch for watch in self.world.state(stream_id).watches}
            for watch_id in self.world.view.watches_of(stream_id):
                watch = known[watch_id]
                assert watch.HasField("activation") or watch.ended not in (0, Reason.REASON_NO_ROOM)

    def _add(self, stream_id: str) -> None:
        self.version[stream_id] = self.world.add_stream(stream_id)
        self.first_version.setdefault(stream_id, self.version[stream_id])
        self.added.add(stream_id)
        self.do(("epoch", stream_id))
        for watch_id, task in zip(WATCHES, TASKS, strict=True):
            self.do(("watch", stream_id, watch_id, task))

    def _expire(self, num_kept: int) -> None:
        """Deletes all but the newest records, and sends a frame that shows what is missing."""
        begin = max(0, self.world.logs.end(TOPICS.frames) - num_kept)
        for stream_id in self.added:
            begin = min(begin, self._may_expire(stream_id))
        for offset, record in self._log():
            stream_id = record.stream_id
            if offset < begin:
                self.deleted[stream_id] |= {(record.epoch, frame.frame_seq) for frame in record.frames.frames}
                if offset >= self.world.state(stream_id).next_offset:
                    self.lost.add(stream_id)
        self.world.expire(begin)
        for stream_id in sorted(self.added):
            self._send(stream_id, [(State.SILENCE, 0)])

    def _may_expire(self, stream_id: str) -> int:
        """Up to where nobody can say what is missing: of what was not taken only frames of the epoch at hand, and not
        its last ones where something else follows them."""
        state, last = self.world.state(stream_id), None
        for offset, record in self._log():
            if record.stream_id != stream_id or offset < state.next_offset:
                continue
            if record.epoch != state.epoch or record.HasField("status"):
                return offset if last is None else last
            last = offset
        is_at_hand = last is None or state.epoch == self.epoch[stream_id]
        return self.world.logs.end(TOPICS.frames) if is_at_hand else last

    def _log(self) -> Iterator[tuple[int, FrameRecord]]:
        """Of `frames`, with offsets; without what cannot be parsed."""
        for stored in self.world.logs.topics.get(TOPICS.frames, []):
            with suppress(DecodeError):
                yield stored.offset, FrameRecord.FromString(stored.value)

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
    run.start_all()
    run.check()
    opens = [e for s in STREAMS for e in run.world.events(s) if e.kind == EventKind.EVENT_KIND_OPEN]
    assert len({event.event_id for event in opens}) == len(opens)
    assert "reply lost" not in run.world.counts
