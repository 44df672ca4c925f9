"""What a stream tells, and when: one short history for each rule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock

import numpy as np
import pytest
from opentelemetry.context import Context
from support.llm_world import TOPICS, World, kinds
from support.promise import violations
from support.scripted_engine import WINDOW_ROUNDS, ScriptedDialogue, ScriptedEncoder, picture

from models.vlm.state import State
from services.shared.telemetry import Metrics
from services.shared.topics import MAX_RECORD_BYTES, partition_of
from streamo.v1.event_pb2 import Event, EventKind, Reason
from streamo.v1.frame_pb2 import Frame, FrameBatch, FrameRecord, PixelFormat, SourceState, SourceStatus
from streamo.v1.state_pb2 import StreamState, WatchState
from streamo.v1.task_pb2 import Task
from streamo.v1.watch_pb2 import Watch

SILENCE, STANDBY, RESPONSE = State.SILENCE, State.STANDBY, State.RESPONSE
GATE = "gate"


def scripted_frame(
    number: int, state: State, steps: int = 0, shown: int | None = None, **values: int
) -> Frame:
    """`shown`: the number in the picture, else the frame's own."""
    return Frame(
        frame_seq=number,
        width=28,
        height=28,
        format=PixelFormat.PIXEL_FORMAT_RGB24,
        data=picture(state, steps, number if shown is None else shown).tobytes(),
        **{"media_time_ms": number * 1000, **values},
    )


class Gate:
    """A stream with frames a second apart."""

    def __init__(self, source: str = "rtsp://gate/", is_recording: bool = False, **llm: object) -> None:
        self.is_recording = is_recording
        self.world = World(**llm)
        self.version = self.world.add_stream(GATE, source)
        self.epoch = self.world.begin_epoch(GATE)
        self.seq = 0
        self.sent: list[FrameRecord] = []

    def watch(self, watch_id: str = "cars", task: Task = Task.TASK_EVENT, **values: object) -> int:
        fields: dict[str, object] = {"instruction": "cars", **values}
        return self.world.add_watch(Watch(stream_id=GATE, watch_id=watch_id, task=task, **fields))

    def begin_epoch(self) -> None:
        self.epoch, self.seq = self.world.begin_epoch(GATE), 0

    def frames(self, *states: State, steps: int = 1) -> None:
        for state in states:
            frame = scripted_frame(
                self.seq,
                state,
                steps,
                media_time_ms=len(self.sent) * 1000,
                captured_at_us=self.world.now_us,
                num_seen=4,
            )
            self.batch([frame])
            self.seq += 1

    def late_frame(self, epoch: int) -> None:
        """Of the worker of an older epoch, whose numbers are one with those of the newer in this test."""
        newer, self.epoch = self.epoch, epoch
        self.frames(SILENCE)
        self.epoch = newer

    def batch(self, frames: Sequence[Frame]) -> None:
        self.send(
            FrameRecord(
                stream_id=GATE,
                epoch=self.epoch,
                frames=FrameBatch(frames=frames),
                is_recording=self.is_recording,
            )
        )

    def status(self, state: SourceState, num_kept: int = 0) -> None:
        status = SourceStatus(state=state, num_kept=num_kept, detail="said ingest")
        self.send(FrameRecord(stream_id=GATE, epoch=self.epoch, status=status))

    def send(self, record: FrameRecord) -> None:
        self.sent.append(record)
        self.world.send(record)

    def finish(self) -> list[Event]:
        self.world.finish()
        assert violations(self.world.records(GATE, self.sent)) == []
        return self.world.events(GATE)


def reasons(events: Sequence[Event]) -> list[str]:
    return [Reason.Name(event.reason).removeprefix("REASON_") for event in events if event.reason]


def gaps(events: Sequence[Event]) -> list[tuple[str, int, int]]:
    return [
        (Reason.Name(e.reason).removeprefix("REASON_"), e.gap.first.frame_seq, e.gap.last.frame_seq)
        for e in events
        if e.kind == EventKind.EVENT_KIND_GAP
    ]


def asks_in_control(gate: Gate) -> list[str]:
    return [watch.watch_id for watch in gate.world.view.watches.values() if watch.once]


def deadlines_ms(gate: Gate) -> list[float]:
    """Of every round of the only session since the takeover."""
    (session,) = gate.world.engine.sessions.values()
    return [round_input.deadline_ms for round_input in session.seen]


def test_states_become_events():
    gate = Gate()
    version = gate.watch()
    gate.frames(SILENCE, STANDBY, STANDBY, RESPONSE, STANDBY, SILENCE, RESPONSE)
    events = gate.finish()
    assert kinds(events) == ["STARTED", "OPEN", "CLOSE", "OPEN", "RETRACT", "CLOSE"]
    started, opened, closed, opened_again, retracted, closed_alone = events
    assert (started.detail, started.watch_version, started.frame.frame_seq) == ("cars", version, 0)
    assert closed.event_id == opened.event_id
    assert (closed.span.start_ms, closed.span.end_ms, closed.text) == (1000, 3000, "number 3")
    assert tuple(closed.token_ids) == (103, 400)
    assert retracted.event_id == opened_again.event_id != opened.event_id
    assert retracted.reason == Reason.REASON_MODEL
    assert (closed_alone.span.start_ms, closed_alone.span.end_ms) == (5000, 6000)
    assert closed.stamps.captured_at_us <= closed.stamps.decided_at_us <= closed.stamps.replied_at_us


def test_tasks_without_an_open_phase_only_answer():
    gate = Gate()
    gate.watch(task=Task.TASK_QA)
    gate.watch("all", task=Task.TASK_NARRATION)
    gate.frames(STANDBY, RESPONSE, STANDBY, SILENCE)
    assert kinds(gate.finish()) == ["STARTED", "STARTED", "ANSWER", "ANSWER"]


