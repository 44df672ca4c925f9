"""How people put what they ask. Every query has several wordings, some of them for the test set alone.

The wordings are a finite list, so an instruction can be looked up again (`find_query`): that is how a demo knows
the truth for a watch.
"""

from functools import cache
from typing import NamedTuple

from models.data.place.act import CAR_KINDS, DOOR_KINDS, LIGHT_KINDS, PARCEL_KINDS, PERSON_KINDS
from models.data.place.query import PASSERS, TASKS, Query, queries
from models.data.place.wording import VERBS, subject, tail


class Wordings(NamedTuple):
    """`held_out` is made of words that `seen` has in its templates too. `late` ones ask of what is over, perhaps."""

    seen: tuple[str, ...]
    held_out: tuple[str, ...] = ()
    late: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        return (*self.seen, *self.held_out, *self.late)


_NARRATION = Wordings(
    (
        "Tell me what happens.",
        "Narrate what you see.",
        "Say what is going on.",
        "Describe what happens.",
        "Tell me what you see.",
    ),
    ("Narrate what happens.", "Tell me what is going on."),
)
_ON_CLAUSE = Wordings(
    (
        "Tell me when {clause}.",
        "Let me know when {clause}.",
        "Say when {clause}.",
        "Watch for {gerund}.",
        "Report {gerund}.",
        "Alert me when {clause}.",
    ),
    ("Report when {clause}.", "Tell me about {gerund}.", "Watch for when {clause}."),
)
_GROUPS = {
    CAR_KINDS: "cars",
    PASSERS: "who and what goes past",
    PARCEL_KINDS: "parcels",
    DOOR_KINDS: "the door",
    LIGHT_KINDS: "the lights",
}
_ON_GROUP = Wordings(
    ("Tell me about {things}.", "Report what happens with {things}.", "Watch {things}."),
    ("Report {things}.", "Tell me what happens with {things}."),
)
_ON_DOINGS = Wordings(
    (
        "Describe what {who} {do}.",
        "Describe each thing that {who} {do}.",
        "Tell me each thing that {who} {do}.",
        "Caption what {who} {do}.",
    ),
    ("Tell me what {who} {do}.", "Caption each thing that {who} {do}."),
)
_FIND_SPANS = (
    "Find from when to when {clause}.",
    "Tell me the time when {clause}.",
    "Find each time when {clause}.",
)
_ON_SPAN_OF_ACT = Wordings(
    (
        "When does {infinitive}?",
        "Find the time when {clause}.",
        "From when to when does {infinitive}?",
        *_FIND_SPANS,
    ),
    ("Find when {clause}.",),
    ("When did {infinitive}?", "Find the time when {past}."),
)
_ON_SPAN_OF_STATE = Wordings(
    (
        "When {asked}?",
        "Find the time when {clause}.",
        "From when to when {asked}?",
        *_FIND_SPANS,
    ),
    ("Find when {clause}.",),
    ("When {was}?",),
)
_QUESTION_WORDINGS = {
    "how_many_people": Wordings(
        ("How many people are there?", "How many people are in view?", "Count the people."),
        ("Count the people in view.",),
    ),
    "is_car_at_gate": Wordings(
        ("Is {a_car} at the gate?", "Is there {a_car} at the gate?", "Tell me if {a_car} is at the gate."),
        ("Tell me if there is {a_car} at the gate.",),
    ),
    "which_car_at_gate": Wordings(
        (
            "Which car is at the gate?",
            "What colour is the car at the gate?",
            "Tell me which car is at the gate.",
        ),
        ("Tell me what colour the car at the gate is.",),
    ),
    "is_person_in_view": Wordings(
        ("Is {a_person} in view?", "Is there {a_person} in view?", "Tell me if {a_person} is in view."),
        ("Tell me if there is {a_person} in view.",),
    ),
    "who_is_at_gate": Wordings(
        ("Who is at the gate?", "Who stands at the gate?", "Tell me who is at the gate."),
        ("Tell me who stands at the gate.",),
    ),
    "is_parcel_at_door": Wordings(
        ("Is a parcel at the door?", "Is there a parcel at the door?", "Tell me if a parcel is at the door."),
        ("Tell me if there is a parcel at the door.",),
    ),
    "is_light_on": Wordings(
        ("Is the light {where} on?", "Tell me if the light {where} is on.", "Is there light {where}?"),
        ("Tell me if there is light {where}.",),
    ),
    "is_door_open": Wordings(
        ("Is the door open?", "Tell me if the door is open.", "Is the door open or closed?"),
        ("Tell me if the door is open or closed.",),
    ),
    "is_there": Wordings(
        ("Is there a {thing}?", "Is a {thing} in view?", "Tell me if there is a {thing}."),
        ("Tell me if a {thing} is in view.",),
    ),
}
_LIGHT_WHERE = {"window": "in the window", "gate": "at the gate"}


