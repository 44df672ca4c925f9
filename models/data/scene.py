"""A small 2-D world: the front of a house, with people, a car, a parcel and a light, scripted with exact times.

Coordinates are in scene units, 112 wide and 84 high, x to the right and y down. Every place where something
can rest (light, parcel, two places to stand, the gate) lies in a cell of its own of a 4 x 3 grid, so that a
model that sees 12 visual tokens can tell them apart. What a label depends on is at least 8 x 8 units.
"""

import bisect
import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from functools import cached_property

import numpy as np

SCENE_WIDTH, SCENE_HEIGHT = 112, 84
COLOURS = ("red", "blue", "green", "yellow")
NUM_SPOTS = 2
NO_SPOT = -1

PERSON_WIDTH, PERSON_HEIGHT = 12, 24
CAR_WIDTH, CAR_HEIGHT = 30, 18
PARCEL_SIZE = 11
BACK_ROW_Y = 54.0
FRONT_ROW_Y = 82.0
DOOR_X = 42.0
SPOTS_X = (14.0, 42.0)
CAR_PARKED_X = 79.0
CAR_EDGE_X = 108.0
ENTRY_X = -2.0
EXIT_Y = FRONT_ROW_Y + 22.0
PARCEL_X = 58.0
DROP_X = 46.0
TAKE_X = 54.0


class ActKind(StrEnum):
    CAR_ARRIVES = "car_arrives"
    CAR_LEAVES = "car_leaves"
    PERSON_GOES_IN = "person_goes_in"
    PERSON_COMES_OUT = "person_comes_out"
    PERSON_WALKS_AWAY = "person_walks_away"
    PARCEL_DELIVERED = "parcel_delivered"
    PARCEL_TAKEN = "parcel_taken"
    LIGHT_ON = "light_on"
    LIGHT_OFF = "light_off"


CAR_KINDS = (ActKind.CAR_ARRIVES, ActKind.CAR_LEAVES)
PERSON_KINDS = (
    ActKind.PERSON_GOES_IN,
    ActKind.PERSON_COMES_OUT,
    ActKind.PERSON_WALKS_AWAY,
    ActKind.PARCEL_DELIVERED,
    ActKind.PARCEL_TAKEN,
)
LIGHT_KINDS = (ActKind.LIGHT_ON, ActKind.LIGHT_OFF)

# How far a thing must have moved (units) before its picture singles the act out: until then somebody in the
# door may come out or take the parcel, and something at the edge is too small to be told.
_TELLING_UNITS = {
    ActKind.CAR_ARRIVES: 7.0,
    ActKind.CAR_LEAVES: 3.0,
    ActKind.PERSON_GOES_IN: 8.0,
    ActKind.PERSON_COMES_OUT: 5.0,
    ActKind.PERSON_WALKS_AWAY: 5.0,
    ActKind.PARCEL_DELIVERED: 8.0,
    ActKind.PARCEL_TAKEN: 5.0,
}


class Phase(StrEnum):
    ABSENT = "absent"
    ARRIVING = "arriving"
    PARKED = "parked"
    LEAVING = "leaving"


@dataclass(frozen=True)
class Act:
    """Something that happens from start_ms to end_ms (equal for the light, which switches at once).

    colour: of the person or car, "" for the light. spot: where the person stands before or after, NO_SPOT if
    they come from the edge of the picture.
    """

    kind: ActKind
    start_ms: int
    end_ms: int
    colour: str = ""
    spot: int = NO_SPOT

    @property
    def telling_ms(self) -> int:
        """From when the pictures so far single this act out."""
        if self.kind in LIGHT_KINDS:
            return self.start_ms
        share = min(1.0, _TELLING_UNITS[self.kind] / self._path_units)
        return self.start_ms + round(share * (self.end_ms - self.start_ms))

    @property
    def _path_units(self) -> float:
        points = _path(self)
        return sum(_distance(a, b) for a, b in itertools.pairwise(points))