def test_a_frame_is_encoded_once_however_many_watches():
    gate = Gate()
    for watch_id in ("a", "b", "c"):
        gate.watch(watch_id)
    gate.frames(SILENCE, SILENCE)
    gate.finish()
    assert gate.world.encoder.num_encoded == 2


def test_a_stream_without_watches_costs_no_encoding_but_notices_losses():
    gate = Gate()
    gate.frames(SILENCE)
    gate.seq = 4
    gate.frames(SILENCE)
    events = gate.finish()
    assert gaps(events) == [("LOST", 1, 3)]
    assert gate.world.encoder.num_encoded == 0
    counters = gate.world.state(GATE).counters
    assert (counters.frames_seen, counters.frames_kept, counters.frames_skipped) == (8, 2, 3)


def test_the_end_of_an_epoch_tells_what_never_came():
    gate = Gate()
    gate.watch()
    gate.frames(SILENCE, SILENCE)
    gate.status(SourceState.SOURCE_STATE_DISCONNECTED, num_kept=5)
    gate.begin_epoch()
    gate.status(SourceState.SOURCE_STATE_LIVE)
    gate.seq = 1
    gate.frames(SILENCE)
    events = gate.finish()
    assert kinds(events) == ["STARTED", "GAP", "SOURCE", "SOURCE", "GAP", "GAP"]
    assert gaps(events) == [("LOST", 2, 4), ("DISCONNECTED", 0, 0), ("LOST", 0, 0)]
    disconnected = events[4]
    assert not disconnected.gap.HasField("first")
    assert (disconnected.gap.from_ms, disconnected.gap.to_ms) == (1000, 4000)


def test_a_frame_of_an_overtaken_worker_is_nobodys():
    gate = Gate()
    gate.watch()
    gate.frames(SILENCE)
    old = gate.epoch
    gate.begin_epoch()
    gate.frames(SILENCE)
    gate.late_frame(old)
    gate.frames(SILENCE)
    events = gate.finish()
    assert gate.world.state(GATE).watches[0].rounds_decided == 3
    assert gate.world.telemetry.counts[Metrics.FRAMES_OVERTAKEN[0], ""] == 1
    assert gate.world.state(GATE).counters.frames_kept == 3
    assert gaps(events) == [("DISCONNECTED", 0, 0), ("LOST", 1, 1)]  # the old worker's number, in this test


def test_a_status_of_a_newer_epoch_is_enough_to_overtake_a_worker():
    gate = Gate()
    gate.watch()
    gate.frames(SILENCE)
    old = gate.epoch
    gate.begin_epoch()
    gate.status(SourceState.SOURCE_STATE_DISCONNECTED)
    gate.late_frame(old)
    gate.seq = 0
    gate.frames(SILENCE)
    assert gaps(gate.finish()) == [("DISCONNECTED", 0, 0)]
    assert gate.world.state(GATE).watches[0].rounds_decided == 2
    assert gate.world.telemetry.counts[Metrics.FRAMES_OVERTAKEN[0], ""] == 1


def test_a_frame_of_an_overtaken_worker_is_nobodys_after_a_takeover_either():
    gate = Gate()
    gate.watch(task=Task.TASK_QA)
    gate.frames(SILENCE)
    gate.finish()
    world, first, former = gate.world, gate.epoch, gate.seq
    # Another stream holds the committed offset back, so that all of this is read again.
    world.add_stream("yard")
    frame = Frame(width=28, height=28, format=1, data=picture(SILENCE).tobytes())
    yard = FrameRecord(stream_id="yard", epoch=world.begin_epoch("yard"), frames=FrameBatch(frames=[frame]))
    world.add_watch(Watch(stream_id="yard", watch_id="cars", task=Task.TASK_QA, instruction="cars"))
    world.send(yard)
    gate.begin_epoch()
    gate.status(SourceState.SOURCE_STATE_NOT_FOUND)
    newer, gate.epoch, gate.seq = gate.epoch, first, former
    gate.frames(RESPONSE)
    world.receive(3)
    world.advance()
    world.begin_commit()
    world.committer.commit()
    assert (world.state(GATE).epoch, world.logs.next_offset) == (newer, 1)
    world.take_over()
    gate.epoch, gate.seq = newer, 0
    gate.frames(SILENCE)
    assert kinds(gate.finish()) == ["STARTED", "SOURCE", "GAP"]


def test_an_open_event_ends_with_its_watch_its_stream_or_its_source():
    for act, reason, ended in (
        (lambda gate: gate.world.remove_watch(GATE, "cars"), "WATCH_REMOVED", True),
        (lambda gate: gate.watch(instruction="other"), "WATCH_CHANGED", True),
        (lambda gate: gate.world.remove_stream(GATE), "STREAM_REMOVED", True),
        (lambda gate: gate.status(SourceState.SOURCE_STATE_ENDED), "STREAM_ENDED", True),
        (lambda gate: setattr(gate.world, "now_us", gate.world.now_us + 31_000_000), "SOURCE_LOST", False),
    ):
        gate = Gate()
        gate.watch()
        gate.frames(SILENCE, STANDBY)
        gate.world.finish()
        act(gate)
        events = gate.finish()
        assert reasons(events) == [reason] * (1 + ended), reason
        told = [kind for kind in kinds(events) if kind != "SOURCE"]
        assert told == ["STARTED", "OPEN", "RETRACT", "ENDED"][: 3 + ended]
        gate.world.finish()
        assert len(gate.world.events(GATE)) == len(events)


