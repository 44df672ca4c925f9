"""What can be asked about a place: the meaning of an instruction, apart from its words."""

from dataclasses import dataclass
from functools import cache

from models.data.place.act import (
    CAR_KINDS,
    COLOURS,
    DOOR_KINDS,
    LIGHT_KINDS,
    LIGHTS,
    PARCEL_KINDS,
    PERSON_KINDS,
    PLACES,
    SPOTS,
    TOLD_KINDS,
    Act,
    ActKind,
)
from models.data.place.split import HELD_OUT_COMBINATIONS

TASKS = ("narration", "action", "event", "grounding", "qa")

# What `grounding` finds the time of, and what `qa` asks.
STATES = ("car_at_gate", "person_in_view", "person_at", "parcel_at_door", "light_on", "door_open")
QUESTIONS = (
    "how_many_people",
    "is_car_at_gate",
    "which_car_at_gate",
    "is_person_in_view",
    "who_is_at_gate",
    "is_parcel_at_door",
    "is_light_on",
    "is_door_open",
    "is_there",
)
# Things that this world does not hold: to ask for one is to ask for what never happens.
ABSENT_THINGS = ("bicycle", "bus", "truck", "horse", "plane")
PASSERS = (ActKind.CAR_PASSES, ActKind.PERSON_WALKS_PAST)
GROUPS: tuple[tuple[ActKind, ...], ...] = (CAR_KINDS, PASSERS, PARCEL_KINDS, DOOR_KINDS, LIGHT_KINDS)


@dataclass(frozen=True)
class Query:
    """Exactly one of kinds, state, question and thing says what is asked; `is_there` is asked of a thing.

    kinds: acts to be told. colour and place: only such persons, cars and places, "" for any.
    thing: one of ABSENT_THINGS.
    """

    task: str
    kinds: tuple[ActKind, ...] = ()
    colour: str = ""
    place: str = ""
    state: str = ""
    question: str = ""
    thing: str = ""

    @property
    def family(self) -> tuple[str, ...]:
        """What is asked, without of whom and where."""
        return (self.task, *self.kinds, self.state, self.question, "thing" if self.thing else "")

    @property
    def held_out(self) -> bool:
        """It asks for a combination that the test set alone may show."""
        return len(self.kinds) == 1 and (self.kinds[0], self.colour) in HELD_OUT_COMBINATIONS

    def wants(self, act: Act) -> bool:
        return act.kind in self.kinds and self.colour in ("", act.colour) and self.place in ("", act.place)


@cache
def queries(task: str) -> tuple[Query, ...]:
    """All queries of a task, in a fixed order. ValueError for an unknown task."""
    any_colour = ("", *COLOURS)
    absent = tuple(Query(task, thing=thing) for thing in ABSENT_THINGS)
    if task == "narration":
        return (Query(task, TOLD_KINDS),)
    if task == "action":
        of_one = [Query(task, kinds, c) for kinds in (PERSON_KINDS, CAR_KINDS) for c in any_colour]
        return (*of_one, Query(task, (*CAR_KINDS, *PERSON_KINDS)))
    if task == "event":
        switches = [
            Query(task, (kind,), place=place)
            for kind in (*DOOR_KINDS, *LIGHT_KINDS)
            for place in ("", *PLACES.get(kind, ()))
        ]
        return (*_coloured(task), *switches, *(Query(task, group) for group in GROUPS), *absent)
    if task == "grounding":
        states = [Query(task, state=state, colour=c) for state in STATES[:2] for c in any_colour]
        states += [Query(task, state=STATES[2], colour=c, place=spot) for spot in SPOTS for c in any_colour]
        states += [Query(task, state="parcel_at_door"), Query(task, state="door_open")]
        states += [Query(task, state="light_on", place=place) for place in LIGHTS]
        return (*_coloured(task), *states, *absent)
    if task == "qa":
        return tuple(_questions(task))
    raise ValueError(f"task {task!r}: must be one of {', '.join(TASKS)}")


@cache
def shown_queries(task: str, split: str) -> tuple[Query, ...]:
    """Those that a split may ask: what is held out, the test set alone."""
    return tuple(query for query in queries(task) if split == "test" or not query.held_out)


def _coloured(task: str) -> list[Query]:
    return [
        Query(task, (kind,), colour, place)
        for kind in (*CAR_KINDS, *PERSON_KINDS)
        for colour in ("", *COLOURS)
        for place in ("", *PLACES.get(kind, ()))
    ]


def _questions(task: str) -> list[Query]:
    asked = []
    for question in QUESTIONS:
        match question:
            case "is_car_at_gate" | "is_person_in_view":
                asked += [Query(task, question=question, colour=colour) for colour in ("", *COLOURS)]
            case "is_light_on":
                asked += [Query(task, question=question, place=place) for place in LIGHTS]
            case "is_there":
                asked += [Query(task, question=question, thing=thing) for thing in ABSENT_THINGS]
            case _:
                asked.append(Query(task, question=question))
    return asked
