"""What is to be seen and where, what goes on and what is asked, as classes and numbers that a reading head can be
trained on."""

import math
from collections.abc import Sequence

import numpy as np

from models.data.place.act import (
    CAR_KINDS,
    COLOURS,
    DOOR_KINDS,
    LIGHT_KINDS,
    LIGHTS,
    PERSON_KINDS,
    PLACES,
    SIDES,
    SPOTS,
    TOLD_KINDS,
    Act,
)
from models.data.place.label import answer, sightings, switched
from models.data.place.layout import PAVEMENT_Y, PERSON_WIDTH, PLACE_HEIGHT, PLACE_WIDTH, Layout
from models.data.place.query import ABSENT_THINGS, QUESTIONS, STATES, TASKS, Query
from models.data.place.view import Car, Person, View
from models.data.place.wording import colour_text, count_text
from models.data.sample import NO_ANSWER, TruthSizes

CELL_ROWS, CELL_COLS = 4, 5
_CELL_WIDTH, _CELL_HEIGHT = PLACE_WIDTH / CELL_COLS, PLACE_HEIGHT / CELL_ROWS
MAX_PEOPLE = 4
# Less of a thing than this, in square units, is not said to be in a cell.
_MIN_AREA = 48.0
# Of a cell: nothing, a person of each colour, a car of each colour; the one with most of it in the cell.
_CELL_CLASSES = 1 + 2 * len(COLOURS)

# Name -> number of classes, as are the next two. Each of these can be told from its frame alone.
SEEN_COLUMNS: dict[str, int] = {
    **{f"cell_{row}_{col}": _CELL_CLASSES for row in range(CELL_ROWS) for col in range(CELL_COLS)},
    "num_people": MAX_PEOPLE + 1,
    # Nobody, or who it is, by colour.
    "at_house": 1 + len(COLOURS),
    "at_gate": 1 + len(COLOURS),
    "parked_car": 1 + len(COLOURS),
    # None, to the left, to the right.
    "yard_heading": 3,
    "road_heading": 3,
    "carrying": 2,
    "parcel": 2,
    **{f"light_{place}": 2 for place in LIGHTS},
    "door_open": 2,
}
# Middle or feet, in cells from the middle of the picture, of who walks on the pavement, who walks elsewhere, the car on
# the road, the car in the yard: of each there is one at most. Where they go is a difference of two frames' coordinates,
# and cells are too coarse for it. Beside each the share of frames that have it.
COORDINATES = {"pavement_x": 0.1, "walker_x": 0.4, "walker_y": 0.4, "road_x": 0.1, "yard_x": 0.6}
_LASTING_KINDS = (*CAR_KINDS, *PERSON_KINDS)
# Classes of an act that lasts, 0 where it is not to be seen: what has just begun is told by some, what is just over by
# others.
JUST_BEGUN, UNDER_WAY, JUST_OVER = 1, 2, 3
# Colour and place of an act are classes of their own, 0 without it.
ACT_COLUMNS: dict[str, int] = {
    **dict.fromkeys(_LASTING_KINDS, 1 + JUST_OVER),
    **{f"{kind}_colour": 1 + len(COLOURS) for kind in _LASTING_KINDS},
    **{f"{kind}_place": 1 + len(PLACES[kind]) for kind in _LASTING_KINDS if kind in PLACES},
    **dict.fromkeys(DOOR_KINDS, 2),
    **{f"{kind}_{place}": 2 for kind in LIGHT_KINDS for place in LIGHTS},
}
_ASKED_CLASSES: dict[str, tuple[str, ...]] = {
    "task": TASKS,
    "colour": ("", *COLOURS),
    "place": ("", *dict.fromkeys((*SPOTS, *LIGHTS, *SIDES))),
    "state": ("", *STATES),
    "question": ("", *QUESTIONS),
    "thing": ("", *ABSENT_THINGS),
}
ASKED_COLUMNS: dict[str, int] = {
    **{name: len(classes) for name, classes in _ASKED_CLASSES.items()},
    **dict.fromkeys(TOLD_KINDS, 2),
}
ANSWERS: tuple[str, ...] = (
    "yes",
    "no",
    *(count_text(count) for count in range(MAX_PEOPLE + 1)),
    *(colour_text(thing, colour) for thing in ("car", "person") for colour in ("", *COLOURS)),
)
TRUTH_SIZES = TruthSizes(
    seen=tuple(SEEN_COLUMNS.values()),
    acts=tuple(ACT_COLUMNS.values()),
    asked=tuple(ASKED_COLUMNS.values()),
    answers=len(ANSWERS),
    coordinates=tuple(COORDINATES.values()),
)


def asked_of(query: Query) -> tuple[int, ...]:
    """One class per column of ASKED_COLUMNS."""
    named = (classes.index(getattr(query, name)) for name, classes in _ASKED_CLASSES.items())
    return (*named, *(int(kind in query.kinds) for kind in TOLD_KINDS))