def test_a_changed_watch_is_another_session_from_the_next_frame_on():
    gate = Gate()
    first = gate.watch()
    gate.frames(SILENCE, RESPONSE, SILENCE, steps=3)
    gate.world.receive(10)
    gate.world.advance()
    second = gate.watch(instruction="vans")
    gate.frames(RESPONSE)
    events = gate.finish()
    assert [(e.watch_version, kind) for e, kind in zip(events, kinds(events), strict=True)] == [
        (first, "STARTED"),
        (first, "CLOSE"),
        (first, "ENDED"),
        (second, "STARTED"),
        (second, "CLOSE"),
    ]
    ended, started = events[2:4]
    assert (ended.frame.frame_seq, started.frame.frame_seq) == (2, 3)


def test_a_removed_stream_keeps_its_seq_and_nothing_else():
    gate = Gate()
    gate.watch()
    gate.frames(SILENCE, STANDBY)
    gate.world.finish()
    gate.world.remove_stream(GATE)
    gate.frames(STANDBY)
    gate.world.finish()
    state = gate.world.state(GATE)
    assert (state.removed, state.last_seq, len(state.watches), state.epoch) == (True, 4, 0, 0)
    gate.world.remove_watch(GATE, "cars")
    gate.world.take_over()
    version = gate.world.add_stream(GATE)
    gate.watch("again")
    gate.begin_epoch()
    gate.frames(RESPONSE)
    events = gate.finish()
    assert kinds(events)[4:] == ["STARTED", "CLOSE"]
    assert [event.seq for event in events] == [1, 2, 3, 4, 5, 6]
    assert gate.world.state(GATE).stream_version == version


def test_a_watch_that_the_engine_refuses_ends_and_harms_no_other():
    gate = Gate()
    gate.watch("good")
    gate.watch("refused", instruction="")
    gate.frames(SILENCE, RESPONSE)
    gate.world.finish()
    gate.world.take_over()
    gate.frames(RESPONSE)
    events = gate.finish()
    told = [(event.watch_id, kind) for event, kind in zip(events, kinds(events), strict=True)]
    assert told == [("good", "STARTED"), ("refused", "ENDED"), ("good", "CLOSE"), ("good", "CLOSE")]
    assert events[1].reason == Reason.REASON_REFUSED
    assert events[1].detail


def test_a_watch_of_a_task_that_this_version_does_not_know_is_refused():
    gate = Gate()
    gate.watch("later", task=9)
    gate.watch("good")
    gate.frames(RESPONSE)
    gate.world.finish()
    gate.world.take_over()
    gate.frames(RESPONSE)
    events = gate.finish()
    told = [(event.watch_id, kind) for event, kind in zip(events, kinds(events), strict=True)]
    assert told == [("later", "ENDED"), ("good", "STARTED"), ("good", "CLOSE"), ("good", "CLOSE")]
    assert reasons(events) == ["REFUSED"]
    assert "task 9" in events[0].detail
    assert events[0].task in Task.values(), "whoever reads it may be of this version too"


def test_a_watch_that_another_version_began_is_refused_where_its_task_is_unknown():
    gate = Gate()
    version = gate.watch("later", task=9)
    running = WatchState(watch_id="later", version=version, task=9, next_frame={"epoch": gate.epoch})
    state = StreamState(stream_id=GATE, stream_version=gate.version, watches=[running])
    gate.world.logs.append(TOPICS.state, GATE.encode(), state.SerializeToString())
    gate.world.take_over()
    gate.frames(RESPONSE)
    gate.world.finish()
    assert kinds(gate.world.events(GATE)) == ["ENDED"]
    assert reasons(gate.world.events(GATE)) == ["REFUSED"]


def test_a_watch_without_room_waits_and_starts_when_there_is():
    gate = Gate()
    gate.world.engine.max_sessions = 1
    gate.watch("first")
    gate.watch("second")
    for _ in range(60):
        gate.frames(SILENCE)
        gate.world.finish()
        gate.world.now_us += 1_000_000
    assert 5 <= gate.world.engine.num_refused <= 9, "ever more rarely"
    gate.world.remove_watch(GATE, "first")
    gate.frames(SILENCE)
    gate.world.finish()
    gate.world.now_us += 31_000_000
    gate.frames(RESPONSE)
    events = gate.finish()
    told = [(event.watch_id, kind) for event, kind in zip(events, kinds(events), strict=True)]
    assert told == [
        ("first", "STARTED"),
        ("second", "ENDED"),
        ("first", "ENDED"),
        ("second", "STARTED"),
        ("second", "CLOSE"),
    ]
    assert reasons(events) == ["NO_ROOM", "WATCH_REMOVED"]
    assert events[1].detail == "no room"


def test_a_takeover_without_room_for_all_ends_what_is_open_and_starts_it_anew_later():
    gate = Gate()
    gate.watch("first")
    gate.watch("second")
    gate.frames(STANDBY)
    gate.world.finish()
    for _ in range(2):  # the second owner knows that it has been told
        gate.world.max_sessions = 1
        gate.world.take_over()
        gate.frames(STANDBY)
        gate.world.finish()
    events = gate.world.events(GATE)
    told = [(event.watch_id, kind) for event, kind in zip(events, kinds(events), strict=True)]
    assert told[4:] == [("second", "RETRACT"), ("second", "ENDED")]
    gate.world.engine.max_sessions = 2
    gate.world.now_us += 2_000_000
    gate.frames(RESPONSE)
    events = gate.finish()
    told = [(event.watch_id, kind) for event, kind in zip(events, kinds(events), strict=True)]
    assert told[6:] == [("second", "STARTED"), ("first", "CLOSE"), ("second", "CLOSE")]
    gate.world.max_sessions = 1
    gate.world.take_over()
    gate.finish()
    assert reasons(gate.world.events(GATE)) == ["NO_ROOM"] * 3


