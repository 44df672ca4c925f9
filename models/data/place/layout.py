"""Where things stand at a watched place.

Coordinates are in scene units, 140 wide and 112 high, x to the right and y down: a frame of that many pixels is
20 visual tokens of 28 x 28. What a label depends on is at least 8 x 8 units.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

PLACE_WIDTH, PLACE_HEIGHT = 140, 112

PERSON_WIDTH = 12
PARCEL_SIZE = 11
DOOR_WIDTH, DOOR_HEIGHT = 18, 30
WINDOW_SIZE = 16
LAMP_SIZE = 12

# Four rows of ground, one below the other: before the house, before those who stand and the parked car, the
# pavement, the road. Things of one row hide those of the rows above in part; two people whose ways cross can hide
# one another for a moment. Who is hidden is not gone: they still count.
HOUSE_ROW_Y = 60.0
YARD_ROW_Y = 86.0
PAVEMENT_Y = 99.0
ROAD_Y = 111.0


class Arrangement(NamedTuple):
    """On which side things are. The house is opposite the gate; window and parcel are beside the door."""

    house_left: bool
    window_left: bool
    parcel_left: bool

    @property
    def name(self) -> str:
        return "".join("LR"[not side] for side in self)


_BOTH = (True, False)
ARRANGEMENTS = tuple(Arrangement(h, w, p) for h in _BOTH for w in _BOTH for p in _BOTH)
# In the test set alone. Each of the three choices is seen both ways in the rest.
HELD_OUT_ARRANGEMENTS = (Arrangement(True, False, True), Arrangement(False, True, False))


@dataclass(frozen=True)
class Layout:
    """One place. All x are middles. `house_left` also says from which side people and cars come."""

    arrangement: str
    house_left: bool
    door_x: float
    window_x: float
    parcel_x: float
    lamp_x: float
    car_x: float
    house_spot_x: float
    gate_spot_x: float
    post_x: float
    person_height: float
    car_length: float
    car_height: float

    @staticmethod
    def random(rng: np.random.Generator, arrangement: Arrangement) -> "Layout":
        def across(base_x: float) -> float:
            """From a place whose house is on the left."""
            return base_x if arrangement.house_left else PLACE_WIDTH - base_x

        def side(is_left: bool) -> int:
            """Which way from the door, before mirroring."""
            return -1 if is_left == arrangement.house_left else 1

        door = float(rng.uniform(36, 54))
        window_side = side(arrangement.window_left)
        window = door + window_side * float(rng.uniform(18, 23))
        parcel = door + side(arrangement.parcel_left) * (DOOR_WIDTH / 2 + PARCEL_SIZE / 2 + 2.5)
        car_length = float(rng.uniform(30, 36))
        car_left = float(rng.uniform(96, 101))
        return Layout(
            arrangement=arrangement.name,
            house_left=arrangement.house_left,
            door_x=across(door),
            window_x=across(window),
            parcel_x=across(parcel),
            lamp_x=across(float(rng.uniform(97, 130))),
            car_x=across(car_left + car_length / 2),
            house_spot_x=across(float(rng.uniform(11, 26))),
            gate_spot_x=across(float(rng.uniform(76, 86))),
            post_x=across(float(rng.uniform(40, 64))),
            person_height=float(rng.uniform(24, 27)),
            car_length=car_length,
            car_height=float(rng.uniform(18, 21)),
        )

    @property
    def inward(self) -> int:
        """+1 if those who come to the house move to the right, else -1."""
        return 1 if self.house_left else -1

    @property
    def house_edge_x(self) -> float:
        return 0.0 if self.house_left else float(PLACE_WIDTH)

    @property
    def gate_edge_x(self) -> float:
        return PLACE_WIDTH - self.house_edge_x

    def spot_x(self, spot: str) -> float:
        return self.house_spot_x if spot == "house" else self.gate_spot_x


def held_out(layout: Layout) -> bool:
    return any(layout.arrangement == arrangement.name for arrangement in HELD_OUT_ARRANGEMENTS)


def random_layout(rng: np.random.Generator, split: str) -> Layout:
    """A place as this split may show: half of the test set's are held out, none of the others'."""
    is_held_out = split == "test" and rng.random() < 0.5
    choices = [a for a in ARRANGEMENTS if (a in HELD_OUT_ARRANGEMENTS) == is_held_out]
    return Layout.random(rng, choices[int(rng.integers(len(choices)))])
