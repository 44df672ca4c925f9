"""All that is to be seen at one moment."""

from dataclasses import dataclass

from models.data.place.act import SPOTS


@dataclass(frozen=True)
class Person:
    """x of the middle, y of the feet. carrying: -1 or 1, on which side the parcel is; 0 without one.

    spot: where the person stands; "" for one who walks.
    """

    colour: str
    x: float
    y: float
    spot: str = ""
    carrying: int = 0


@dataclass(frozen=True)
class Car:
    """x of the middle, y of the wheels. heading: -1 or 1, which way it drives; 0 for a parked one."""

    colour: str
    x: float
    y: float
    heading: int = 0


@dataclass(frozen=True)
class Animal:
    kind: str
    x: float
    y: float
    heading: int


@dataclass(frozen=True)
class View:
    """people and cars: those in the picture, in the order of their rows from the house to the road.

    lights: whether each of LIGHTS burns. door_in_use: whether somebody is just using the door.
    """

    people: tuple[Person, ...]
    cars: tuple[Car, ...]
    parcel: bool
    lights: tuple[bool, bool]
    door_open: bool
    door_in_use: bool
    animals: tuple[Animal, ...] = ()
    sway: int = 0

    @property
    def car_at_gate(self) -> str:
        """Colour of the parked car, "" for none."""
        return next((car.colour for car in self.cars if car.heading == 0), "")

    @property
    def standing(self) -> tuple[str, ...]:
        """Colour of who stands at each of SPOTS, "" for nobody."""
        return tuple(next((p.colour for p in self.people if p.spot == spot), "") for spot in SPOTS)