def test_a_question_without_room_is_refused_at_once():
    gate = Gate()
    gate.world.engine.max_sessions = 0
    gate.watch("asked", Task.TASK_QA, once=True, expires_at_us=gate.world.now_us + 60_000_000)
    gate.frames(SILENCE)
    assert reasons(gate.finish()) == ["REFUSED"]
    assert asks_in_control(gate) == []


def test_a_question_that_a_takeover_has_no_room_for_leaves_control():
    gate = Gate()
    gate.watch("asked", Task.TASK_QA, once=True, expires_at_us=gate.world.now_us + 60_000_000)
    gate.frames(SILENCE)
    gate.world.finish()
    gate.world.max_sessions = 0
    gate.world.take_over()
    assert reasons(gate.finish()) == ["REFUSED"]
    assert asks_in_control(gate) == []


def test_a_question_ends_with_its_stream_and_leaves_control():
    gate = Gate()
    gate.watch("asked", Task.TASK_QA, once=True, expires_at_us=gate.world.now_us + 60_000_000)
    gate.watch("cars")
    gate.frames(SILENCE)
    gate.status(SourceState.SOURCE_STATE_ENDED)
    assert reasons(gate.finish()) == ["STREAM_ENDED", "STREAM_ENDED"]
    assert list(gate.world.view.watches) == [(GATE, "cars")]


def test_a_question_that_cannot_go_on_leaves_control():
    gate = Gate()
    gate.watch("asked", Task.TASK_QA, once=True, expires_at_us=gate.world.now_us + 60_000_000)
    gate.frames(SILENCE)
    gate.world.finish()
    ((stream, _),) = gate.world.partition.sessions().values()
    stream.break_off("asked", Reason.REASON_REFUSED, "the frame is bad")
    assert reasons(gate.finish()) == ["REFUSED"]
    assert asks_in_control(gate) == []


def test_an_ask_ends_with_its_answer_and_leaves_control():
    gate = Gate()
    gate.watch("asked", Task.TASK_QA, once=True, expires_at_us=gate.world.now_us + 60_000_000)
    gate.frames(SILENCE, RESPONSE, RESPONSE, RESPONSE)
    events = gate.finish()
    assert kinds(events) == ["STARTED", "ANSWER", "ENDED"]
    assert reasons(events) == ["ANSWERED"]
    last = gate.world.logs.topics[TOPICS.control][-1]
    assert (last.key, last.value) == (b"watch/gate/asked", None)


def test_an_ask_without_an_answer_times_out_even_without_frames():
    gate = Gate()
    gate.watch("asked", Task.TASK_QA, once=True, expires_at_us=gate.world.now_us + 60_000_000)
    gate.world.finish()
    assert gate.world.events(GATE) == []
    gate.world.now_us += 61_000_000
    events = gate.finish()
    assert (kinds(events), reasons(events)) == (["ENDED"], ["TIMED_OUT"])
    gate.world.take_over()
    assert len(gate.finish()) == 1


def test_a_live_stream_that_is_late_jumps_to_its_newest_frame_with_one_gap():
    gate = Gate()
    gate.watch()
    gate.frames(SILENCE)
    gate.world.finish()
    gate.frames(STANDBY, RESPONSE, SILENCE, RESPONSE)
    gate.world.now_us += 11_000_000
    gate.world.receive(2)
    gate.world.advance()
    events = gate.finish()
    assert gaps(events) == [("LAG", 1, 3)]
    assert kinds(events) == ["STARTED", "GAP", "CLOSE"]
    assert (events[1].gap.from_ms, events[1].gap.to_ms, events[1].gap.num_frames) == (0, 3000, 3)


@pytest.mark.parametrize(
    ("source", "is_recording"), [("videos/gate.mp4", True), ("https://videos/gate.mp4", True)]
)
def test_a_recording_is_never_shed_nor_urgent_nor_lost(source: str, is_recording: bool):
    gate = Gate(source, is_recording)
    gate.watch()
    gate.frames(STANDBY)
    assert kinds(gate.finish()) == ["STARTED", "OPEN"]
    gate.world.now_us += 3_600_000_000
    assert len(gate.finish()) == 2
    gate.frames(STANDBY, RESPONSE, RESPONSE)
    gate.world.now_us += 3_600_000_000
    assert kinds(gate.finish()) == ["STARTED", "OPEN", "CLOSE", "CLOSE"]
    assert deadlines_ms(gate) == [math.inf] * 4


def test_pictures_let_go_of_are_read_again_in_their_turn():
    gate = Gate("film.mp4", max_pending_frames=1)
    gate.watch()
    gate.frames(STANDBY, RESPONSE, SILENCE, RESPONSE)
    gate.world.receive(4)
    events = gate.finish()
    assert kinds(events) == ["STARTED", "OPEN", "CLOSE", "CLOSE"]
    assert [event.text for event in events[2:]] == ["number 1", "number 3"]
    assert gate.world.num_loaded == 3


def test_a_picture_let_go_of_and_deleted_meanwhile_is_named():
    gate = Gate("film.mp4", max_pending_frames=1)
    gate.watch()
    gate.frames(SILENCE, RESPONSE, SILENCE)
    gate.world.receive(3)
    gate.world.logs.begins[TOPICS.frames] = 2
    events = gate.finish()
    assert gaps(events) == [("EXPIRED", 1, 1)]
    assert not gate.world.logs.topics.get(TOPICS.quarantine)
    assert gate.world.state(GATE).watches[0].rounds_decided == 2


def test_a_live_stream_over_http_is_live():
    gate = Gate("http://gate/mjpeg")
    gate.watch()
    gate.frames(STANDBY)
    gate.finish()
    gate.world.now_us += 31_000_000
    assert reasons(gate.finish()) == ["SOURCE_LOST"]


