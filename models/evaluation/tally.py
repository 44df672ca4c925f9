"""Counts of one record. All of them add up over records, so that scores and intervals come from sums alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from models.data.sample import Round
from models.evaluation.matching import best_matching, match_times
from models.evaluation.stream import Slots, StreamRecord
from models.evaluation.telling import TOLERANCE_MS, is_same
from models.evaluation.watch_events import OPENING_TASKS, Phase, WatchEvent, watch_events
from models.vlm.state import State

Parse = Callable[[str, str], tuple[Slots | None, ...]]

ONSET_TOLERANCES_S = (1, 2, 3)
# An event further than this from all gold of its watch is a false alarm.
QUIET_MARGIN_MS = 5_000
# A repeat of what was rightly told counts as a duplicate for this long; of an answer, while it holds.
DUPLICATE_MS = 30_000
TIMED_QA_TOLERANCE_MS = 3_000
# StreamPro-F1: how fast a late telling loses its worth, and how late it still belongs to its gold.
STREAMPRO_TAU_MS = 4_000
STREAMPRO_LATE_MS = 3_000


@dataclass(frozen=True)
class Part:
    """One of the things that a CLOSE or ANSWER tells; several share an event where they ended on one frame."""

    event: WatchEvent
    slots: Slots | None

    @property
    def media_ms(self) -> int:
        return self.event.media_ms


def tally(record: StreamRecord, parse: Parse) -> Counter[str]:
    """Every count that `scores.py` asks for. Rounds before the instruction came are not counted.

    Raises ValueError where a text of gold has no meaning: such a stream cannot be scored.
    """
    gold_rounds = record.gold[record.num_past_rounds :]
    told_rounds = record.told[record.num_past_rounds :]
    counts: Counter[str] = Counter(
        streams=1, rounds=len(gold_rounds), truncated=record.num_truncated, stream_ms=_length_ms(gold_rounds)
    )
    for gold, told in zip(gold_rounds, told_rounds, strict=True):
        counts[f"states/{gold.state.name}/{told.state.name}"] += 1

    golds = watch_events(record.task, ((one.end_ms, one.state, one.text) for one in gold_rounds))
    tolds = watch_events(record.task, ((one.end_ms, one.state, one.text) for one in told_rounds))
    gold_parts, told_parts = _parts(record.task, golds, parse), _parts(record.task, tolds, parse)
    for part in gold_parts:
        if part.slots is None:
            raise ValueError(
                f"stream {record.stream_id}: gold text {part.event.text!r} of task {record.task} has no meaning"
            )
    counts.update(_onsets(golds, tolds))
    counts.update(_events(record.task, gold_parts, told_parts))
    counts.update(_false_alarms(record.task, gold_rounds, told_rounds, tolds))
    counts.update(_time_differences(gold_rounds, told_rounds))
    counts.update(_streampro(record.task, gold_parts, told_parts))
    if record.task == "grounding":
        asked_ms = gold_rounds[0].start_ms if record.num_past_rounds else None
        counts.update(_spans(gold_parts, told_parts, asked_ms))
    if record.task == "qa":
        counts.update(_timed_qa(gold_parts, told_parts))
    return counts


def span_iou(one: Slots, other: Slots) -> float:
    """Shared time over the time from the first start to the last end; 0 where a span is missing or empty."""
    if one.start_ms is None or one.end_ms is None or other.start_ms is None or other.end_ms is None:
        return 0.0
    whole = max(one.end_ms, other.end_ms) - min(one.start_ms, other.start_ms)
    shared = min(one.end_ms, other.end_ms) - max(one.start_ms, other.start_ms)
    return max(0, shared) / whole if whole > 0 else 0.0


def _length_ms(rounds: Sequence[Round]) -> int:
    return rounds[-1].end_ms - rounds[0].start_ms if rounds else 0


def _parts(task: str, events: Sequence[WatchEvent], parse: Parse) -> list[Part]:
    return [Part(event, slots) for event in events if event.is_told for slots in parse(task, event.text)]


def _onsets(golds: Sequence[WatchEvent], tolds: Sequence[WatchEvent]) -> Counter[str]:
    """When it spoke, whatever it said."""
    gold_ms = [event.media_ms for event in golds if event.is_told]
    told_ms = [event.media_ms for event in tolds if event.is_told]
    counts = Counter({"onsets/gold": len(gold_ms), "onsets/told": len(told_ms)})
    for tolerance_s in ONSET_TOLERANCES_S:
        counts[f"onsets/matched_{tolerance_s}s"] = len(match_times(told_ms, gold_ms, tolerance_s * 1000))
    return counts


def _events(task: str, golds: Sequence[Part], tolds: Sequence[Part]) -> Counter[str]:
    """What was told right: all slots equal, within the tolerance, each gold once."""
    pairs = match_times(
        [part.media_ms for part in tolds],
        [part.media_ms for part in golds],
        TOLERANCE_MS,
        lambda told, gold: is_same(tolds[told].slots, golds[gold].slots, TOLERANCE_MS),
    )
    counts = Counter({"events/gold": len(golds), "events/told": len(tolds), "events/right": len(pairs)})
    right_tolds, right_golds = {told for told, _ in pairs}, {gold for _, gold in pairs}
    for index, told in enumerate(tolds):
        if index not in right_tolds and _repeats(task, told, golds, right_golds):
            counts["events/duplicate"] += 1
    # Parts that were told together have one event.
    told_right = {tolds[told].event: golds[gold].event for told, gold in pairs}
    for close, right in told_right.items():
        if close.phase is Phase.CLOSE:
            counts["lead/right"] += 1
            if close.open_ms is not None:
                counts["lead/opened"] += 1
                counts["lead/told_ms"] += close.media_ms - close.open_ms
            if right.open_ms is not None:
                counts["lead/gold_opened"] += 1
                counts["lead/gold_ms"] += right.media_ms - right.open_ms
    return counts


def _repeats(task: str, told: Part, golds: Sequence[Part], right_golds: set[int]) -> bool:
    """Whether it says again what was rightly told: the last gold of these slots, or the answer that holds."""
    before = [index for index, gold in enumerate(golds) if gold.media_ms <= told.media_ms + TOLERANCE_MS]
    if task != "qa":
        before = [index for index in before if is_same(told.slots, golds[index].slots, TOLERANCE_MS)]
    if not before or before[-1] not in right_golds:
        return False
    last = golds[before[-1]]
    if not is_same(told.slots, last.slots, TOLERANCE_MS):
        return False
    return task == "qa" or told.media_ms - last.media_ms <= DUPLICATE_MS


def _false_alarms(
    task: str, gold_rounds: Sequence[Round], told_rounds: Sequence[Round], tolds: Sequence[WatchEvent]
) -> Counter[str]:
    """Events, and time, further than the margin from every frame on which gold is not silent; of this time also how
    much of it something was open, which is one event however long it lasts."""
    ends_ms = np.array([one.end_ms for one in gold_rounds])
    active_ms = np.array([one.end_ms for one in gold_rounds if one.state is not State.SILENCE])
    after = np.searchsorted(active_ms, ends_ms)
    padded = np.concatenate(([-np.inf], active_ms, [np.inf]))
    distance_ms = np.minimum(ends_ms - padded[after], padded[after + 1] - ends_ms)
    quiet = distance_ms > QUIET_MARGIN_MS
    lasts_ms = ends_ms - np.array([one.start_ms for one in gold_rounds])
    counts: Counter[str] = Counter({"alarms/quiet_ms": int(lasts_ms[quiet].sum())})
    if task in OPENING_TASKS:
        is_open = np.array([one.state is State.STANDBY for one in told_rounds])
        counts["alarms/open_ms"] = int(lasts_ms[quiet & is_open].sum())
    quiet_ms = set(ends_ms[quiet].tolist())
    for event in tolds:
        if event.phase is not Phase.RETRACT and event.media_ms in quiet_ms:
            counts["alarms/open" if event.phase is Phase.OPEN else "alarms/told"] += 1
    return counts


def _time_differences(gold_rounds: Sequence[Round], told_rounds: Sequence[Round]) -> Counter[str]:
    """TimeDiff: from a gold Response to the first Response told in its turn.

    A turn reaches from the frame after the Response before it to its own frame, and on to the last frame before
    the next one: silence all the while counts as if told there.
    """
    gold_at = [index for index, one in enumerate(gold_rounds) if one.state is State.RESPONSE]
    counts: Counter[str] = Counter({"time_diff/turns": len(gold_at)})
    begin = 0
    for place, index in enumerate(gold_at):
        end = gold_at[place + 1] if place + 1 < len(gold_at) else len(gold_rounds)
        spoken = next((i for i in range(begin, end) if told_rounds[i].state is State.RESPONSE), end - 1)
        counts["time_diff/ms"] += abs(gold_rounds[spoken].end_ms - gold_rounds[index].end_ms)
        begin = max(index, spoken) + 1
    return counts


def _streampro(task: str, golds: Sequence[Part], tolds: Sequence[Part]) -> Counter[str]:
    """Sum of timely worth of the best one-to-one matching, in thousandths of a gold."""
    worth = np.zeros((len(tolds), len(golds)))
    for j, gold in enumerate(golds):
        assert gold.slots is not None
        begin_ms = gold.media_ms
        if task == "grounding":
            begin_ms -= STREAMPRO_LATE_MS
        elif gold.event.open_ms is not None:
            begin_ms = gold.event.open_ms
        for i, told in enumerate(tolds):
            if told.slots is None or not begin_ms <= told.media_ms <= gold.media_ms + STREAMPRO_LATE_MS:
                continue
            content = (
                span_iou(told.slots, gold.slots)
                if task == "grounding"
                else told.slots.agrees_with(gold.slots)
            )
            worth[i, j] = max(0.0, 1 - abs(told.media_ms - gold.media_ms) / STREAMPRO_TAU_MS) * content
    return Counter({"streampro/worth": sum(round(1000 * worth[pair]) for pair in best_matching(worth))})


def _spans(golds: Sequence[Part], tolds: Sequence[Part], asked_ms: int | None) -> Counter[str]:
    """IoU of told with gold spans, in millionths; forward and backward by whether gold ended before the question. Gold
    that names no span is not scored."""
    named = [gold for gold in golds if gold.slots is not None and gold.slots.start_ms is not None]
    if golds and not named:
        return Counter()
    golds = named
    overlap = np.zeros((len(tolds), len(golds)))
    for i, told in enumerate(tolds):
        for j, gold in enumerate(golds):
            if told.slots and gold.slots and abs(told.media_ms - gold.media_ms) <= TOLERANCE_MS:
                overlap[i, j] = span_iou(told.slots, gold.slots)
    pairs = best_matching(overlap)
    found = {gold: overlap[told, gold] for told, gold in pairs}
    counts: Counter[str] = Counter({"spans/spurious": len(tolds) - len(pairs), "spans/told": len(tolds)})
    for index, gold in enumerate(golds):
        assert gold.slots is not None
        end_ms = gold.slots.end_ms
        backward = asked_ms is not None and end_ms is not None and end_ms <= asked_ms
        direction = "backward" if backward else "forward"
        counts[f"spans/{direction}_gold"] += 1
        counts[f"spans/{direction}_iou"] += round(1_000_000 * found.get(index, 0.0))
    return counts


def _timed_qa(golds: Sequence[Part], tolds: Sequence[Part]) -> Counter[str]:
    """Gold answers that some reply gives within 3 s: Streamo-Bench's way, in which false answers cost nothing."""
    hits = sum(
        any(
            told.slots is not None
            and told.slots.agrees_with(gold.slots)
            and abs(told.media_ms - gold.media_ms) <= TIMED_QA_TOLERANCE_MS
            for told in tolds
        )
        for gold in golds
    )
    counts: Counter[str] = Counter({"timed_qa/hits": hits})
    if golds:
        counts["timed_qa/questions"] = 1
        counts["timed_qa/share"] = round(1_000_000 * hits / len(golds))
    return counts
