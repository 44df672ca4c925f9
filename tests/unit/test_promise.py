"""The checker of the promise is itself checked: on a sound history, and on one planted fault at a time."""

import pytest
from support.promise import StreamRecords, kept_frames, violations

from streamo.v1.event_pb2 import Event, EventKind, FrameRef, Gap
from streamo.v1.frame_pb2 import Frame, FrameBatch, FrameRecord
from streamo.v1.state_pb2 import OpenEvent, StreamState, WatchState, Window

STARTED, OPEN, CLOSE, RETRACT, ANSWER, ENDED, GAP = (
    EventKind.Value(f"EVENT_KIND_{name}")
    for name in ("STARTED", "OPEN", "CLOSE", "RETRACT", "ANSWER", "ENDED", "GAP")
)


def frame(epoch: int, seq: int) -> FrameRecord:
    return FrameRecord(stream_id="gate", epoch=epoch, frames=FrameBatch(frames=[Frame(frame_seq=seq)]))


def told(seq: int, kind: int, event_id: str, at: tuple[int, int]) -> Event:
    reference = FrameRef(epoch=at[0], frame_seq=at[1])
    return Event(seq=seq, kind=kind, event_id=event_id, watch_id="cars", watch_version=4, frame=reference)


def history() -> StreamRecords:
    """Epoch 1 with frames 0-9, of which 6 and 7 were skipped; the watch began at frame 2; one OPEN is still open. The
    window holds frames 4, 5, 8 and 9."""
    frames = [frame(1, seq) for seq in range(10)]
    gap = Gap(first=FrameRef(epoch=1, frame_seq=6), last=FrameRef(epoch=1, frame_seq=7), num_frames=2)
    events = [
        told(1, STARTED, "s", (1, 2)),
        told(2, OPEN, "o1", (1, 3)),
        told(3, CLOSE, "o1", (1, 5)),
        Event(seq=4, kind=GAP, event_id="g", gap=gap),
        told(5, OPEN, "o2", (1, 9)),
    ]
    watch = WatchState(
        watch_id="cars",
        version=4,
        activation=FrameRef(epoch=1, frame_seq=2),
        next_frame=FrameRef(epoch=1, frame_seq=10),
        rounds_decided=6,
        open=OpenEvent(event_id="o2"),
        window=Window(first=FrameRef(epoch=1, frame_seq=4), num_rounds=4, states=bytes([0b01_01_10_01])),
    )
    return StreamRecords(frames, events, StreamState(stream_id="gate", last_seq=len(events), watches=[watch]))


def test_a_sound_history_has_no_violations():
    assert violations(history()) == []


def test_frames_of_an_overtaken_worker_and_repeats_do_not_count():
    frames = [frame(1, 0), frame(2, 0), frame(1, 1), frame(2, 0), frame(2, 1)]
    assert kept_frames(frames) == [(1, 0), (2, 0), (2, 1)]


def number_anew(records):
    """As if nothing was ever missing."""
    for seq, event in enumerate(records.events, start=1):
        event.seq = seq
    records.state.last_seq = len(records.events)


def drop_event(records):
    del records.events[2]


def drop_the_first_event(records):
    del records.events[0]


def drop_the_last_event(records):
    records.state.watches[0].ClearField("open")
    del records.events[-1]


def never_tell_a_reply(records):
    del records.events[1:3]
    number_anew(records)


def tell_a_reply_that_was_not_decided(records):
    records.events.append(told(6, CLOSE, "o2", (1, 9)))
    records.state.watches[0].ClearField("open")
    number_anew(records)


def lose_the_window(records):
    records.state.watches[0].window.num_rounds -= 1


def name_a_frame_that_was_decided(records):
    records.events[3].gap.first.frame_seq = 5


def repeat_event(records):
    records.events.insert(3, records.events[2])


def swap_events(records):
    records.events[1], records.events[2] = records.events[2], records.events[1]


def decide_a_frame_twice(records):
    records.state.watches[0].rounds_decided += 1


def lose_a_round(records):
    records.state.watches[0].rounds_decided -= 1


def lose_a_gap(records):
    del records.events[3]
    number_anew(records)


def forget_an_open(records):
    records.state.watches[0].ClearField("open")


def close_twice(records):
    records.events.append(told(6, CLOSE, "o1", (1, 9)))
    number_anew(records)


def tell_two_attempts(records):
    records.events.append(told(6, ANSWER, "a", (1, 9)))
    records.events.append(told(7, ANSWER, "b", (1, 9)))
    number_anew(records)


def stand_still(records):
    records.frames.extend(frame(1, seq) for seq in range(10, 60))


@pytest.mark.parametrize(
    "fault",
    [
        drop_event,
        drop_the_first_event,
        drop_the_last_event,
        never_tell_a_reply,
        tell_a_reply_that_was_not_decided,
        lose_the_window,
        name_a_frame_that_was_decided,
        repeat_event,
        swap_events,
        decide_a_frame_twice,
        lose_a_round,
        lose_a_gap,
        forget_an_open,
        close_twice,
        tell_two_attempts,
        stand_still,
    ],
)
def test_a_planted_fault_is_found(fault):
    records = history()
    fault(records)
    assert violations(records)


def test_a_gap_does_not_mean_a_watch_that_had_decided_the_frame_before():
    records = history()
    name_a_frame_that_was_decided(records)
    before = WatchState(watch_id="cars", version=4, next_frame=FrameRef(epoch=1, frame_seq=6))
    earlier = [StreamState(last_seq=3, watches=[before])]
    assert violations(StreamRecords(records.frames, records.events, records.state, earlier)) == []
    earlier[0].last_seq = 4  # of the same transaction as the gap
    assert violations(StreamRecords(records.frames, records.events, records.state, earlier))