def test_the_engine_is_told_what_a_round_is_worth():
    gate = Gate(decision_target_ms=250.0)
    gate.watch(sensitivity=1.5)
    at_ms = gate.world.now_us / 1000
    gate.frames(SILENCE)
    gate.world.now_us += 2_000_000
    gate.frames(SILENCE)
    gate.finish()
    assert deadlines_ms(gate) == [at_ms + 250, at_ms + 2250]
    (session,) = gate.world.engine.sessions.values()
    assert (session.stream_id, session.sensitivity) == (GATE, 1.5)
    gate.world.take_over()
    (session,) = gate.world.engine.sessions.values()
    assert (session.stream_id, session.sensitivity, len(session.past)) == (GATE, 1.5, 2)


def test_a_file_is_never_shed():
    gate = Gate(source="videos/gate.mp4")
    gate.watch()
    gate.frames(SILENCE, RESPONSE, RESPONSE)
    gate.world.now_us += 3_600_000_000
    events = gate.finish()
    assert kinds(events) == ["STARTED", "CLOSE", "CLOSE"]


def test_unreadable_records_are_named_quarantined_and_explain_the_hole():
    gate = Gate()
    gate.watch()
    gate.frames(SILENCE)
    gate.world.logs.append(TOPICS.frames, b"gate", b"\xff\xff", [])
    gate.world.logs.append(TOPICS.frames, b"gate", b"\xff\xfe", [])
    gate.seq += 3  # two were spoilt, one was lost
    gate.frames(SILENCE)
    bad = Frame(frame_seq=gate.seq, media_time_ms=9000, width=28, height=28, format=2, data=b"no jpeg")
    gate.world.send(FrameRecord(stream_id=GATE, epoch=gate.epoch, frames=FrameBatch(frames=[bad])))
    gate.seq += 1
    gate.frames(SILENCE)
    events = gate.finish()
    assert gaps(events) == [("UNREADABLE", 1, 1), ("UNREADABLE", 2, 2), ("LOST", 3, 3), ("UNREADABLE", 5, 5)]
    quarantined = gate.world.logs.topics[TOPICS.quarantine]
    assert [record.value for record in quarantined[:2]] == [b"\xff\xff", b"\xff\xfe"]
    headers = dict(quarantined[0].headers)
    assert (headers["source.topic"], headers["source.partition"], headers["source.offset"]) == (
        b"frames",
        b"0",
        b"1",
    )
    assert headers["reason"]


def test_an_unreadable_record_of_a_former_stream_is_not_told_of_the_next_one():
    gate = Gate()
    gate.frames(SILENCE)
    bad = Frame(frame_seq=1, media_time_ms=1000, width=1, height=1)
    gate.world.send(FrameRecord(stream_id=GATE, epoch=gate.epoch, frames=FrameBatch(frames=[bad])))
    gate.world.remove_stream(GATE)
    gate.world.add_stream(GATE, "rtsp://gate/")
    gate.begin_epoch()
    gate.watch()
    gate.frames(RESPONSE)
    assert kinds(gate.finish()) == ["STARTED", "CLOSE"]
    assert len(gate.world.logs.topics[TOPICS.quarantine]) == 1


def test_a_record_without_a_stream_is_quarantined_alone():
    gate = Gate()
    gate.world.logs.append(TOPICS.frames, None, b"junk", [])
    gate.world.logs.append(TOPICS.frames, b"\xff", b"junk", [])
    status = SourceStatus(state=SourceState.SOURCE_STATE_LIVE)
    gate.world.logs.append(TOPICS.frames, b"", FrameRecord(status=status).SerializeToString(), [])
    gate.watch()
    gate.frames(RESPONSE)
    assert kinds(gate.finish()) == ["STARTED", "CLOSE"]
    assert len(gate.world.logs.topics[TOPICS.quarantine]) == 3


def test_the_largest_record_that_cannot_be_read_fits_into_quarantine():
    gate = Gate()
    gate.world.logs.append(TOPICS.frames, b"k" * MAX_RECORD_BYTES, b"v" * MAX_RECORD_BYTES, [])
    gate.finish()
    (record,) = gate.world.logs.topics[TOPICS.quarantine]
    headers = sum(len(name) + len(value) for name, value in record.headers)
    assert len(record.key) + len(record.value) + headers < MAX_RECORD_BYTES - 1024


def test_numbers_that_no_stream_comes_to_harm_nothing():
    gate = Gate()
    gate.watch()
    gate.frames(SILENCE, SILENCE)
    picture_bytes = picture(RESPONSE, 1, 1).tobytes()
    frame = Frame(frame_seq=2**64 - 1, width=28, height=28, format=1, data=picture_bytes)
    for body in (
        {"frames": FrameBatch(frames=[frame])},
        {"status": SourceStatus(state=SourceState.SOURCE_STATE_DISCONNECTED, num_kept=2**64 - 1)},
    ):
        gate.world.send(FrameRecord(stream_id=GATE, epoch=gate.epoch, **body))
    gate.seq += 2  # those that were spoilt
    gate.frames(RESPONSE)
    events = gate.finish()
    assert kinds(events)[-1] == "CLOSE"
    assert num_quarantined(gate) == 2