@dataclass(frozen=True)
class Start:
    """What is there when a script begins; colours, "" for nobody and nothing."""

    car: str = ""
    standing: tuple[str, ...] = ("",) * NUM_SPOTS
    parcel: bool = False
    light: bool = False

    @staticmethod
    def random(rng: np.random.Generator) -> "Start":
        colours = [str(colour) for colour in rng.permutation(COLOURS)]
        return Start(
            car=str(rng.choice(COLOURS)) if rng.random() < 0.45 else "",
            standing=tuple(colours[spot] if rng.random() < 0.3 else "" for spot in range(NUM_SPOTS)),
            parcel=bool(rng.random() < 0.4),
            light=bool(rng.random() < 0.4),
        )


@dataclass(frozen=True)
class Person:
    """A person in view: x of the middle, y of the feet."""

    colour: str
    x: float
    y: float
    carrying: bool = False

    @property
    def countable(self) -> bool:
        """Enough of the person (8 units) is inside the picture."""
        visible_width = min(SCENE_WIDTH, self.x + PERSON_WIDTH / 2) - max(0.0, self.x - PERSON_WIDTH / 2)
        visible_height = min(SCENE_HEIGHT, self.y) - max(0.0, self.y - PERSON_HEIGHT)
        return visible_width >= 8 and visible_height >= 8


@dataclass(frozen=True)
class View:
    """All that is to be seen at one moment."""

    car: str
    car_phase: Phase
    car_x: float
    standing: tuple[str, ...]
    walker: Person | None
    parcel: bool
    light: bool
    door_open: bool

    @property
    def persons(self) -> tuple[Person, ...]:
        """Those standing, by spot, then the one who walks; only those of whom enough is in the picture."""
        standing = [Person(c, SPOTS_X[i], FRONT_ROW_Y) for i, c in enumerate(self.standing) if c]
        walking = [self.walker] if self.walker is not None and self.walker.countable else []
        return (*standing, *walking)


@dataclass(frozen=True)
class SceneScript:
    """A scene as pure data. Times are media milliseconds; acts are in order of their start.

    Acts of one lane (car, people, light) never overlap; acts of different lanes may.
    """

    start_ms: int
    end_ms: int
    look: int
    start: Start
    acts: tuple[Act, ...]

    @staticmethod
    def random(
        rng: np.random.Generator,
        duration_s: float,
        *,
        start: Start | None = None,
        start_ms: int = 0,
        look: int | None = None,
        quiet: float = 1.0,
    ) -> "SceneScript":
        """A random script; the same generator state gives the same script. `quiet` stretches the pauses."""
        if duration_s <= 0:
            raise ValueError(f"duration_s {duration_s}: must be positive")
        if quiet <= 0:
            raise ValueError(f"quiet {quiet}: must be positive")
        first = start if start is not None else Start.random(rng)
        chosen_look = int(rng.integers(NUM_LOOKS)) if look is None else look
        end_ms = start_ms + round(duration_s * 1000)
        acts = [
            *_car_acts(rng, first, start_ms, end_ms, quiet),
            *_person_acts(rng, first, start_ms, end_ms, quiet),
            *_light_acts(rng, first, start_ms, end_ms, quiet),
        ]
        acts.sort(key=lambda act: (act.start_ms, act.end_ms, act.kind))
        return SceneScript(start_ms, end_ms, chosen_look, first, tuple(acts))

    def shifted(self, by_ms: int) -> "SceneScript":
        acts = tuple(replace(a, start_ms=a.start_ms + by_ms, end_ms=a.end_ms + by_ms) for a in self.acts)
        return replace(self, start_ms=self.start_ms + by_ms, end_ms=self.end_ms + by_ms, acts=acts)

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> "SceneScript":
        data = json.loads(text)
        start = data["start"]
        return SceneScript(
            start_ms=data["start_ms"],
            end_ms=data["end_ms"],
            look=data["look"],
            start=Start(start["car"], tuple(start["standing"]), start["parcel"], start["light"]),
            acts=tuple(
                Act(ActKind(a["kind"]), a["start_ms"], a["end_ms"], a["colour"], a["spot"])
                for a in data["acts"]
            ),
        )

    @property
    def final(self) -> Start:
        """What is there when the script is over: the `start` of a script that goes on from here."""
        start = self.start
        for act in self.acts:
            start = _after(start, act)
        return start

    def busy_at(self, time_ms: int) -> bool:
        """Whether any act is under way."""
        return any(lane.running(time_ms) is not None for lane in self._lanes)

    def view(self, time_ms: int) -> View:
        """What is to be seen at this moment; before the beginning as at the beginning, likewise at the end."""
        cars, people, lights = self._lanes
        car_act, walk_act = cars.running(time_ms), people.running(time_ms)
        car, phase, car_x = _car_at(cars.settled(time_ms), car_act, time_ms)
        settled = people.settled(time_ms)
        standing, parcel, walker, door_open = settled.standing, settled.parcel, None, False
        if walk_act is not None:
            share = _share(walk_act, time_ms)
            if walk_act.spot != NO_SPOT and walk_act.kind != ActKind.PERSON_COMES_OUT:
                standing = tuple("" if i == walk_act.spot else c for i, c in enumerate(standing))
            x, y = _along(_path(walk_act), share)
            carrying = (walk_act.kind == ActKind.PARCEL_DELIVERED and share < 0.5) or (
                walk_act.kind == ActKind.PARCEL_TAKEN and share >= 0.5
            )
            if walk_act.kind == ActKind.PARCEL_DELIVERED:
                parcel = share >= 0.5
            elif walk_act.kind == ActKind.PARCEL_TAKEN:
                parcel = share < 0.5
            door_open = walk_act.kind in (ActKind.PERSON_COMES_OUT, ActKind.PARCEL_TAKEN) or (
                walk_act.kind == ActKind.PERSON_GOES_IN and share >= 0.5
            )
            walker = Person(walk_act.colour, x, y, carrying)
        light = lights.settled(time_ms).light
        return View(car, phase, car_x, standing, walker, parcel, light, door_open)

    @cached_property
    def _lanes(self) -> tuple["_Lane", "_Lane", "_Lane"]:
        return (
            _Lane(self.start, [a for a in self.acts if a.kind in CAR_KINDS]),
            _Lane(self.start, [a for a in self.acts if a.kind in PERSON_KINDS]),
            _Lane(self.start, [a for a in self.acts if a.kind in LIGHT_KINDS]),
        )


