"""The promise of docs/architecture.md, checked on what Kafka holds: an observer that shares no code with the services.

`violations` gets the committed records of one stream in log order and says in words what is broken.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from streamo.v1.event_pb2 import Event, EventKind, Reason
from streamo.v1.frame_pb2 import FrameRecord
from streamo.v1.state_pb2 import StreamState, WatchState

FrameId = tuple[int, int]  # epoch, frame_seq
WatchKey = tuple[str, int]  # id, version

_RESPONSE = 2  # in a window's states
_REPLIES = (EventKind.EVENT_KIND_CLOSE, EventKind.EVENT_KIND_ANSWER)


@dataclass(frozen=True)
class StreamRecords:
    """What the topics hold of one stream, committed only, oldest first."""

    frames: Sequence[FrameRecord]
    events: Sequence[Event]
    state: StreamState
    # What was committed before `state`, as far as it is known.
    earlier: Sequence[StreamState] = ()


@dataclass
class _Watch:
    started: Event
    ended: Event | None = None
    open_ids: set[str] = field(default_factory=set)
    told: set[tuple[FrameId, int]] = field(default_factory=set)


def violations(records: StreamRecords) -> list[str]:
    return _order(records) + _life_cycles(records) + _counts(records)


def kept_frames(frames: Sequence[FrameRecord]) -> list[FrameId]:
    """The frames that count: each once, none of an ingest worker whose epoch was already overtaken."""
    kept: dict[FrameId, None] = {}
    newest = 0
    for record in frames:
        newest = max(newest, record.epoch)
        if record.epoch == newest:
            kept.update(((record.epoch, frame.frame_seq), None) for frame in record.frames.frames)
    return sorted(kept)


def is_missed(records: StreamRecords, watch: WatchKey, frame: FrameId) -> bool:
    """Whether a gap tells that the watch did not decide the frame. A gap belongs to the whole stream: a watch that had
    decided the frame before it was told is not meant."""
    return any(
        event.kind == EventKind.EVENT_KIND_GAP
        and event.gap.HasField("first")
        and _id(event.gap.first) <= frame <= _id(event.gap.last)
        and not any(
            _key(before) == watch and _id(before.next_frame) > frame
            for state in records.earlier
            if state.last_seq < event.seq
            for before in state.watches
        )
        for event in records.events
    )


def _order(records: StreamRecords) -> list[str]:
    found = [event.seq for event in records.events]
    if found != list(range(1, records.state.last_seq + 1)):
        return [f"seq is not 1 to {records.state.last_seq}: {found}"]
    return []


def _life_cycles(records: StreamRecords) -> list[str]:
    wrong: list[str] = []
    watches: dict[WatchKey, _Watch] = {}
    ids = Counter(event.event_id for event in records.events if event.kind != EventKind.EVENT_KIND_GAP)
    opened = {event.event_id for event in records.events if event.kind == EventKind.EVENT_KIND_OPEN}
    for event_id, count in ids.items():
        if not event_id:
            wrong.append("an event has no event_id")
        if count > (2 if event_id in opened else 1):
            wrong.append(f"event_id {event_id} was told {count} times")
    for event in records.events:
        if not event.watch_id:
            continue
        key, at = (event.watch_id, event.watch_version), f"{EventKind.Name(event.kind)} seq {event.seq}"
        watch = watches.get(key)
        if event.kind == EventKind.EVENT_KIND_STARTED:
            if watch is not None and not _gave_way(watch):
                wrong.append(f"{at}: watch {key} started twice")
            watches[key] = _Watch(event)
            continue
        if event.kind == EventKind.EVENT_KIND_ENDED and watch is None:
            continue  # never took effect: refused, removed before its first frame, or timed out
        if watch is None or watch.ended is not None:
            wrong.append(f"{at}: watch {key} was not running")
            continue
        wrong += _apply(watch, event, at)
    held = {watch.open.event_id for watch in records.state.watches if watch.HasField("open")}
    left = set().union(*(watch.open_ids for watch in watches.values())) if watches else set()
    if left != held:
        wrong.append(f"OPEN without an end {sorted(left - held)}; open in state only {sorted(held - left)}")
    return wrong


def _gave_way(watch: _Watch) -> bool:
    """Ended for want of room, and so free to start again."""
    return watch.ended is not None and watch.ended.reason == Reason.REASON_NO_ROOM


def _apply(watch: _Watch, event: Event, at: str) -> list[str]:
    wrong = []
    frame = (event.frame.epoch, event.frame.frame_seq)
    match event.kind:
        case EventKind.EVENT_KIND_OPEN:
            if watch.open_ids:
                wrong.append(f"{at}: a second OPEN while {watch.open_ids} is open")
            watch.open_ids.add(event.event_id)
        case EventKind.EVENT_KIND_CLOSE | EventKind.EVENT_KIND_RETRACT:
            if watch.open_ids and event.event_id not in watch.open_ids:
                wrong.append(f"{at}: ends {event.event_id}, but {watch.open_ids} is open")
            if event.kind == EventKind.EVENT_KIND_RETRACT and not watch.open_ids:
                wrong.append(f"{at}: retracts what is not open")
            watch.open_ids.discard(event.event_id)
        case EventKind.EVENT_KIND_ENDED:
            if watch.open_ids:
                wrong.append(f"{at}: ended while {watch.open_ids} is open")
            watch.ended = event
    if event.HasField("frame") and event.kind != EventKind.EVENT_KIND_ENDED:
        if (frame, event.kind) in watch.told:
            wrong.append(f"{at}: told twice about frame {frame}")
        watch.told.add((frame, event.kind))
    return wrong


def _counts(records: StreamRecords) -> list[str]:
    wrong = []
    frames = kept_frames(records.frames)
    for watch in records.state.watches:
        if not watch.HasField("activation"):
            continue
        mine = [frame for frame in frames if _id(watch.activation) <= frame < _id(watch.next_frame)]
        skipped = [frame for frame in mine if is_missed(records, _key(watch), frame)]
        if len(mine) != watch.rounds_decided + len(skipped):
            wrong.append(
                f"watch {watch.watch_id}: {len(mine)} frames from its activation on, {watch.rounds_decided} decided "
                f"and {len(skipped)} named in gaps"
            )
        decided = [frame for frame in mine if frame not in skipped]
        wrong += _replies(watch, decided, records.events) + _unreached(watch, frames)
    return wrong


def _replies(watch: WatchState, decided: list[FrameId], events: Sequence[Event]) -> list[str]:
    """Of the rounds in the window exactly those that responded have told a reply, once each."""
    window = watch.window
    frames = [frame for frame in decided if window.num_rounds and frame >= _id(window.first)]
    if len(frames) != window.num_rounds:
        return [
            f"watch {watch.watch_id}: {window.num_rounds} rounds in the window, {len(frames)} decided frames"
        ]
    states = [window.states[index // 4] >> 2 * (index % 4) & 3 for index in range(window.num_rounds)]
    responded = [frame for frame, state in zip(frames, states, strict=True) if state == _RESPONSE]
    told = sorted(
        _id(event.frame)
        for event in events
        if (event.watch_id, event.watch_version) == _key(watch) and event.kind in _REPLIES
        if window.num_rounds and _id(event.frame) >= _id(window.first)
    )
    if told != responded:
        return [f"watch {watch.watch_id}: frames {responded} responded, and replies are told of {told}"]
    return []


def _key(watch: WatchState) -> WatchKey:
    return (watch.watch_id, watch.version)


def _unreached(watch: WatchState, frames: list[FrameId]) -> list[str]:
    beyond = [frame for frame in frames if frame >= _id(watch.next_frame)]
    # A few frames are always under way; more would mean that the session stands still.
    return [f"watch {watch.watch_id}: {len(beyond)} frames wait"] if len(beyond) > 30 else []


def _id(reference: object) -> FrameId:
    return (reference.epoch, reference.frame_seq)  # type: ignore[attr-defined]