def test_a_record_in_the_wrong_partition_is_quarantined_and_begins_no_stream():
    gate = Gate(num_partitions=2)
    assert partition_of(GATE, 2) == 0
    stray = next(f"yard-{n}" for n in range(99) if partition_of(f"yard-{n}", 2) == 1)
    gate.world.add_stream(stray)
    epoch = gate.world.begin_epoch(stray)
    gate.world.add_watch(Watch(stream_id=stray, watch_id="all", task=Task.TASK_QA, instruction="all"))
    frame = Frame(width=28, height=28, format=1, data=picture(RESPONSE, 1, 1).tobytes())
    gate.world.send(FrameRecord(stream_id=stray, epoch=epoch, frames=FrameBatch(frames=[frame])))
    gate.world.logs.append(TOPICS.frames, stray.encode(), b"\xff\xff", [])
    gate.watch()
    gate.frames(RESPONSE)
    assert kinds(gate.finish()) == ["STARTED", "CLOSE"]
    assert gate.world.events(stray) == []
    assert not gate.world.state(stray).stream_id
    assert num_quarantined(gate) == len(gate.world.logs.topics[TOPICS.quarantine]) == 2
    assert b"partition" in dict(gate.world.logs.topics[TOPICS.quarantine][0].headers)["reason"]


def num_quarantined(gate: Gate) -> int:
    """As counted."""
    return gate.world.telemetry.counts[Metrics.RECORDS_QUARANTINED[0], ""]


def test_every_record_in_quarantine_is_counted():
    gate = Gate()
    gate.world.logs.append(TOPICS.frames, None, b"without a key", [])
    gate.world.logs.append(TOPICS.frames, b"unknown", b"of a stream that was never added", [])
    gate.world.logs.append(TOPICS.frames, b"gate", b"\xff\xff", [])
    gate.watch()
    gate.frames(RESPONSE)
    gate.finish()
    assert num_quarantined(gate) == len(gate.world.logs.topics[TOPICS.quarantine]) == 3


def test_a_record_that_is_read_again_is_counted_once():
    gate = Gate()
    gate.watch()
    gate.frames(SILENCE)
    gate.world.finish()
    gate.world.logs.append(TOPICS.frames, b"gate", b"\xff\xff", [])
    gate.world.receive(1)
    gate.world.advance()
    gate.world.take_over()
    gate.world.receive(1)
    gate.world.advance()
    gate.world.begin_commit()
    gate.world.committer.abort()
    gate.finish()
    assert num_quarantined(gate) == len(gate.world.logs.topics[TOPICS.quarantine]) == 1


def test_a_picture_that_the_encoder_refuses_is_a_gap_of_its_own():
    gate = Gate()
    gate.watch()
    gate.world.encoder.refused = {1}
    gate.frames(SILENCE, RESPONSE, RESPONSE)
    events = gate.finish()
    assert gaps(events) == [("UNREADABLE", 1, 1)]
    assert kinds(events) == ["STARTED", "GAP", "CLOSE"]


def test_frames_that_retention_took_are_a_gap_with_that_reason():
    gate = Gate()
    gate.watch()
    gate.frames(SILENCE, SILENCE)
    gate.world.finish()
    gate.frames(RESPONSE, RESPONSE, RESPONSE)
    gate.world.logs.begins[TOPICS.frames] = 4
    gate.world.take_over()
    gate.world.finish()
    events = gate.world.events(GATE)
    assert gaps(events) == [("EXPIRED", 2, 3)]
    assert kinds(events) == ["STARTED", "GAP", "CLOSE"]


def test_a_frame_waits_until_control_has_been_read_up_to_its_epoch():
    gate = Gate()
    gate.watch()
    gate.frames(SILENCE)
    view, gate.world.view = gate.world.view, type(gate.world.view)()
    gate.world.receive(1)
    for _ in range(3):
        gate.world.partition.advance(gate.world.view, True)
        assert gate.world.partition.num_waiting == 1
        # A replica that died with a transaction open holds `control` up for as long as the broker lets it.
        gate.world.now_us += 15_000_000
    gate.world.view = view
    assert kinds(gate.finish()) == ["STARTED"]


def test_an_epoch_that_was_never_begun_harms_its_own_record_only():
    gate = Gate()
    gate.watch()
    gate.frames(SILENCE)
    gate.send(FrameRecord(stream_id=GATE, epoch=1 << 40, status=SourceStatus(state=2)))
    gate.frames(RESPONSE)
    gate.world.receive(9)
    gate.world.advance()
    gate.world.now_us += 61_000_000
    gate.world.advance()
    gate.sent.pop(1)
    gate.world.finish()
    assert kinds(gate.world.events(GATE)) == ["STARTED", "GAP", "CLOSE"]


@pytest.mark.parametrize("use_redis", [True, False])
def test_a_takeover_replays_the_window_with_its_tags(use_redis: bool):
    gate = Gate()
    gate.watch()
    gate.frames(*[SILENCE, RESPONSE, STANDBY, RESPONSE] * 5)
    gate.seq += 2
    gate.frames(SILENCE, RESPONSE)
    gate.world.finish()
    before = gate.world.engine.sessions[f"{GATE}/cars/{2}"].seen[-WINDOW_ROUNDS:]
    if not use_redis:
        gate.world.redis.clear()
    gate.world.take_over()
    after = gate.world.engine.sessions[f"{GATE}/cars/{2}"].past
    assert [(r.start_ms, r.end_ms, r.grid) for r in after] == [(r.start_ms, r.end_ms, r.grid) for r in before]
    assert gate.world.counts == ({"used": 1} if use_redis else {})
    gate.frames(RESPONSE)
    gate.finish()


def test_a_takeover_leaves_the_encoder_room_for_other_streams():
    gate = Gate("file:///gate.mp4", window_rounds=200)
    gate.watch()
    gate.frames(*[SILENCE] * 200)
    gate.finish()
    gate.world.encoder = encoder = OneAtATimeEncoder()
    gate.world.take_over()
    assert encoder.most_waiting <= 64
    (session,) = gate.world.engine.sessions.values()
    assert [past.frame[0][2] for past in session.past] == list(range(200))


