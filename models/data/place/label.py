"""What is right to say after each kept frame: one pure, causal function for training, gold and scoring.

It knows nothing of scripts and pictures: only the acts that are to be seen, with their times, and what each kept
frame shows. Causal: the rounds up to a frame depend only on what there was to be seen up to it.

- Standby from the first kept frame whose pixels so far single the event out, Response on the first kept frame after
  its visible end. What no kept frame shows under way is never told; neither is what began before the first frame.
- What ends on one frame shares one Response, in the order of `ActKind`; whatever is still under way makes the next
  round Standby again. `narration` tells at first sight, `qa` answers at once and whenever the answer changes;
  neither knows Standby.
- Asked late, after some frames have gone by: those are past and silent. What is under way is told when it ends. Of
  what is over, `grounding` tells the latest span at once; other tasks tell only what ends, or begins, from now on.
"""

import bisect
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from models.data.place.act import DOOR_KINDS, LIGHTS, TOLD_KINDS, Act, ActKind
from models.data.place.query import Query
from models.data.place.view import View
from models.data.place.wording import (
    Slots,
    caption,
    colour_text,
    count_text,
    narration,
    parse_text,
)
from models.data.sample import SEPARATOR, Round
from models.data.span import span_text
from models.vlm.state import State
from models.vlm.time_tag import rounded_ms

NOMINAL_INTERVAL_MS = 1000


@dataclass(frozen=True)
class Gold:
    """One thing that ought to be told.

    frame_ms: media time of the kept frame that tells it. text: its part of that round's text. start_ms, end_ms:
    when it truly happened, as far as the frames can show (of a question both are the frame's time). open_ms:
    media time of the kept frame from which Standby is right, None if it is told without. since: index of the
    earliest frame that the text rests on.
    """

    frame_ms: int
    text: str
    slots: Slots
    start_ms: int
    end_ms: int
    open_ms: int | None
    since: int


@dataclass(frozen=True)
class _Telling:
    """open_index == close_index: told without Standby. close_index None: not over by the last frame.

    since: the earliest frame that the text rests on. rank: order within one Response.
    """

    open_index: int
    close_index: int | None
    since: int
    text: str
    start_ms: int
    end_ms: int
    rank: tuple[int, str, str, int] = (0, "", "", 0)


def label(
    acts: Sequence[Act],
    views: Sequence[View],
    times_ms: Sequence[int],
    query: Query,
    first_live: int = 0,
    first_start_ms: int | None = None,
) -> tuple[Round, ...]:
    """One round per kept frame, with times rounded as in the tags.

    acts: those with a duration that may be told. views: what each kept frame shows. times_ms: media times of
    the kept frames, rising. first_live: the first frame after the instruction was given. The first round begins
    at `first_start_ms`, by default one nominal interval before its frame.
    """
    times = _checked(views, times_ms, first_live)
    texts: list[list[_Telling]] = [[] for _ in times]
    under_way = [False] * len(times)
    for telling in _tellings(acts, views, times, query, first_live):
        close = telling.close_index
        if close is not None:
            texts[close].append(telling)
        for index in range(telling.open_index, len(times) if close is None else close):
            under_way[index] = True
    rounds = []
    begin_ms = max(0, times[0] - NOMINAL_INTERVAL_MS) if first_start_ms is None else first_start_ms
    for time_ms, told, waiting in zip(times, texts, under_way, strict=True):
        state = State.RESPONSE if told else State.STANDBY if waiting else State.SILENCE
        text = SEPARATOR.join(telling.text for telling in sorted(told, key=lambda telling: telling.rank))
        rounds.append(Round(rounded_ms(begin_ms), rounded_ms(time_ms), state, text))
        begin_ms = time_ms
    return tuple(rounds)