class EndlessScene:
    """A scene that never ends: segment after segment from one seed, each going on where the last stopped.

    The same (seed, split) gives the same scene for ever, on any machine.
    """

    def __init__(self, seed: int, split: str = "demo", *, quiet: float = 1.5, segment_s: int = 60) -> None:
        self._key = (split, seed)
        self._quiet = quiet
        self.segment_ms = segment_s * 1000
        rng = scene_rng(split, seed, "endless")
        self._look = int(rng.integers(NUM_LOOKS))
        self._first = Start.random(rng)
        # The last segment made; asking for an earlier one starts over from the first.
        self._index = -1
        self._segment: SceneScript | None = None

    def segment(self, index: int) -> SceneScript:
        """The script of [index * segment_ms, (index + 1) * segment_ms). ValueError if index is negative."""
        if index < 0:
            raise ValueError(f"index {index}: must not be negative")
        if self._segment is None or index < self._index:
            self._index, self._segment = 0, self._make(0, self._first)
        while self._index < index:
            self._index, self._segment = self._index + 1, self._make(self._index + 1, self._segment.final)
        return self._segment

    def script(self, until_ms: int) -> SceneScript:
        """Everything from time 0 to the end of the segment that holds `until_ms`, as one script."""
        acts: list[Act] = []
        for index in range(until_ms // self.segment_ms + 1):
            acts.extend(self.segment(index).acts)
        return SceneScript(0, self.segment(index).end_ms, self._look, self._first, tuple(acts))

    def _make(self, index: int, start: Start) -> SceneScript:
        split, seed = self._key
        return SceneScript.random(
            scene_rng(split, seed, f"segment {index}"),
            self.segment_ms / 1000,
            start=start,
            start_ms=index * self.segment_ms,
            look=self._look,
            quiet=self._quiet,
        )


SPLITS = ("train", "validation", "test", "demo")
NUM_LOOKS = 6


def scene_rng(split: str, seed: int, purpose: str = "") -> np.random.Generator:
    """The generator of one (split, seed, purpose). Hashing the split in keeps the splits' seeds disjoint."""
    if split not in SPLITS:
        raise ValueError(f"split {split!r}: must be one of {', '.join(SPLITS)}")
    digest = hashlib.sha256(f"{split}/{seed}/{purpose}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))


class _Lane:
    """The acts of one lane with what is there before and after each."""

    def __init__(self, start: Start, acts: list[Act]) -> None:
        self._acts = acts
        self._starts_ms = [act.start_ms for act in acts]
        self._states = [start]
        for act in acts:
            self._states.append(_after(self._states[-1], act))

    def running(self, time_ms: int) -> Act | None:
        index = bisect.bisect_right(self._starts_ms, time_ms) - 1
        return self._acts[index] if index >= 0 and time_ms < self._acts[index].end_ms else None

    def settled(self, time_ms: int) -> Start:
        """State after the last act that has ended; of this lane only."""
        index = bisect.bisect_right(self._starts_ms, time_ms) - 1
        over = index >= 0 and time_ms >= self._acts[index].end_ms
        return self._states[index + 1 if over else max(index, 0)]


def _after(start: Start, act: Act) -> Start:
    match act.kind:
        case ActKind.CAR_ARRIVES:
            return replace(start, car=act.colour)
        case ActKind.CAR_LEAVES:
            return replace(start, car="")
        case ActKind.PARCEL_DELIVERED | ActKind.PARCEL_TAKEN:
            return replace(start, parcel=act.kind == ActKind.PARCEL_DELIVERED)
        case ActKind.LIGHT_ON | ActKind.LIGHT_OFF:
            return replace(start, light=act.kind == ActKind.LIGHT_ON)
    colour = act.colour if act.kind == ActKind.PERSON_COMES_OUT else ""
    return replace(
        start, standing=tuple(colour if i == act.spot else c for i, c in enumerate(start.standing))
    )


def _path(act: Act) -> tuple[tuple[float, float], ...]:
    match act.kind:
        case ActKind.CAR_ARRIVES:
            return ((CAR_EDGE_X, FRONT_ROW_Y), (CAR_PARKED_X, FRONT_ROW_Y))
        case ActKind.CAR_LEAVES:
            return ((CAR_PARKED_X, FRONT_ROW_Y), (CAR_EDGE_X, FRONT_ROW_Y))
        case ActKind.PERSON_GOES_IN if act.spot == NO_SPOT:
            return ((ENTRY_X, BACK_ROW_Y), (DOOR_X, BACK_ROW_Y))
        case ActKind.PERSON_GOES_IN:
            return ((SPOTS_X[act.spot], FRONT_ROW_Y), (DOOR_X, BACK_ROW_Y))
        case ActKind.PERSON_COMES_OUT:
            return ((DOOR_X, BACK_ROW_Y), (SPOTS_X[act.spot], FRONT_ROW_Y))
        case ActKind.PERSON_WALKS_AWAY:
            return ((SPOTS_X[act.spot], FRONT_ROW_Y), (SPOTS_X[act.spot], EXIT_Y))
        case ActKind.PARCEL_DELIVERED:
            return ((ENTRY_X, BACK_ROW_Y), (DROP_X, BACK_ROW_Y), (ENTRY_X, BACK_ROW_Y))
        case ActKind.PARCEL_TAKEN:
            return ((DOOR_X, BACK_ROW_Y), (TAKE_X, BACK_ROW_Y), (DOOR_X, BACK_ROW_Y))
    raise ValueError(f"kind {act.kind}: the light does not move")


def _distance(a: tuple[float, float], b: tuple[float, float]) -> float:
    return float(np.hypot(b[0] - a[0], b[1] - a[1]))


def _share(act: Act, time_ms: int) -> float:
    return (time_ms - act.start_ms) / (act.end_ms - act.start_ms)


def _along(path: tuple[tuple[float, float], ...], share: float) -> tuple[float, float]:
    """Position after a share of the time; each leg takes equally long."""
    legs = len(path) - 1
    leg = min(int(share * legs), legs - 1)
    rest = share * legs - leg
    (ax, ay), (bx, by) = path[leg], path[leg + 1]
    return ax + (bx - ax) * rest, ay + (by - ay) * rest


def _car_at(settled: Start, act: Act | None, time_ms: int) -> tuple[str, Phase, float]:
    if act is None:
        return settled.car, Phase.PARKED if settled.car else Phase.ABSENT, CAR_PARKED_X
    phase = Phase.ARRIVING if act.kind == ActKind.CAR_ARRIVES else Phase.LEAVING
    return act.colour, phase, _along(_path(act), _share(act, time_ms))[0]


def _between_ms(rng: np.random.Generator, low_s: float, high_s: float) -> int:
    return int(rng.integers(round(low_s * 1000), round(high_s * 1000)))


def _car_acts(
    rng: np.random.Generator, start: Start, start_ms: int, end_ms: int, quiet: float
) -> Iterator[Act]:
    car, time_ms = start.car, start_ms
    while True:
        begin_ms = time_ms + _between_ms(rng, 2.5 * quiet, 12 * quiet)
        time_ms = begin_ms + _between_ms(rng, 2, 4)
        if time_ms >= end_ms:
            return
        colour = car or str(rng.choice(COLOURS))
        yield Act(ActKind.CAR_LEAVES if car else ActKind.CAR_ARRIVES, begin_ms, time_ms, colour)
        car = "" if car else colour


_PERSON_SECONDS = {
    ActKind.PERSON_GOES_IN: (2.2, 4.0),
    ActKind.PERSON_COMES_OUT: (2.0, 3.5),
    ActKind.PERSON_WALKS_AWAY: (2.0, 3.5),
    ActKind.PARCEL_DELIVERED: (4.0, 6.0),
    ActKind.PARCEL_TAKEN: (2.4, 4.0),
}


def _person_acts(
    rng: np.random.Generator, start: Start, start_ms: int, end_ms: int, quiet: float
) -> Iterator[Act]:
    state, time_ms = start, start_ms
    while True:
        begin_ms = time_ms + _between_ms(rng, 1.5 * quiet, 7 * quiet)
        kind, spot = _next_person_act(rng, state)
        time_ms = begin_ms + _between_ms(rng, *_PERSON_SECONDS[kind])
        if time_ms >= end_ms:
            return
        if kind in (ActKind.PERSON_GOES_IN, ActKind.PERSON_WALKS_AWAY) and spot != NO_SPOT:
            colour = state.standing[spot]
        else:
            colour = str(rng.choice([c for c in COLOURS if c not in state.standing]))
        act = Act(kind, begin_ms, time_ms, colour, spot)
        yield act
        state = _after(state, act)


def _next_person_act(rng: np.random.Generator, state: Start) -> tuple[ActKind, int]:
    choices: list[tuple[float, ActKind, int]] = [(1.0, ActKind.PERSON_GOES_IN, NO_SPOT)]
    if state.parcel:
        choices.append((1.6, ActKind.PARCEL_TAKEN, NO_SPOT))
    else:
        choices.append((1.6, ActKind.PARCEL_DELIVERED, NO_SPOT))
    for spot, colour in enumerate(state.standing):
        if colour:
            choices.append((0.7, ActKind.PERSON_GOES_IN, spot))
            choices.append((1.2, ActKind.PERSON_WALKS_AWAY, spot))
        else:
            choices.append((0.8, ActKind.PERSON_COMES_OUT, spot))
    weights = np.array([weight for weight, _, _ in choices])
    _, kind, spot = choices[int(rng.choice(len(choices), p=weights / weights.sum()))]
    return kind, spot


def _light_acts(
    rng: np.random.Generator, start: Start, start_ms: int, end_ms: int, quiet: float
) -> Iterator[Act]:
    light, time_ms = start.light, start_ms
    while True:
        time_ms += _between_ms(rng, 4 * quiet, 22 * quiet)
        if time_ms >= end_ms:
            return
        light = not light
        yield Act(ActKind.LIGHT_ON if light else ActKind.LIGHT_OFF, time_ms, time_ms)