class OneAtATimeEncoder(ScriptedEncoder):
    """Takes its time: calls wait for the one before them."""

    def __init__(self) -> None:
        super().__init__()
        self.most_waiting = 0
        self._num_waiting = 0
        self._lock = Lock()
        self._worker = ThreadPoolExecutor(1)

    def submit(self, pixels: np.ndarray, context: Context) -> Future[np.ndarray]:
        with self._lock:
            self._num_waiting += 1
            self.most_waiting = max(self.most_waiting, self._num_waiting)
        return self._worker.submit(self._encode, pixels, context)

    def _encode(self, pixels: np.ndarray, context: Context) -> np.ndarray:
        tokens = super().submit(pixels, context).result()
        with self._lock:
            self._num_waiting -= 1
        return tokens


def test_a_checkpoint_of_another_stream_is_not_used():
    gate = Gate()
    gate.watch()
    gate.frames(SILENCE, RESPONSE)
    gate.world.finish()
    gate.world.redis[GATE].state.stream_id = "yard"
    gate.world.take_over()
    assert gate.world.counts == {"stale": 1}
    gate.frames(RESPONSE)
    assert kinds(gate.finish()) == ["STARTED", "CLOSE", "CLOSE"]


@pytest.mark.parametrize("use_redis", [True, False])
def test_a_model_with_another_vocabulary_goes_on_over_the_texts(use_redis: bool):
    gate = Gate()
    gate.watch()
    gate.frames(SILENCE, RESPONSE, STANDBY)
    gate.world.finish()
    if not use_redis:
        gate.world.redis.clear()
    gate.world.dialogue = ScriptedDialogue(first_id=500)
    gate.world.take_over()  # the engine checks each reply
    assert len(gate.world.engine.sessions[f"{GATE}/cars/2"].past) == 3
    assert gate.world.counts == ({"other vocabulary": 1} if use_redis else {})
    gate.frames(RESPONSE)
    gate.world.finish()
    gate.world.take_over()  # its own replies by their ids, the other's by their texts
    assert len(gate.world.engine.sessions[f"{GATE}/cars/2"].past) == 4
    assert gate.world.counts.get("used") == 1
    gate.world.redis.clear()
    gate.world.take_over()
    assert len(gate.world.engine.sessions[f"{GATE}/cars/2"].past) == 4
    gate.frames(RESPONSE)
    assert kinds(gate.finish()) == ["STARTED", "CLOSE", "OPEN", "CLOSE", "CLOSE"]


def test_a_window_whose_reply_is_lost_starts_empty_and_is_counted():
    gate = Gate()
    gate.watch()
    gate.frames(SILENCE, STANDBY, RESPONSE, STANDBY)
    gate.world.finish()
    gate.world.redis.clear()
    gate.world.logs.begins[TOPICS.events] = gate.world.logs.end(TOPICS.events)
    gate.world.take_over()
    assert gate.world.counts == {"reply lost": 1}
    gate.frames(RESPONSE)
    gate.world.finish()
    events = gate.world.events(GATE)
    assert events[-1].event_id == events[-2].event_id  # what was open is closed all the same


def test_a_window_does_not_take_one_frame_of_a_record_for_another():
    gate = Gate()
    gate.watch()
    gate.world.encoder.refused = {9}
    pictures = [(RESPONSE, 0), (SILENCE, 9), (SILENCE, 2)]
    gate.batch([scripted_frame(n, state, shown=shown) for n, (state, shown) in enumerate(pictures)])
    gate.seq = 3
    gate.frames(RESPONSE)
    assert kinds(gate.finish()) == ["STARTED", "CLOSE", "GAP", "CLOSE"]
    gate.world.take_over()  # the engine checks each reply
    (session,) = gate.world.engine.sessions.values()
    assert len(session.past) == 1


def test_a_window_that_another_model_does_not_take_starts_empty_and_is_counted():
    gate = Gate()
    gate.watch()
    gate.frames(SILENCE, RESPONSE, STANDBY)
    gate.world.finish()
    gate.world.vocab_size = 300
    gate.world.take_over()
    assert gate.world.engine.sessions[f"{GATE}/cars/2"].past == []
    assert gate.world.telemetry.counts[Metrics.CHECKPOINTS[0], "window refused"] == 1
    gate.frames(RESPONSE)
    assert kinds(gate.finish()) == ["STARTED", "CLOSE", "OPEN", "CLOSE"]


def leave_under_way(gate: Gate) -> None:
    """Commits where frame 0 is decided and frames 1 to 3 are under way; `cars` has decided 1 and 2, `people` none."""
    world = gate.world
    gate.watch("cars")
    gate.watch("people", task=Task.TASK_QA)
    gate.frames(SILENCE)
    gate.finish()
    gate.frames(STANDBY, RESPONSE, SILENCE, steps=0)
    world.engine.held = {name for name in world.engine.sessions if "people" in name}
    world.receive(3)
    world.advance()
    world.step()
    world.step()
    world.begin_commit()
    world.committer.commit()
    assert [watch.next_frame.frame_seq for watch in world.state(GATE).watches] == [3, 1]
    assert world.state(GATE).next_frame_seq == 4


@pytest.mark.parametrize(
    "when", ["at once", "told and not committed", "committed and not learnt", "half told"]
)
def test_frames_under_way_that_another_model_cannot_read_are_told(when: str):
    gate = Gate()
    leave_under_way(gate)
    world = gate.world
    world.take_over(patch_size=16)
    if when != "at once":
        world.receive(1 if when == "half told" else 3)
        world.advance()
        world.begin_commit()
        if when != "told and not committed":
            world.committer.commit()
        world.take_over(patch_size=16)
    events = gate.finish()
    assert kinds(events) == ["STARTED", "STARTED", "OPEN", "CLOSE", "GAP", "GAP", "GAP"]
    assert gaps(events) == [("UNREADABLE", 1, 1), ("UNREADABLE", 2, 2), ("UNREADABLE", 3, 3)]
    assert [(e.gap.from_ms, e.gap.to_ms) for e in events[4:]] == [(0, 1000), (1000, 2000), (2000, 3000)]
    assert len(world.logs.topics[TOPICS.quarantine]) == 3
    counters = world.state(GATE).counters
    assert (counters.frames_kept, counters.frames_skipped) == (4, 3)
    world.take_over()
    gate.frames(RESPONSE)
    assert kinds(gate.finish())[7:] == ["CLOSE", "ANSWER"]


