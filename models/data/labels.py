"""What is right to say after each kept frame: one pure, causal function for training, gold and scoring.

Causal: the rounds up to a frame depend only on what the scene has shown up to that frame's time.
"""

import bisect
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from models.data.instructions import Query
from models.data.sample import Round
from models.data.scene import COLOURS, LIGHT_KINDS, Act, ActKind, Phase, SceneScript, View
from models.vlm.state import State
from models.vlm.time_tag import format_seconds, rounded_ms

SEPARATOR = "; "
NOMINAL_INTERVAL_MS = 1000

# Per kind: what is told when it is over, and what `narration` tells when it can first be seen.
CAPTIONS: dict[ActKind, tuple[str, str]] = {
    ActKind.CAR_ARRIVES: ("a {colour} car arrived", "a {colour} car is arriving"),
    ActKind.CAR_LEAVES: ("a {colour} car left", "a {colour} car is leaving"),
    ActKind.PERSON_GOES_IN: ("a {colour} person went in", "a {colour} person is going in"),
    ActKind.PERSON_COMES_OUT: ("a {colour} person came out", "a {colour} person is coming out"),
    ActKind.PERSON_WALKS_AWAY: ("a {colour} person walked away", "a {colour} person is walking away"),
    ActKind.PARCEL_DELIVERED: (
        "a {colour} person delivered a parcel",
        "a {colour} person is bringing a parcel",
    ),
    ActKind.PARCEL_TAKEN: ("a {colour} person took the parcel", "a {colour} person is taking the parcel"),
    ActKind.LIGHT_ON: ("the light went on", "the light went on"),
    ActKind.LIGHT_OFF: ("the light went off", "the light went off"),
}


@dataclass(frozen=True)
class Slots:
    """What one told text says. Fields that do not apply are empty or None.

    subject: car, person, people, parcel or light. answer: of `qa` (yes, no, a colour or none).
    """

    kind: ActKind | None = None
    subject: str = ""
    colour: str = ""
    place: str = ""
    count: int | None = None
    answer: str = ""
    start_ms: int | None = None
    end_ms: int | None = None


@dataclass(frozen=True)
class Gold:
    """One thing that ought to be told.

    frame_ms: media time of the kept frame that tells it. text: its part of that round's text. start_ms,
    end_ms: when it truly happened (of `qa` both are the frame's time). open_ms: media time of the kept frame
    from which Standby is right, None if it is told without.
    """

    frame_ms: int
    text: str
    slots: Slots
    start_ms: int
    end_ms: int
    open_ms: int | None


@dataclass(frozen=True)
class _Telling:
    """open_index == close_index: told without Standby. close_index None: not over by the last frame."""

    open_index: int
    close_index: int | None
    text: str
    start_ms: int
    end_ms: int


def label(
    script: SceneScript,
    frame_times_ms: Sequence[int],
    query: Query,
    first_start_ms: int | None = None,
) -> tuple[Round, ...]:
    """One round per kept frame, with times rounded as in the tags.

    frame_times_ms: media times of the kept frames, rising. The first round begins at `first_start_ms`, by
    default one nominal interval before its frame. An act that began before the first frame is not told: its
    beginning was not seen.
    """
    times = _checked(frame_times_ms)
    tellings = list(_tellings(script, times, query))
    texts: list[list[str]] = [[] for _ in times]
    under_way = [False] * len(times)
    for telling in tellings:
        close = telling.close_index
        if close is not None:
            texts[close].append(telling.text)
        for index in range(telling.open_index, len(times) if close is None else close):
            under_way[index] = True
    rounds = []
    begin_ms = max(0, times[0] - NOMINAL_INTERVAL_MS) if first_start_ms is None else first_start_ms
    for time_ms, told, waiting in zip(times, texts, under_way, strict=True):
        state = State.RESPONSE if told else State.STANDBY if waiting else State.SILENCE
        rounds.append(Round(rounded_ms(begin_ms), rounded_ms(time_ms), state, SEPARATOR.join(told)))
        begin_ms = time_ms
    return tuple(rounds)


def gold_events(script: SceneScript, frame_times_ms: Sequence[int], query: Query) -> tuple[Gold, ...]:
    """What ought to be told over these frames, in the order of telling; `label` tells exactly these."""
    times = _checked(frame_times_ms)
    golds = []
    for telling in _tellings(script, times, query):
        if telling.close_index is None:
            continue
        (slots,) = parse_text(query.task, telling.text)
        if slots is None:
            raise AssertionError(f"text {telling.text!r} of task {query.task} does not parse")
        opened = telling.open_index < telling.close_index
        golds.append(
            Gold(
                frame_ms=times[telling.close_index],
                text=telling.text,
                slots=slots,
                start_ms=telling.start_ms,
                end_ms=telling.end_ms,
                open_ms=times[telling.open_index] if opened else None,
            )
        )
    return tuple(golds)


def _checked(frame_times_ms: Sequence[int]) -> list[int]:
    times = list(frame_times_ms)
    if not times:
        raise ValueError("frame_times_ms: at least one frame is needed")
    if any(b <= a for a, b in itertools.pairwise(times)):
        raise ValueError("frame_times_ms: times must rise")
    return times


def _tellings(script: SceneScript, times: list[int], query: Query) -> Iterator[_Telling]:
    """In the order of telling; those not over come in the order they opened."""
    if query.question:
        yield from _answers(script, times, query)
    elif query.state:
        yield from _state_spans(script, times, query)
    else:
        acts = [a for a in script.acts if _asked_for(a, query) and times[0] <= a.start_ms <= times[-1]]
        ends_first = query.task != "narration"
        acts.sort(key=lambda a: (a.end_ms if ends_first else a.telling_ms, a.start_ms, a.kind))
        for act in acts:
            telling = _told_act(act, times, query)
            if telling is not None:
                yield telling