@cache
def wordings(query: Query) -> Wordings:
    """The instructions that mean this."""
    if query.task == "narration":
        return _NARRATION
    if query.task == "qa":
        return _filled(
            _QUESTION_WORDINGS[query.question],
            a_car=_one("car", query.colour),
            a_person=_one("person", query.colour),
            where=_LIGHT_WHERE.get(query.place, ""),
            thing=query.thing,
        )
    if query.task == "action":
        return _filled(_ON_DOINGS, **_doers(query))
    if query.state:
        return _filled(_ON_SPAN_OF_STATE, **_state_clauses(query))
    if query.kinds in _GROUPS:
        return _filled(_ON_GROUP, things=_GROUPS[query.kinds])
    parts = _act_clauses(query)
    return _filled(_ON_SPAN_OF_ACT if query.task == "grounding" else _ON_CLAUSE, **parts)


def templates(task: str) -> tuple[Wordings, ...]:
    """The wordings of a task before they are filled in."""
    if task == "narration":
        return (_NARRATION,)
    if task == "action":
        return (_ON_DOINGS,)
    if task == "event":
        return (_ON_CLAUSE, _ON_GROUP)
    if task == "grounding":
        return (_ON_SPAN_OF_ACT, _ON_SPAN_OF_STATE)
    return tuple(_QUESTION_WORDINGS.values())


@cache
def _by_instruction(task: str) -> dict[str, Query]:
    return {text: query for query in queries(task) for text in wordings(query).all}


def find_query(task: str, instruction: str) -> Query:
    """The meaning of an instruction of this list; ValueError if it is not one of them."""
    if task not in TASKS:
        raise ValueError(f"task {task!r}: must be one of {', '.join(TASKS)}")
    query = _by_instruction(task).get(instruction)
    if query is None:
        raise ValueError(f"instruction {instruction!r}: not one of the simulator's for task {task}")
    return query


def _filled(template: Wordings, **parts: str) -> Wordings:
    return Wordings(*(tuple(text.format(**parts) for text in texts) for texts in template))


def _one(thing: str, colour: str) -> str:
    return f"the {colour} {thing}" if colour else f"a {thing}"


def _doers(query: Query) -> dict[str, str]:
    if query.kinds == PERSON_KINDS:
        return {"who": f"the {query.colour} person" if query.colour else "people", "do": _do(query)}
    if query.kinds == CAR_KINDS:
        return {"who": f"the {query.colour} car" if query.colour else "cars", "do": _do(query)}
    return {"who": "people and cars", "do": "do"}


def _do(query: Query) -> str:
    return "does" if query.colour else "do"


def _act_clauses(query: Query) -> dict[str, str]:
    if query.thing:
        return {
            "clause": f"a {query.thing} comes",
            "gerund": f"a {query.thing}",
            "infinitive": f"a {query.thing} come",
            "past": f"a {query.thing} came",
        }
    kind = query.kinds[0]
    verb, where = VERBS[kind], tail(kind, query.place)
    one = subject(kind, query.colour, query.place)
    many = subject(kind, query.colour, query.place, plural=True)
    return {
        "clause": f"{one} {verb.third}{where}",
        "gerund": f"{many} {verb.gerund}{where}",
        "infinitive": f"{one} {verb.base}{where}",
        "past": f"{one} {verb.past}{where}",
    }


def _state_clauses(query: Query) -> dict[str, str]:
    who, where = {
        "car_at_gate": (_one("car", query.colour), "at the gate"),
        "person_in_view": (_one("person", query.colour), "in view"),
        "person_at": (_one("person", query.colour), f"at the {query.place}"),
        "parcel_at_door": ("a parcel", "at the door"),
        "light_on": (f"the light {_LIGHT_WHERE.get(query.place, '')}", "on"),
        "door_open": ("the door", "open"),
    }[query.state]
    return {
        "asked": f"is {who} {where}",
        "clause": f"{who} is {where}",
        "was": f"was {who} {where}",
    }