def test_a_record_half_decided_that_another_model_cannot_read_is_told():
    gate = Gate()
    gate.watch()
    gate.frames(SILENCE)
    gate.finish()
    gate.batch([scripted_frame(number, SILENCE, shown=0) for number in range(1, 7)])
    gate.world.receive(1)
    gate.world.advance()
    gate.world.step()
    gate.world.begin_commit()
    gate.world.committer.commit()
    (watch,) = gate.world.state(GATE).watches
    assert (watch.next_frame.frame_seq, gate.world.state(GATE).next_frame_seq) == (2, 5)
    gate.world.take_over(patch_size=16)
    assert gaps(gate.finish()) == [("UNREADABLE", 2, 4), ("UNREADABLE", 5, 6)]
    assert num_quarantined(gate) == 1
    counters = gate.world.state(GATE).counters
    assert (counters.frames_kept, counters.frames_skipped) == (7, 5)


def test_a_frame_under_way_that_the_next_encoder_refuses_is_told():
    gate = Gate()
    leave_under_way(gate)
    gate.world.take_over()
    gate.world.encoder.refused = {2}
    events = gate.finish()
    assert gaps(events) == [("UNREADABLE", 2, 2)]
    assert len(gate.world.logs.topics[TOPICS.quarantine]) == 1


def test_a_hole_that_was_explained_is_not_told_again_for_the_frame_after_it():
    gate = Gate()
    gate.watch()
    gate.frames(SILENCE)
    gate.finish()
    gate.world.logs.append(TOPICS.frames, b"gate", b"\xff\xff", [])
    gate.seq += 1
    gate.frames(SILENCE)
    gate.world.receive(2)
    gate.world.advance()
    gate.world.begin_commit()
    gate.world.committer.commit()
    gate.world.take_over()
    assert gaps(gate.finish()) == [("UNREADABLE", 1, 1)]


@pytest.mark.parametrize(("num_left", "expired"), [(0, (1, 3)), (2, (1, 1))])
def test_frames_under_way_that_retention_takes_are_told(num_left: int, expired: tuple[int, int]):
    gate = Gate()
    leave_under_way(gate)
    gate.world.logs.begins[TOPICS.frames] = gate.world.logs.end(TOPICS.frames) - num_left
    gate.world.take_over()
    gate.frames(RESPONSE)
    events = gate.finish()
    assert gaps(events) == [("EXPIRED", *expired)]
    assert kinds(events)[-2:] == ["CLOSE", "ANSWER"]


def condition(gate: Gate) -> str:
    (health,) = gate.world.partition.health()
    return health.condition.value


def test_a_stream_says_which_trouble_it_is_in():
    gate = Gate(max_lag_s=10.0, source_lost_s=30.0)
    gate.watch()
    gate.frames(SILENCE)
    gate.finish()
    assert condition(gate) == "ok"
    gate.world.now_us += 31_000_000
    assert condition(gate) == "silent"
    gate.status(SourceState.SOURCE_STATE_DISCONNECTED, num_kept=gate.seq)
    gate.finish()
    assert condition(gate) == "failing"
    gate.begin_epoch()
    gate.frames(SILENCE)
    gate.finish()
    assert condition(gate) == "ok"
    # A frame that is not yet decided grows old.
    gate.frames(SILENCE)
    gate.world.now_us += 6_000_000
    gate.world.receive(1)
    assert condition(gate) == "behind"
    gate.world.now_us += 6_000_000
    gate.frames(SILENCE)
    gate.finish()
    assert condition(gate) == "shedding"
    (health,) = gate.world.partition.health()
    assert health.frames_skipped == 1
    gate.world.remove_stream(GATE)
    gate.world.advance()
    assert gate.world.partition.health() == []


def test_a_live_stream_too_far_behind_jumps_to_its_newest_frame():
    gate = Gate(max_lag_s=10.0)
    gate.watch()
    gate.frames(SILENCE)
    gate.finish()
    for _ in range(15):
        gate.world.now_us += 1_000_000
        gate.frames(SILENCE)
    # Not to where it would be on the brink again: what takes a second would then be late for ever.
    assert gaps(gate.finish()) == [("LAG", 1, 14)]
    assert gate.world.state(GATE).watches[0].rounds_decided == 2


def test_a_recording_that_was_read_to_its_end_is_in_no_trouble():
    gate = Gate("/videos/gate.mp4", is_recording=True)
    gate.watch()
    gate.frames(SILENCE)
    gate.status(SourceState.SOURCE_STATE_ENDED, num_kept=1)
    gate.finish()
    gate.world.now_us += 3_600_000_000
    assert condition(gate) == "ended"


def test_a_source_that_came_back_is_live_and_its_next_failure_is_told():
    gate = Gate()
    for _ in range(2):
        gate.frames(SILENCE)
        gate.finish()
        assert gate.world.state(GATE).source_state == SourceState.SOURCE_STATE_LIVE
        gate.status(SourceState.SOURCE_STATE_DISCONNECTED, num_kept=gate.seq)
        gate.begin_epoch()
    gate.finish()
    assert kinds(gate.world.events(GATE)).count("SOURCE") == 2
