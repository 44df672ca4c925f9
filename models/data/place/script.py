"""What happens at a place, as pure data with exact times."""

import bisect
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property

from models.data.place.act import (
    LIGHT_KINDS,
    LIGHTS,
    SPOTS,
    TOLD_KINDS,
    Act,
    ActKind,
)
from models.data.place.layout import YARD_ROW_Y, Layout
from models.data.place.look import Look
from models.data.place.path import along, path
from models.data.place.view import Animal, Car, Person, View

# The door stands open this long at the end of going in; long enough to be seen at one frame a second.
DOOR_MS = 1500


@dataclass(frozen=True)
class Start:
    """What is there when a script begins; colours, "" for nobody and nothing. door_open: it stands open."""

    car: str = ""
    standing: tuple[str, ...] = ("",) * len(SPOTS)
    parcel: bool = False
    lights: tuple[bool, bool] = (False, False)
    door_open: bool = False


# Acts of one lane never overlap; acts of different lanes may.
_LANES: dict[str, tuple[ActKind, ...]] = {
    "yard": (ActKind.CAR_ARRIVES, ActKind.CAR_LEAVES),
    "road": (ActKind.CAR_PASSES,),
    "people": (
        ActKind.PERSON_GOES_IN,
        ActKind.PERSON_COMES_OUT,
        ActKind.PERSON_STOPS,
        ActKind.PERSON_WALKS_AWAY,
        ActKind.PARCEL_DELIVERED,
        ActKind.PARCEL_TAKEN,
    ),
    "pavement": (ActKind.PERSON_WALKS_PAST,),
    "door": (ActKind.DOOR_OPENS, ActKind.DOOR_CLOSES),
    "window": LIGHT_KINDS,
    "gate": LIGHT_KINDS,
    "dog": (ActKind.DOG_PASSES,),
    "bird": (ActKind.BIRD_PASSES,),
}
_LANE_OF = {kind: lane for lane, kinds in _LANES.items() for kind in kinds if kind not in LIGHT_KINDS}
LANES = tuple(_LANES)


def lane_of(act: Act) -> str:
    return act.place if act.kind in LIGHT_KINDS else _LANE_OF[act.kind]


@dataclass(frozen=True)
class Script:
    """A place and what happens there in [start_ms, end_ms); acts are in order of their start.

    A DOOR_OPENS or DOOR_CLOSES among the acts is of a door that stands open by itself; what people do at the
    door opens and closes it besides.
    """

    start_ms: int
    end_ms: int
    layout: Layout
    look: Look
    start: Start
    acts: tuple[Act, ...]

    def shifted(self, by_ms: int) -> "Script":
        """The same at other times. The light's slow swing and the wind stay where the clock puts them."""
        acts = tuple(
            replace(
                act,
                start_ms=act.start_ms + by_ms,
                telling_ms=act.telling_ms + by_ms,
                end_ms=act.end_ms + by_ms,
            )
            for act in self.acts
        )
        return replace(self, start_ms=self.start_ms + by_ms, end_ms=self.end_ms + by_ms, acts=acts)

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> "Script":
        data = json.loads(text)
        start, look = data["start"], data["look"]
        return Script(
            start_ms=data["start_ms"],
            end_ms=data["end_ms"],
            layout=Layout(**data["layout"]),
            look=Look(**{**look, "long_cars": tuple(look["long_cars"])}),
            start=Start(
                **{**start, "standing": tuple(start["standing"]), "lights": tuple(start["lights"])},
            ),
            acts=tuple(Act(**{**act, "kind": ActKind(act["kind"])}) for act in data["acts"]),
        )

    @property
    def told_acts(self) -> tuple[Act, ...]:
        """Without the animals, and without doors and lights, whose changes are read off the views."""
        return tuple(act for act in self.acts if act.end_ms > act.start_ms and act.kind in TOLD_KINDS)

    @property
    def final(self) -> Start:
        """What is there when the script is over: the `start` of a script that goes on from here."""
        start = self.start
        for act in self.acts:
            start = after(start, act)
        return start

    def view(self, time_ms: int) -> View:
        """What is to be seen at this moment; before the beginning as at the beginning, likewise at the end."""
        lanes, layout = self._lanes, self.layout
        settled = lanes["people"].settled(time_ms)
        standing, parcel = settled.standing, settled.parcel
        people: list[Person] = []
        in_use = False
        act = lanes["people"].running(time_ms)
        if act is not None:
            share = _share(act, time_ms)
            if act.kind in (ActKind.PERSON_GOES_IN, ActKind.PERSON_WALKS_AWAY):
                standing = tuple(
                    "" if spot == act.place else c for spot, c in zip(SPOTS, standing, strict=True)
                )
            people.append(_walker(act, share, layout))
            if act.kind == ActKind.PARCEL_DELIVERED:
                parcel = share >= 0.5
            elif act.kind == ActKind.PARCEL_TAKEN:
                parcel = share < 0.5
            in_use = act.kind in (ActKind.PERSON_COMES_OUT, ActKind.PARCEL_TAKEN) or (
                act.kind == ActKind.PERSON_GOES_IN and time_ms >= act.end_ms - DOOR_MS
            )
        people += [
            Person(colour, layout.spot_x(spot), YARD_ROW_Y, spot)
            for spot, colour in zip(SPOTS, standing, strict=True)
            if colour
        ]
        act = lanes["pavement"].running(time_ms)
        if act is not None:
            people.append(_walker(act, _share(act, time_ms), layout))
        people.sort(key=lambda person: person.y)
        return View(
            people=tuple(people),
            cars=self._cars(time_ms),
            parcel=parcel,
            lights=(lanes["window"].settled(time_ms).lights[0], lanes["gate"].settled(time_ms).lights[1]),
            door_open=in_use or lanes["door"].settled(time_ms).door_open,
            door_in_use=in_use,
            animals=self._animals(time_ms),
            sway=self.look.sway(time_ms),
        )

    def _cars(self, time_ms: int) -> tuple[Car, ...]:
        lanes, layout, cars = self._lanes, self.layout, []
        act = lanes["yard"].running(time_ms)
        parked = lanes["yard"].settled(time_ms).car
        if act is not None:
            heading = -layout.inward if act.kind == ActKind.CAR_ARRIVES else layout.inward
            cars.append(Car(act.colour, *_place_of(act, time_ms, layout), heading))
        elif parked:
            cars.append(Car(parked, layout.car_x, YARD_ROW_Y))
        act = lanes["road"].running(time_ms)
        if act is not None:
            cars.append(Car(act.colour, *_place_of(act, time_ms, layout), -1 if act.place == "left" else 1))
        return tuple(cars)

    def _animals(self, time_ms: int) -> tuple[Animal, ...]:
        acts = (self._lanes[name].running(time_ms) for name in ("dog", "bird"))
        return tuple(
            Animal(lane_of(act), *_place_of(act, time_ms, self.layout), -1 if act.place == "left" else 1)
            for act in acts
            if act is not None
        )

    @cached_property
    def _lanes(self) -> dict[str, "_Lane"]:
        acts: dict[str, list[Act]] = {name: [] for name in LANES}
        for act in self.acts:
            acts[lane_of(act)].append(act)
        return {name: _Lane(self.start, acts[name]) for name in LANES}


