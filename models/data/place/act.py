"""What can happen at a watched place."""

from dataclasses import dataclass
from enum import StrEnum

COLOURS = ("red", "blue", "green", "yellow", "purple")

# Where people stand, where lights hang, which way passers-by go.
SPOTS = ("house", "gate")
LIGHTS = ("window", "gate")
SIDES = ("left", "right")


class ActKind(StrEnum):
    CAR_ARRIVES = "car_arrives"
    CAR_LEAVES = "car_leaves"
    CAR_PASSES = "car_passes"
    PERSON_GOES_IN = "person_goes_in"
    PERSON_COMES_OUT = "person_comes_out"
    PERSON_STOPS = "person_stops"
    PERSON_WALKS_AWAY = "person_walks_away"
    PERSON_WALKS_PAST = "person_walks_past"
    PARCEL_DELIVERED = "parcel_delivered"
    PARCEL_TAKEN = "parcel_taken"
    DOOR_OPENS = "door_opens"
    DOOR_CLOSES = "door_closes"
    LIGHT_ON = "light_on"
    LIGHT_OFF = "light_off"
    # Never told: what a model has to learn to say nothing about.
    DOG_PASSES = "dog_passes"
    BIRD_PASSES = "bird_passes"


CAR_KINDS = (ActKind.CAR_ARRIVES, ActKind.CAR_LEAVES, ActKind.CAR_PASSES)
PARCEL_KINDS = (ActKind.PARCEL_DELIVERED, ActKind.PARCEL_TAKEN)
PERSON_KINDS = (
    ActKind.PERSON_GOES_IN,
    ActKind.PERSON_COMES_OUT,
    ActKind.PERSON_STOPS,
    ActKind.PERSON_WALKS_AWAY,
    ActKind.PERSON_WALKS_PAST,
    *PARCEL_KINDS,
)
DOOR_KINDS = (ActKind.DOOR_OPENS, ActKind.DOOR_CLOSES)
LIGHT_KINDS = (ActKind.LIGHT_ON, ActKind.LIGHT_OFF)
SWITCH_KINDS = (*DOOR_KINDS, *LIGHT_KINDS)
TOLD_KINDS = (*CAR_KINDS, *PERSON_KINDS, *SWITCH_KINDS)

# The places that belong to a kind of act, where there is more than one.
PLACES: dict[ActKind, tuple[str, ...]] = {
    ActKind.CAR_PASSES: SIDES,
    ActKind.PERSON_STOPS: SPOTS,
    ActKind.PERSON_WALKS_AWAY: SPOTS,
    ActKind.PERSON_WALKS_PAST: SIDES,
    ActKind.LIGHT_ON: LIGHTS,
    ActKind.LIGHT_OFF: LIGHTS,
}


@dataclass(frozen=True)
class Act:
    """Something that happens, in media milliseconds.

    It is to be seen from start_ms until before end_ms; from telling_ms on the pictures so far single it out.
    Doors and lights switch at once: their three times are equal. colour: of the person or car, else "".
    place: one of PLACES where the kind has any; of people at the door the spot they come from or go to; else "".
    """

    kind: ActKind
    start_ms: int
    telling_ms: int
    end_ms: int
    colour: str = ""
    place: str = ""
