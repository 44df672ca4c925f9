"""How things are said, and the way back: from a reply's text to what it claims."""

import re
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from models.data.place.act import CAR_KINDS, COLOURS, LIGHT_KINDS, PERSON_KINDS, PLACES, SWITCH_KINDS, ActKind
from models.data.sample import SEPARATOR

NOTHING = {"car": "no car", "person": "nobody"}


class Verb(NamedTuple):
    third: str
    gerund: str
    base: str
    past: str


VERBS: dict[ActKind, Verb] = {
    ActKind.CAR_ARRIVES: Verb("arrives", "arriving", "arrive", "arrived"),
    ActKind.CAR_LEAVES: Verb("leaves", "leaving", "leave", "left"),
    ActKind.CAR_PASSES: Verb("drives past", "driving past", "drive past", "drove past"),
    ActKind.PERSON_GOES_IN: Verb("goes in", "going in", "go in", "went in"),
    ActKind.PERSON_COMES_OUT: Verb("comes out", "coming out", "come out", "came out"),
    ActKind.PERSON_STOPS: Verb("stops", "stopping", "stop", "stopped"),
    ActKind.PERSON_WALKS_AWAY: Verb("walks away", "walking away", "walk away", "walked away"),
    ActKind.PERSON_WALKS_PAST: Verb("walks past", "walking past", "walk past", "walked past"),
    ActKind.PARCEL_DELIVERED: Verb(
        "delivers a parcel", "delivering a parcel", "deliver a parcel", "delivered a parcel"
    ),
    ActKind.PARCEL_TAKEN: Verb("takes the parcel", "taking the parcel", "take the parcel", "took the parcel"),
    ActKind.DOOR_OPENS: Verb("opens", "opening", "open", "opened"),
    ActKind.DOOR_CLOSES: Verb("closes", "closing", "close", "closed"),
    ActKind.LIGHT_ON: Verb("goes on", "going on", "go on", "went on"),
    ActKind.LIGHT_OFF: Verb("goes off", "going off", "go off", "went off"),
}
_LIGHT_PLACES = {"window": " in the window", "gate": " at the gate"}
_TAILS: dict[ActKind, dict[str, str]] = {
    ActKind.CAR_PASSES: {"left": " to the left", "right": " to the right"},
    ActKind.PERSON_WALKS_PAST: {"left": " to the left", "right": " to the right"},
    ActKind.PERSON_STOPS: {"house": " at the house", "gate": " at the gate"},
    ActKind.PERSON_WALKS_AWAY: {"house": " from the house", "gate": " from the gate"},
}


@dataclass(frozen=True)
class Slots:
    """What one told text says. Fields that do not apply are empty or None.

    subject: car, person, people, parcel, door or light. answer: of `qa` yes, no, a colour or none.
    """

    kind: ActKind | None = None
    subject: str = ""
    colour: str = ""
    place: str = ""
    count: int | None = None
    answer: str = ""
    start_ms: int | None = None
    end_ms: int | None = None

    def agrees_with(self, other: "Slots") -> bool:
        return self == other


def noun(kind: ActKind) -> str:
    if kind in CAR_KINDS:
        return "car"
    if kind in PERSON_KINDS:
        return "person"
    return "light" if kind in LIGHT_KINDS else "door"


def tail(kind: ActKind, place: str) -> str:
    """What follows the verb: where, with a leading space; "" where no place is said."""
    return _TAILS[kind][place] if place and kind in _TAILS else ""


def subject(kind: ActKind, colour: str = "", place: str = "", *, plural: bool = False) -> str:
    """ "a red car", "red cars", "people", "the door", "the light at the gate", "a light"."""
    thing = noun(kind)
    if thing == "light":
        return f"the light{_LIGHT_PLACES[place]}" if place else "the lights" if plural else "a light"
    if thing == "door":
        return "the door"
    paint = f"{colour} " if colour else ""
    if plural:
        return paint + {"car": "cars", "person": "people"}[thing]
    return f"a {paint}{thing}"


def caption(kind: ActKind, colour: str, place: str) -> str:
    """What is told when it is over."""
    return f"{subject(kind, colour, place)} {VERBS[kind].past}{tail(kind, place)}"


def narration(kind: ActKind, colour: str, place: str) -> str:
    """What is told as soon as it can be seen. Doors and lights switch at once, so it is over by then."""
    if kind in SWITCH_KINDS:
        return caption(kind, colour, place)
    return f"{subject(kind, colour, place)} is {VERBS[kind].gerund}{tail(kind, place)}"


def count_text(count: int) -> str:
    return "no people" if count == 0 else "1 person" if count == 1 else f"{count} people"


def colour_text(thing: str, colour: str) -> str:
    """Which car or person it is: "a red car", "nobody"."""
    return f"a {colour} {thing}" if colour else NOTHING[thing]


_SPAN = re.compile(r"(\d+(?:\.\d)?)s to (\d+(?:\.\d)?)s")
_PEOPLE = re.compile(r"no people|1 person|([2-9]) people")
_WHICH = re.compile(rf"a ({'|'.join(COLOURS)}) (car|person)")


def parse_text(task: str, text: str) -> tuple[Slots | None, ...]:
    """What a reply says, one per part; None for a part that is none of this task's texts."""
    return tuple(_parse_part(task, part) for part in text.strip().split(SEPARATOR))


def _parse_part(task: str, part: str) -> Slots | None:
    match task:
        case "grounding":
            span = _SPAN.fullmatch(part)
            if span is None:
                return None
            start_ms, end_ms = (round(float(second) * 1000) for second in span.groups())
            return Slots(start_ms=start_ms, end_ms=end_ms)
        case "qa":
            return _parse_answer(part)
        case "narration" | "action" | "event":
            return _told(narrated=task == "narration").get(part)
    raise ValueError(f"task {task!r}: must be narration, action, event, grounding or qa")


def _parse_answer(part: str) -> Slots | None:
    if part in ("yes", "no"):
        return Slots(answer=part)
    if people := _PEOPLE.fullmatch(part):
        count = {"no people": 0, "1 person": 1}.get(part)
        return Slots(subject="people", count=int(people[1]) if count is None else count)
    if which := _WHICH.fullmatch(part):
        return Slots(subject=which[2], colour=which[1], place="gate", answer=which[1])
    for thing, text in NOTHING.items():
        if part == text:
            return Slots(subject=thing, place="gate", answer="none")
    return None


@cache
def _told(*, narrated: bool) -> dict[str, Slots]:
    say = narration if narrated else caption
    return {
        say(kind, colour, place): Slots(kind=kind, subject=noun(kind), colour=colour, place=place)
        for kind in VERBS
        for colour in (COLOURS if kind in (*CAR_KINDS, *PERSON_KINDS) else ("",))
        for place in PLACES.get(kind, ("",))
    }