def gold_events(
    acts: Sequence[Act],
    views: Sequence[View],
    times_ms: Sequence[int],
    query: Query,
    first_live: int = 0,
) -> tuple[Gold, ...]:
    """What ought to be told over these frames, in the order of telling; `label` tells exactly these."""
    times = _checked(views, times_ms, first_live)
    tellings = [
        (telling.close_index, telling)
        for telling in _tellings(acts, views, times, query, first_live)
        if telling.close_index is not None
    ]
    tellings.sort(key=lambda pair: (pair[0], pair[1].rank))
    golds = []
    for close, telling in tellings:
        (slots,) = parse_text(query.task, telling.text)
        assert slots is not None, f"text {telling.text!r} of task {query.task} does not parse"
        golds.append(
            Gold(
                frame_ms=times[close],
                text=telling.text,
                slots=slots,
                start_ms=telling.start_ms,
                end_ms=telling.end_ms,
                open_ms=times[telling.open_index] if telling.open_index < close else None,
                since=telling.since,
            )
        )
    return tuple(golds)


def _checked(views: Sequence[View], times_ms: Sequence[int], first_live: int) -> list[int]:
    times = list(times_ms)
    if not times:
        raise ValueError("times_ms: at least one frame is needed")
    if any(b <= a for a, b in itertools.pairwise(times)):
        raise ValueError("times_ms: times must rise")
    if len(views) != len(times):
        raise ValueError(f"views: need one per kept frame, got {len(views)} for {len(times)}")
    if not 0 <= first_live < len(times):
        raise ValueError(f"first_live {first_live}: must be the index of one of {len(times)} frames")
    return times


def _tellings(
    acts: Sequence[Act], views: Sequence[View], times: list[int], query: Query, first_live: int
) -> Iterator[_Telling]:
    if query.question:
        yield from _answers(views, times, query, first_live)
        return
    if query.task != "grounding":
        yield from _told_acts(acts, times, query, first_live)
        yield from _switches(views, times, query, first_live)
        return
    spans = list(_state_spans(views, times, query) if query.state else _act_spans(acts, times, query))
    over = [span for span in spans if span.close_index is not None and span.close_index < first_live]
    if over:
        latest = max(over, key=lambda span: (span.close_index, span.rank))
        yield replace(latest, open_index=first_live, close_index=first_live)
    for span in spans:
        if span.close_index is None or span.close_index >= first_live:
            yield replace(span, open_index=max(span.open_index, first_live))


def sightings(
    acts: Sequence[Act], times: Sequence[int], query: Query
) -> Iterator[tuple[Act, int, int | None]]:
    """Each act that is asked for and seen under way, with the indices of the frames that single it out and show its
    end; the latter is None if no frame does."""
    for act in acts:
        if query.wants(act) and times[0] <= act.start_ms <= times[-1]:
            seen = bisect.bisect_left(times, act.telling_ms)
            over = bisect.bisect_left(times, act.end_ms)
            if seen < over:
                yield act, seen, over if over < len(times) else None


def _told_acts(acts: Sequence[Act], times: list[int], query: Query, first_live: int) -> Iterator[_Telling]:
    for act, seen, over in sightings(acts, times, query):
        rank = _rank(act.kind, act.colour, act.place, act.start_ms)
        if query.task == "narration":
            if seen >= first_live:
                text = narration(act.kind, act.colour, act.place)
                yield _Telling(seen, seen, seen, text, act.start_ms, act.end_ms, rank)
        elif over is None or over >= first_live:
            text = caption(act.kind, act.colour, act.place)
            yield _Telling(max(seen, first_live), over, seen, text, act.start_ms, act.end_ms, rank)


def _act_spans(acts: Sequence[Act], times: list[int], query: Query) -> Iterator[_Telling]:
    for act, seen, over in sightings(acts, times, query):
        text = span_text(times[seen], times[over]) if over is not None else ""
        rank = _rank(act.kind, act.colour, act.place, act.start_ms)
        yield _Telling(seen, over, seen, text, act.start_ms, act.end_ms, rank)