def answers_of(query: Query, views: Sequence[View]) -> np.ndarray:
    """int64 [frames]: which of ANSWERS each frame gives, told or not; NO_ANSWER where it is another, or no
    question."""
    if not query.question:
        return np.full(len(views), NO_ANSWER, dtype=np.int64)
    classes = {text: index for index, text in enumerate(ANSWERS)}
    return np.array([classes.get(answer(view, query), NO_ANSWER) for view in views], dtype=np.int64)


def acts_of(acts: Sequence[Act], views: Sequence[View], times_ms: Sequence[int]) -> np.ndarray:
    """int64 [frames, columns]: one class per column of ACT_COLUMNS for each of the kept frames.

    Of two acts of a kind the one that begins or ends; else the one that began later.
    """
    rows = [dict.fromkeys(ACT_COLUMNS, 0) for _ in times_ms]
    for act, seen, over in sightings(acts, times_ms, Query("action", TOLD_KINDS)):
        for index in range(seen, len(rows) if over is None else over + 1):
            row = rows[index]
            now = JUST_BEGUN if index == seen else JUST_OVER if index == over else UNDER_WAY
            if now == UNDER_WAY and row[act.kind] in (JUST_BEGUN, JUST_OVER):
                continue
            row[act.kind] = now
            row[f"{act.kind}_colour"] = 1 + COLOURS.index(act.colour)
            if act.kind in PLACES:
                row[f"{act.kind}_place"] = 1 + PLACES[act.kind].index(act.place)
    for index in range(1, len(rows)):
        for act in switched(views[index - 1], views[index], times_ms[index]):
            rows[index][f"{act.kind}_{act.place}" if act.place else act.kind] = 1
    return np.array([list(row.values()) for row in rows], dtype=np.int64)


def seen_of(view: View, layout: Layout) -> tuple[int, ...]:
    """One class per column of SEEN_COLUMNS."""
    cells = [0] * (CELL_ROWS * CELL_COLS)
    areas = [_MIN_AREA] * len(cells)
    things: tuple[Person | Car, ...] = (*view.people, *view.cars)
    for thing in things:
        number = 1 + COLOURS.index(thing.colour) + (len(COLOURS) if isinstance(thing, Car) else 0)
        for cell, area in _covered(thing, layout):
            if area >= areas[cell]:
                cells[cell], areas[cell] = number, area
    yard = next((car.heading for car in view.cars if car.heading and not _is_on_road(car)), 0)
    road = next((car.heading for car in view.cars if car.heading and _is_on_road(car)), 0)
    return (
        *cells,
        min(len(view.people), MAX_PEOPLE),
        *(_colour_class(colour) for colour in view.standing),
        _colour_class(view.car_at_gate),
        yard % 3,
        road % 3,
        int(any(person.carrying for person in view.people)),
        int(view.parcel),
        *(int(is_on) for is_on in view.lights),
        int(view.door_open),
    )


def coordinates_of(view: View) -> tuple[float, ...]:
    """One number for each of COORDINATES; NaN without such a person or car."""
    found = dict.fromkeys(COORDINATES, math.nan)
    for person in view.people:
        if person.y == PAVEMENT_Y:
            found["pavement_x"] = _columns_from_middle(person.x)
        elif not person.spot:
            found["walker_x"] = _columns_from_middle(person.x)
            found["walker_y"] = person.y / _CELL_HEIGHT - CELL_ROWS / 2
    for car in view.cars:
        found["road_x" if _is_on_road(car) else "yard_x"] = _columns_from_middle(car.x)
    return tuple(found.values())


def _columns_from_middle(x: float) -> float:
    return x / _CELL_WIDTH - CELL_COLS / 2


def _is_on_road(car: Car) -> bool:
    return car.y >= PLACE_HEIGHT - 10


def _covered(thing: Person | Car, layout: Layout) -> list[tuple[int, float]]:
    """Cells that the thing's box reaches into, and how much of each it takes."""
    if isinstance(thing, Car):
        width, height = layout.car_length, layout.car_height
    else:
        width, height = float(PERSON_WIDTH), layout.person_height
    left, right = max(0.0, thing.x - width / 2), min(float(PLACE_WIDTH), thing.x + width / 2)
    top, bottom = max(0.0, thing.y - height), min(float(PLACE_HEIGHT), thing.y)
    covered = []
    for row in range(int(top // _CELL_HEIGHT), CELL_ROWS):
        tall = min(bottom, (row + 1) * _CELL_HEIGHT) - max(top, row * _CELL_HEIGHT)
        for col in range(int(left // _CELL_WIDTH), CELL_COLS):
            wide = min(right, (col + 1) * _CELL_WIDTH) - max(left, col * _CELL_WIDTH)
            if tall > 0 and wide > 0:
                covered.append((row * CELL_COLS + col, tall * wide))
    return covered


def _colour_class(colour: str) -> int:
    return 1 + COLOURS.index(colour) if colour else 0
