"""What can be asked of a simulated scene, and how people put it.

A `Query` is the meaning of an instruction; several phrasings share one. Instructions are a finite list, so a
phrasing can be looked up again (`find_query`), which is how the demo knows the truth for a watch.
"""

from dataclasses import dataclass
from functools import cache

from models.data.scene import CAR_KINDS, COLOURS, LIGHT_KINDS, PERSON_KINDS, ActKind

TASKS = ("narration", "action", "event", "grounding", "qa")

ALL_KINDS = (*CAR_KINDS, *PERSON_KINDS, *LIGHT_KINDS)
# States that `grounding` watches, and questions of `qa`.
STATES = ("car_at_gate", "person_in_view", "parcel_at_door", "light_on")
QUESTIONS = ("how_many_people", "is_car_at_gate", "which_car_at_gate", "is_parcel_at_door", "is_light_on")

# Per kind: clause after "when", gerund after "Report", question after "When does". {c} is "red " or "".
_ASK: dict[ActKind, tuple[str, str, str]] = {
    ActKind.CAR_ARRIVES: ("a {c}car arrives", "{c}cars arriving", "a {c}car arrive"),
    ActKind.CAR_LEAVES: ("a {c}car leaves", "{c}cars leaving", "a {c}car leave"),
    ActKind.PERSON_GOES_IN: ("a {c}person goes in", "{c}people going in", "a {c}person go in"),
    ActKind.PERSON_COMES_OUT: ("a {c}person comes out", "{c}people coming out", "a {c}person come out"),
    ActKind.PERSON_WALKS_AWAY: ("a {c}person walks away", "{c}people walking away", "a {c}person walk away"),
    ActKind.PARCEL_DELIVERED: ("a {c}person delivers a parcel", "deliveries", "a {c}person deliver a parcel"),
    ActKind.PARCEL_TAKEN: ("a {c}person takes the parcel", "parcels taken", "a {c}person take the parcel"),
    ActKind.LIGHT_ON: ("the light goes on", "the light going on", ""),
    ActKind.LIGHT_OFF: ("the light goes off", "the light going off", ""),
}

_GROUPS: dict[tuple[ActKind, ...], tuple[str, ...]] = {
    CAR_KINDS: ("Report what cars do.", "Tell me when a car comes or goes."),
    LIGHT_KINDS: ("Report changes of the light.", "Tell me when the light changes."),
    (ActKind.PARCEL_DELIVERED, ActKind.PARCEL_TAKEN): (
        "Report what happens to parcels.",
        "Tell me about parcels.",
    ),
}

_STATE_CLAUSES = {
    "car_at_gate": ("is {the} {c}car at the gate", "{the} {c}car is at the gate"),
    "person_in_view": ("is {the} {c}person in view", "{the} {c}person is in view"),
    "parcel_at_door": ("is a parcel at the door", "a parcel is at the door"),
    "light_on": ("is the light on", "the light is on"),
}

_QUESTION_TEXTS = {
    "how_many_people": ("How many people are there?", "How many people are in view?", "Count the people."),
    "is_car_at_gate": ("Is there a car at the gate?", "Is a car at the gate?"),
    "which_car_at_gate": ("Which car is at the gate?", "What colour is the car at the gate?"),
    "is_parcel_at_door": ("Is there a parcel at the door?", "Is a parcel at the door?"),
    "is_light_on": ("Is the light on?", "Tell me whether the light is on."),
}


@dataclass(frozen=True)
class Query:
    """What is asked. Exactly one of kinds, state and question is set.

    kinds: acts to be told. colour: only of persons and cars of this colour, "" for any.
    """

    task: str
    kinds: tuple[ActKind, ...] = ()
    colour: str = ""
    state: str = ""
    question: str = ""

    @property
    def family(self) -> tuple[object, ...]:
        """The query without its colour."""
        return (self.task, self.kinds, self.state, self.question)

    @property
    def phrasings(self) -> tuple[str, ...]:
        """The instructions that mean this; never empty."""
        colour = f"{self.colour} " if self.colour else ""
        if self.task == "narration":
            return ("Tell me what happens.", "Narrate what you see.", "Say what is going on.")
        if self.task == "qa":
            return _QUESTION_TEXTS[self.question]
        if self.task == "action":
            return _action_texts(self)
        if self.state:
            the = "the" if self.colour else "a"
            asked, clause = (text.format(the=the, c=colour) for text in _STATE_CLAUSES[self.state])
            return (f"When {asked}?", f"Find the time when {clause}.")
        if self.kinds in _GROUPS:
            return _GROUPS[self.kinds]
        clause, gerund, infinitive = (text.format(c=colour) for text in _ASK[self.kinds[0]])
        if self.task == "grounding":
            return (f"When does {infinitive}?", f"Find the time when {clause}.")
        told = (f"Tell me when {clause}.", f"Let me know when {clause}.")
        # "Report deliveries." has no place for a colour.
        return told if colour and "{c}" not in _ASK[self.kinds[0]][1] else (*told, f"Report {gerund}.")


def _action_texts(query: Query) -> tuple[str, ...]:
    if query.kinds == PERSON_KINDS:
        if query.colour:
            return (f"Describe what the {query.colour} person does.",)
        return ("Describe what people do.", "Describe each step that people take.")
    if query.kinds == CAR_KINDS:
        return ("Describe what cars do.", "Describe how cars come and go.")
    return ("Describe everything that is done.", "Describe each thing that happens.")


@cache
def queries(task: str) -> tuple[Query, ...]:
    """All queries of a task. ValueError for an unknown task."""
    any_or_one = ("", *COLOURS)
    if task == "narration":
        return (Query(task, ALL_KINDS),)
    if task == "qa":
        return tuple(Query(task, question=question) for question in QUESTIONS)
    if task == "action":
        people = [Query(task, PERSON_KINDS, colour) for colour in any_or_one]
        return (*people, Query(task, CAR_KINDS), Query(task, ALL_KINDS))
    coloured = [Query(task, (kind,), c) for kind in (*CAR_KINDS, *PERSON_KINDS) for c in any_or_one]
    if task == "event":
        return (*coloured, *(Query(task, (k,)) for k in LIGHT_KINDS), *(Query(task, g) for g in _GROUPS))
    if task == "grounding":
        states = [Query(task, state=state, colour=c) for state in STATES[:2] for c in any_or_one]
        return (*coloured, *states, *(Query(task, state=state) for state in STATES[2:]))
    raise ValueError(f"task {task!r}: must be one of {', '.join(TASKS)}")


@cache
def _by_instruction(task: str) -> dict[str, Query]:
    return {text: query for query in queries(task) for text in query.phrasings}


def instructions(task: str) -> tuple[str, ...]:
    """Every instruction of a task, in a fixed order."""
    return tuple(_by_instruction(task))


def find_query(task: str, instruction: str) -> Query:
    """The meaning of an instruction of this list; ValueError if it is not one of them."""
    query = _by_instruction(task).get(instruction)
    if query is None:
        raise ValueError(f"instruction {instruction!r}: not one of the simulator's for task {task}")
    return query