class _Lane:
    """The acts of one lane with what is there before and after each."""

    def __init__(self, start: Start, acts: Sequence[Act]) -> None:
        self._acts = acts
        self._starts_ms = [act.start_ms for act in acts]
        self._states = [start]
        for act in acts:
            self._states.append(after(self._states[-1], act))

    def running(self, time_ms: int) -> Act | None:
        index = bisect.bisect_right(self._starts_ms, time_ms) - 1
        return self._acts[index] if index >= 0 and time_ms < self._acts[index].end_ms else None

    def settled(self, time_ms: int) -> Start:
        """What is there after the last act that has ended; of this lane only."""
        index = bisect.bisect_right(self._starts_ms, time_ms) - 1
        over = index >= 0 and time_ms >= self._acts[index].end_ms
        return self._states[index + 1 if over else max(index, 0)]


def after(start: Start, act: Act) -> Start:
    """What is there once the act is over."""
    match act.kind:
        case ActKind.CAR_ARRIVES:
            return replace(start, car=act.colour)
        case ActKind.CAR_LEAVES:
            return replace(start, car="")
        case ActKind.PARCEL_DELIVERED | ActKind.PARCEL_TAKEN:
            return replace(start, parcel=act.kind == ActKind.PARCEL_DELIVERED)
        case ActKind.DOOR_OPENS | ActKind.DOOR_CLOSES:
            return replace(start, door_open=act.kind == ActKind.DOOR_OPENS)
        case ActKind.LIGHT_ON | ActKind.LIGHT_OFF:
            window, gate = start.lights
            on = act.kind == ActKind.LIGHT_ON
            return replace(start, lights=(on, gate) if act.place == LIGHTS[0] else (window, on))
        case ActKind.PERSON_COMES_OUT | ActKind.PERSON_STOPS:
            return _stand(start, act.place, act.colour)
        case ActKind.PERSON_GOES_IN | ActKind.PERSON_WALKS_AWAY if act.place:
            return _stand(start, act.place, "")
    return start


def _stand(start: Start, spot: str, colour: str) -> Start:
    standing = (colour if name == spot else c for name, c in zip(SPOTS, start.standing, strict=True))
    return replace(start, standing=tuple(standing))


def _walker(act: Act, share: float, layout: Layout) -> Person:
    x, y = along(path(act.kind, act.place, layout), share)
    carrying = 0
    if act.kind == ActKind.PARCEL_DELIVERED and share < 0.5:
        carrying = layout.inward
    elif act.kind == ActKind.PARCEL_TAKEN and share >= 0.5:
        carrying = 1 if layout.parcel_x > layout.door_x else -1
    return Person(act.colour, x, y, "", carrying)


def _place_of(act: Act, time_ms: int, layout: Layout) -> tuple[float, float]:
    return along(path(act.kind, act.place, layout), _share(act, time_ms))


def _share(act: Act, time_ms: int) -> float:
    return (time_ms - act.start_ms) / (act.end_ms - act.start_ms)
