"""The ways that people, cars and animals take across a place."""

import itertools
import math
from collections.abc import Sequence

from models.data.place.act import ActKind
from models.data.place.layout import (
    DOOR_WIDTH,
    HOUSE_ROW_Y,
    PARCEL_SIZE,
    PAVEMENT_Y,
    PERSON_WIDTH,
    PLACE_HEIGHT,
    PLACE_WIDTH,
    ROAD_Y,
    YARD_ROW_Y,
    Layout,
)

Point = tuple[float, float]

# How much of somebody is in the picture as they first come in and as they last are: a thing is there or is not,
# never a sliver that might be either.
_PERSON_INSIDE = 9.0
_HEAD_INSIDE = 10.0
_CAR_INSIDE = 12.0
_DOG_INSIDE = 6.0
DOG_ROW_Y = 107.0
BIRD_ROW_Y = 9.0

# How far somebody must have moved (units) before the pictures single the act out: enough to be wholly in the
# picture with their colour, or on a way that no other act takes.
_TELLING_UNITS: dict[ActKind, float] = {
    ActKind.CAR_ARRIVES: 9.0,
    ActKind.CAR_LEAVES: 4.0,
    ActKind.CAR_PASSES: 9.0,
    ActKind.PERSON_COMES_OUT: 8.0,
    ActKind.PERSON_STOPS: 9.0,
    ActKind.PERSON_WALKS_AWAY: 8.0,
    ActKind.PERSON_WALKS_PAST: 3.0,
    ActKind.PARCEL_DELIVERED: 3.0,
    ActKind.PARCEL_TAKEN: 8.0,
}


def path(kind: ActKind, place: str, layout: Layout) -> tuple[Point, ...]:
    """The corners of the way. ValueError for what does not move."""
    door: Point = (layout.door_x, HOUSE_ROW_Y)
    inside_edge = layout.house_edge_x + layout.inward * (_PERSON_INSIDE - PERSON_WIDTH / 2)
    entry: Point = (inside_edge, HOUSE_ROW_Y)
    match kind:
        case ActKind.CAR_ARRIVES | ActKind.CAR_LEAVES:
            outside = layout.gate_edge_x + layout.inward * (layout.car_length / 2 - _CAR_INSIDE)
            way = ((outside, YARD_ROW_Y), (layout.car_x, YARD_ROW_Y))
            return way if kind == ActKind.CAR_ARRIVES else way[::-1]
        case ActKind.CAR_PASSES:
            return _across(place, layout.car_length / 2 - _CAR_INSIDE, ROAD_Y)
        case ActKind.PERSON_WALKS_PAST:
            return _across(place, PERSON_WIDTH / 2 - _PERSON_INSIDE, PAVEMENT_Y)
        case ActKind.DOG_PASSES:
            return _across(place, -_DOG_INSIDE, DOG_ROW_Y)
        case ActKind.BIRD_PASSES:
            return _across(place, -_DOG_INSIDE, BIRD_ROW_Y)
        case ActKind.PERSON_GOES_IN:
            return (spot(place, layout) if place else entry, door)
        case ActKind.PERSON_COMES_OUT:
            return (door, spot(place, layout))
        case ActKind.PERSON_STOPS | ActKind.PERSON_WALKS_AWAY:
            below = (layout.spot_x(place), PLACE_HEIGHT - _HEAD_INSIDE + layout.person_height)
            way = (below, spot(place, layout))
            return way if kind == ActKind.PERSON_STOPS else way[::-1]
        case ActKind.PARCEL_DELIVERED:
            reach = (PERSON_WIDTH + PARCEL_SIZE) / 2
            return (entry, (layout.parcel_x - layout.inward * reach, HOUSE_ROW_Y), entry)
        case ActKind.PARCEL_TAKEN:
            towards = math.copysign(1.0, layout.parcel_x - layout.door_x)
            return (door, (layout.door_x + towards * (DOOR_WIDTH / 2 + 1.5), HOUSE_ROW_Y), door)
    raise ValueError(f"kind {kind}: does not move")


def telling_share(kind: ActKind, place: str, layout: Layout) -> float:
    """The share of an act's time after which the pictures single it out."""
    if kind == ActKind.PERSON_GOES_IN:
        units = 8.0 if place else 3.0
    else:
        units = _TELLING_UNITS.get(kind, 0.0)
    corners = path(kind, place, layout)
    legs = len(corners) - 1
    # Each leg takes equally long, whatever its length.
    return min(1.0, units / math.dist(corners[0], corners[1])) / legs


def length(corners: Sequence[Point]) -> float:
    return sum(math.dist(a, b) for a, b in itertools.pairwise(corners))


def along(corners: Sequence[Point], share: float) -> Point:
    """Position after a share of the time; each leg takes equally long."""
    legs = len(corners) - 1
    leg = min(int(share * legs), legs - 1)
    rest = share * legs - leg
    (ax, ay), (bx, by) = corners[leg], corners[leg + 1]
    return ax + (bx - ax) * rest, ay + (by - ay) * rest


def spot(name: str, layout: Layout) -> Point:
    return (layout.spot_x(name), YARD_ROW_Y)


def _across(to_side: str, outside: float, y: float) -> tuple[Point, Point]:
    """From edge to edge; `outside`: how far the middle is out of the picture at both ends."""
    left, right = (-outside, y), (PLACE_WIDTH + outside, y)
    return (right, left) if to_side == "left" else (left, right)