def _state_spans(views: Sequence[View], times: list[int], query: Query) -> Iterator[_Telling]:
    opened: int | None = None
    for index, view in enumerate(views):
        holds = _holds(view, query)
        if holds and opened is None:
            opened = index
        elif not holds and opened is not None:
            text = span_text(times[opened], times[index])
            yield _Telling(opened, index, opened, text, times[opened], times[index])
            opened = None
    if opened is not None:
        yield _Telling(opened, None, opened, "", times[opened], times[-1])


def _switches(views: Sequence[View], times: list[int], query: Query, first_live: int) -> Iterator[_Telling]:
    """Doors and lights: told on the frame that first shows them otherwise."""
    for index in range(max(first_live, 1), len(views)):
        before, now = views[index - 1], views[index]
        for act in switched(before, now, times[index]):
            # Whoever uses the door is told for what they do; `event` is asked for the door itself.
            used = act.kind in DOOR_KINDS and (before.door_in_use or now.door_in_use)
            if query.wants(act) and not (used and query.task == "narration"):
                text = caption(act.kind, "", act.place)
                rank = _rank(act.kind, "", act.place, index)
                yield _Telling(index, index, index - 1, text, times[index], times[index], rank)


def switched(before: View, now: View, time_ms: int) -> Iterator[Act]:
    """Doors and lights that the later of two frames, at `time_ms`, shows otherwise than the one before."""
    if before.door_open != now.door_open:
        kind = ActKind.DOOR_OPENS if now.door_open else ActKind.DOOR_CLOSES
        yield Act(kind, time_ms, time_ms, time_ms)
    for place, was_on, is_on in zip(LIGHTS, before.lights, now.lights, strict=True):
        if was_on != is_on:
            yield Act(ActKind.LIGHT_ON if is_on else ActKind.LIGHT_OFF, *(time_ms,) * 3, place=place)


def _answers(views: Sequence[View], times: list[int], query: Query, first_live: int) -> Iterator[_Telling]:
    told = ""
    for index in range(first_live, len(times)):
        text = answer(views[index], query)
        if text != told:
            yield _Telling(index, index, index, text, times[index], times[index])
            told = text


def _rank(kind: ActKind, colour: str, place: str, start_ms: int) -> tuple[int, str, str, int]:
    return (TOLD_KINDS.index(kind), colour, place, start_ms)


def _holds(view: View, query: Query) -> bool:
    match query.state:
        case "car_at_gate":
            return view.car_at_gate != "" and query.colour in ("", view.car_at_gate)
        case "person_in_view":
            return any(query.colour in ("", person.colour) for person in view.people)
        case "person_at":
            return any(
                person.spot == query.place and query.colour in ("", person.colour) for person in view.people
            )
        case "parcel_at_door":
            return view.parcel
        case "light_on":
            return view.lights[LIGHTS.index(query.place)]
        case "door_open":
            return view.door_open
    raise ValueError(f"state {query.state!r}: unknown")


def answer(view: View, query: Query) -> str:
    """What a view answers to a question, whatever was told before."""
    match query.question:
        case "how_many_people":
            return count_text(len(view.people))
        case "is_car_at_gate":
            holds = view.car_at_gate != "" and query.colour in ("", view.car_at_gate)
        case "which_car_at_gate":
            return colour_text("car", view.car_at_gate)
        case "is_person_in_view":
            holds = any(query.colour in ("", person.colour) for person in view.people)
        case "who_is_at_gate":
            return colour_text("person", next((p.colour for p in view.people if p.spot == "gate"), ""))
        case "is_parcel_at_door":
            holds = view.parcel
        case "is_light_on":
            holds = view.lights[LIGHTS.index(query.place)]
        case "is_door_open":
            holds = view.door_open
        case "is_there":
            holds = False
        case _:
            raise ValueError(f"question {query.question!r}: unknown")
    return "yes" if holds else "no"