def _asked_for(act: Act, query: Query) -> bool:
    return act.kind in query.kinds and query.colour in ("", act.colour)


def _told_act(act: Act, times: list[int], query: Query) -> _Telling | None:
    """None if no frame singles it out yet."""
    seen = bisect.bisect_left(times, act.telling_ms)
    if seen == len(times):
        return None
    past, present = CAPTIONS[act.kind]
    if query.task == "narration":
        return _Telling(seen, seen, present.format(colour=act.colour), act.start_ms, act.end_ms)
    over = bisect.bisect_left(times, act.end_ms)
    close = over if over < len(times) else None
    if query.task != "grounding":
        return _Telling(seen, close, past.format(colour=act.colour), act.start_ms, act.end_ms)
    text = _span_text(times, seen, close)
    return _Telling(seen, close, text, act.start_ms, act.end_ms)


def _span_text(times: list[int], open_index: int, close_index: int | None) -> str:
    """The span as the frames show it: from the frame that opened it to the one that shows its end."""
    if close_index is None:
        return ""
    start = open_index if open_index < close_index else max(0, close_index - 1)
    return f"{format_seconds(times[start])}s to {format_seconds(times[close_index])}s"


def _state_spans(script: SceneScript, times: list[int], query: Query) -> Iterator[_Telling]:
    opened: int | None = None
    for index, time_ms in enumerate(times):
        holds = _holds(script.view(time_ms), query.state, query.colour)
        if holds and opened is None:
            opened = index
        elif not holds and opened is not None:
            yield _Telling(opened, index, _span_text(times, opened, index), times[opened], time_ms)
            opened = None
    if opened is not None:
        yield _Telling(opened, None, "", times[opened], times[-1])


def _answers(script: SceneScript, times: list[int], query: Query) -> Iterator[_Telling]:
    told = ""
    for index, time_ms in enumerate(times):
        answer = _answer(script.view(time_ms), query.question)
        if answer != told:
            yield _Telling(index, index, answer, time_ms, time_ms)
            told = answer


def _holds(view: View, state: str, colour: str) -> bool:
    match state:
        case "car_at_gate":
            return view.car_phase == Phase.PARKED and colour in ("", view.car)
        case "person_in_view":
            return any(colour in ("", person.colour) for person in view.persons)
        case "parcel_at_door":
            return view.parcel
        case "light_on":
            return view.light
    raise ValueError(f"state {state!r}: unknown")


def _answer(view: View, question: str) -> str:
    match question:
        case "how_many_people":
            count = len(view.persons)
            return "no people" if count == 0 else "1 person" if count == 1 else f"{count} people"
        case "is_car_at_gate":
            return "yes" if _holds(view, "car_at_gate", "") else "no"
        case "which_car_at_gate":
            return f"a {view.car} car" if _holds(view, "car_at_gate", "") else "no car"
        case "is_parcel_at_door":
            return "yes" if view.parcel else "no"
        case "is_light_on":
            return "yes" if view.light else "no"
    raise ValueError(f"question {question!r}: unknown")


_SPAN = re.compile(r"(\d+(?:\.\d)?)s to (\d+(?:\.\d)?)s")
_PEOPLE = re.compile(r"(no people|1 person|(\d) people)")
_CAR = re.compile(r"(?:no|a (\w+)) car")


def parse_text(task: str, text: str) -> tuple[Slots | None, ...]:
    """What a told text says, one per part; None for a part that is none of this task's texts."""
    return tuple(_parse_part(task, part) for part in text.strip().split(SEPARATOR.strip() + " "))


def _parse_part(task: str, part: str) -> Slots | None:
    if task == "grounding":
        span = _SPAN.fullmatch(part)
        if span is None:
            return None
        start_ms, end_ms = (round(float(second) * 1000) for second in span.groups())
        return Slots(start_ms=start_ms, end_ms=end_ms)
    if task == "qa":
        return _parse_answer(part)
    return _caption_slots(narrated=task == "narration").get(part)


def _parse_answer(part: str) -> Slots | None:
    if part in ("yes", "no"):
        return Slots(answer=part)
    if people := _PEOPLE.fullmatch(part):
        count = {"no people": 0, "1 person": 1}.get(part)
        return Slots(subject="people", count=int(people[2]) if count is None else count)
    if car := _CAR.fullmatch(part):
        if car[1] is not None and car[1] not in COLOURS:
            return None
        return Slots(subject="car", colour=car[1] or "", place="gate", answer=car[1] or "none")
    return None


def _caption_slots(*, narrated: bool) -> dict[str, Slots]:
    slots: dict[str, Slots] = {}
    for kind, captions in CAPTIONS.items():
        for colour in ("",) if kind in LIGHT_KINDS else COLOURS:
            text = captions[narrated].format(colour=colour)
            subject = "light" if kind in LIGHT_KINDS else text.split()[2]
            slots[text] = Slots(kind=kind, subject=subject, colour=colour, place=_PLACES.get(kind, ""))
    return slots


_PLACES = {
    ActKind.CAR_ARRIVES: "gate",
    ActKind.CAR_LEAVES: "gate",
    ActKind.PERSON_GOES_IN: "door",
    ActKind.PERSON_COMES_OUT: "door",
    ActKind.PARCEL_DELIVERED: "door",
    ActKind.PARCEL_TAKEN: "door",
}
