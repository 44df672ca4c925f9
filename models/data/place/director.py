"""Makes scripts up: who comes, when, and what they do."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from models.data.place.act import (
    CAR_KINDS,
    COLOURS,
    DOOR_KINDS,
    LIGHT_KINDS,
    LIGHTS,
    PARCEL_KINDS,
    PERSON_KINDS,
    SIDES,
    SPOTS,
    Act,
    ActKind,
)
from models.data.place.layout import random_layout
from models.data.place.look import Look
from models.data.place.path import telling_share
from models.data.place.query import Query
from models.data.place.script import Script, Start, after
from models.data.place.split import check_split, split_rng, weight

# How long each act takes, shortest and longest, in seconds: seen by two frames at least at one a second.
_SECONDS: dict[ActKind, tuple[float, float]] = {
    ActKind.CAR_ARRIVES: (2.4, 5.0),
    ActKind.CAR_LEAVES: (2.4, 5.0),
    ActKind.CAR_PASSES: (3.0, 6.0),
    ActKind.PERSON_GOES_IN: (2.6, 5.0),
    ActKind.PERSON_COMES_OUT: (2.4, 4.5),
    ActKind.PERSON_STOPS: (2.6, 4.5),
    ActKind.PERSON_WALKS_AWAY: (2.6, 4.5),
    ActKind.PERSON_WALKS_PAST: (4.0, 9.0),
    ActKind.PARCEL_DELIVERED: (4.4, 7.5),
    ActKind.PARCEL_TAKEN: (2.8, 4.5),
    ActKind.DOG_PASSES: (2.5, 6.0),
    ActKind.BIRD_PASSES: (2.0, 5.0),
}
# Pauses of each lane in a place of ordinary life, in seconds.
_PAUSES: dict[str, tuple[float, float]] = {
    "yard": (3.0, 16.0),
    "road": (6.0, 40.0),
    "people": (1.5, 8.0),
    "pavement": (6.0, 40.0),
    "door": (15.0, 60.0),
    "light": (6.0, 50.0),
    "dog": (10.0, 60.0),
    "bird": (8.0, 50.0),
}
_KINDS_OF_LANE: dict[str, tuple[ActKind, ...]] = {
    "yard": (ActKind.CAR_ARRIVES, ActKind.CAR_LEAVES),
    "road": (ActKind.CAR_PASSES,),
    "people": (),  # they hardly pause
    "pavement": (ActKind.PERSON_WALKS_PAST,),
    "door": DOOR_KINDS,
    "light": LIGHT_KINDS,
    "dog": (),
    "bird": (),
}
# What brings a state about, or ends it.
_KINDS_OF_STATE: dict[str, tuple[ActKind, ...]] = {
    "car_at_gate": (ActKind.CAR_ARRIVES, ActKind.CAR_LEAVES),
    "person_in_view": PERSON_KINDS,
    "person_at": (ActKind.PERSON_STOPS, ActKind.PERSON_COMES_OUT, ActKind.PERSON_WALKS_AWAY),
    "parcel_at_door": PARCEL_KINDS,
    "light_on": LIGHT_KINDS,
    "door_open": DOOR_KINDS,
}
_FAVOUR = 3.0
_SWITCH_MIN_MS = 3_000
# A door that stands open does so well apart from anybody's use of it.
_DOOR_CLEAR_MS = 2_500
_MOTION_LIGHT_SHARE = 0.25
# How calm the segments of an endless place are, beside its own calm: life comes and goes, and now and then a
# minute is quite still.
_MOODS = (1.0, 1.0, 1.0, 3.0, float("inf"))


class Director:
    """Draws the acts of one script. The same generator state gives the same acts.

    `calm` stretches the pauses: 1 is ordinary life, large values leave long quiet stretches, infinity nothing
    but animals and weather. `favoured`: what it asks for happens more often, and so does what is nearly that.
    """

    def __init__(
        self, rng: np.random.Generator, split: str, calm: float = 1.0, favoured: Query | None = None
    ) -> None:
        check_split(split)
        if calm <= 0:
            raise ValueError(f"calm {calm}: must be positive")
        self._rng = rng
        self._split = split
        self._calm = calm
        self._favoured = favoured
        self._favoured_kinds = frozenset[ActKind]()
        if favoured is not None:
            self._favoured_kinds = frozenset((*favoured.kinds, *_KINDS_OF_STATE.get(favoured.state, ())))

    def script(
        self, duration_s: float, *, place: Script | None = None, start: Start | None = None, start_ms: int = 0
    ) -> Script:
        """A script of `duration_s`; of the layout, look and, unless `start` is given, end of `place`."""
        if duration_s <= 0:
            raise ValueError(f"duration_s {duration_s}: must be positive")
        layout = place.layout if place is not None else random_layout(self._rng, self._split)
        look = place.look if place is not None else Look.random(self._rng)
        first = start or (place.final if place is not None else self._start())
        end_ms = start_ms + round(duration_s * 1000)
        self._layout = layout
        people = list(self._people(first, start_ms, end_ms))
        yard = list(self._yard(first, start_ms, end_ms))
        acts = [
            *people,
            *yard,
            *self._passing("pavement", ActKind.PERSON_WALKS_PAST, _standing(first, people), start_ms, end_ms),
            *self._passing("road", ActKind.CAR_PASSES, _parked(first, yard), start_ms, end_ms),
            *self._door(first, people, start_ms, end_ms),
            *self._light(LIGHTS[0], first.lights[0], (), start_ms, end_ms),
            *self._light(LIGHTS[1], first.lights[1], yard, start_ms, end_ms),
            *self._passing("dog", ActKind.DOG_PASSES, None, start_ms, end_ms),
            *self._passing("bird", ActKind.BIRD_PASSES, None, start_ms, end_ms),
        ]
        acts.sort(key=lambda act: (act.start_ms, act.end_ms, act.kind, act.place))
        return Script(start_ms, end_ms, layout, look, first, tuple(acts))

    def _start(self) -> Start:
        rng = self._rng
        colours = [str(colour) for colour in rng.permutation(COLOURS)]
        return Start(
            car=str(rng.choice(COLOURS)) if rng.random() < 0.45 else "",
            standing=tuple(colours[i] if rng.random() < 0.35 else "" for i in range(len(SPOTS))),
            parcel=bool(rng.random() < 0.4),
            lights=(bool(rng.random() < 0.4), bool(rng.random() < 0.4)),
            door_open=bool(rng.random() < 0.1),
        )

    def _act(self, kind: ActKind, start_ms: int, colour: str = "", place: str = "") -> Act:
        duration_ms = self._between_ms(*_SECONDS[kind])
        telling_ms = start_ms + round(telling_share(kind, place, self._layout) * duration_ms)
        return Act(kind, start_ms, telling_ms, start_ms + duration_ms, colour, place)

    def _people(self, start: Start, start_ms: int, end_ms: int) -> Iterator[Act]:
        state, time_ms = start, start_ms
        while (begin_ms := time_ms + self._pause_ms("people")) < end_ms:
            kind, spot, colour = self._next_person_act(state)
            act = self._act(kind, begin_ms, colour, spot)
            if act.end_ms >= end_ms:
                return
            yield act
            state, time_ms = after(state, act), act.end_ms

    def _next_person_act(self, state: Start) -> tuple[ActKind, str, str]:
        away = [colour for colour in COLOURS if colour not in state.standing]
        choices: list[tuple[float, ActKind, str, str]] = []

        def add(share: float, kind: ActKind, spot: str, colours: list[str]) -> None:
            choices.extend((share / len(colours), kind, spot, colour) for colour in colours)

        add(1.0, ActKind.PERSON_GOES_IN, "", away)
        add(1.6, ActKind.PARCEL_TAKEN if state.parcel else ActKind.PARCEL_DELIVERED, "", away)
        for spot, colour in zip(SPOTS, state.standing, strict=True):
            if colour:
                add(0.7, ActKind.PERSON_GOES_IN, spot, [colour])
                add(1.1, ActKind.PERSON_WALKS_AWAY, spot, [colour])
            else:
                add(0.7, ActKind.PERSON_COMES_OUT, spot, away)
                add(0.8, ActKind.PERSON_STOPS, spot, away)
        weights = [share * self._weight(kind, colour, spot) for share, kind, spot, colour in choices]
        _, kind, spot, colour = choices[self._draw(weights)]
        return kind, spot, colour

    def _yard(self, start: Start, start_ms: int, end_ms: int) -> Iterator[Act]:
        car, time_ms = start.car, start_ms
        while (begin_ms := time_ms + self._pause_ms("yard")) < end_ms:
            if car:
                act = self._act(ActKind.CAR_LEAVES, begin_ms, car)
            else:
                act = self._act(ActKind.CAR_ARRIVES, begin_ms, self._colour(ActKind.CAR_ARRIVES, set()))
            if act.end_ms >= end_ms:
                return
            yield act
            car, time_ms = "" if car else act.colour, act.end_ms

    def _passing(
        self,
        lane: str,
        kind: ActKind,
        present: Callable[[int, int], set[str]] | None,
        start_ms: int,
        end_ms: int,
    ) -> Iterator[Act]:
        """Whoever only passes: in no colour that is `present` meanwhile; animals, without that, have none."""
        time_ms = start_ms
        while (begin_ms := time_ms + self._pause_ms(lane)) < end_ms:
            side = SIDES[int(self._rng.integers(2))]
            act = self._act(kind, begin_ms, "", side)
            if act.end_ms >= end_ms:
                return
            if present is not None:
                taken = present(act.start_ms, act.end_ms)
                act = replace(act, colour=self._colour(kind, taken))
            time_ms = act.end_ms
            if act.colour or present is None:
                yield act

    def _colour(self, kind: ActKind, taken: set[str]) -> str:
        """ "" if every colour that may do this is taken."""
        weights = [0.0 if colour in taken else self._weight(kind, colour) for colour in COLOURS]
        return COLOURS[self._draw(weights)] if any(weights) else ""

    def _door(self, start: Start, people: list[Act], start_ms: int, end_ms: int) -> Iterator[Act]:
        is_open, time_ms = start.door_open, start_ms
        while (
            moment_ms := time_ms + max(_SWITCH_MIN_MS, self._pause_ms("door") // (3 if is_open else 1))
        ) < end_ms:
            time_ms = moment_ms
            clear = all(
                moment_ms < act.start_ms - _DOOR_CLEAR_MS or moment_ms > act.end_ms + _DOOR_CLEAR_MS
                for act in people
            )
            if clear:
                is_open = not is_open
                kind = ActKind.DOOR_OPENS if is_open else ActKind.DOOR_CLOSES
                yield Act(kind, moment_ms, moment_ms, moment_ms)

    def _light(
        self, place: str, is_on: bool, cars: list[Act] | tuple[()], start_ms: int, end_ms: int
    ) -> Iterator[Act]:
        """Switched now and then; some lamps also by the cars that come and go, the moment they do."""
        moments = []
        time_ms = start_ms
        while (time_ms := time_ms + self._pause_ms("light")) < end_ms:
            moments.append(time_ms)
        if cars and self._rng.random() < _MOTION_LIGHT_SHARE:
            moments = sorted([*moments, *(car.end_ms for car in cars if car.kind in CAR_KINDS)])
        last_ms = start_ms
        for moment_ms in moments:
            if moment_ms - last_ms >= _SWITCH_MIN_MS:
                is_on, last_ms = not is_on, moment_ms
                yield Act(ActKind.LIGHT_ON if is_on else ActKind.LIGHT_OFF, *(moment_ms,) * 3, place=place)

    def _weight(self, kind: ActKind, colour: str, place: str = "") -> float:
        """How likely this is beside the other choices; those that share more with what is favoured are likelier."""
        share, favoured = weight(self._split, kind, colour) if colour else 1.0, self._favoured
        if favoured is None:
            return share
        shared = (
            kind in self._favoured_kinds,
            colour and colour == favoured.colour,
            place and place == favoured.place,
        )
        return share * _FAVOUR ** sum(map(bool, shared))

    def _pause_ms(self, lane: str) -> int:
        low, high = _PAUSES[lane]
        if not self._favoured_kinds.isdisjoint(_KINDS_OF_LANE[lane]):
            low, high = low / _FAVOUR, high / _FAVOUR
        calm = 1.0 if lane in ("dog", "bird") else self._calm
        return self._between_ms(low * calm, high * calm) if calm != float("inf") else 1 << 62

    def _between_ms(self, low_s: float, high_s: float) -> int:
        return int(self._rng.integers(round(low_s * 1000), round(high_s * 1000)))

    def _draw(self, weights: list[float]) -> int:
        edges = np.cumsum(weights)
        return int(np.searchsorted(edges, self._rng.random() * edges[-1], side="right"))


def _standing(start: Start, people: list[Act]) -> Callable[[int, int], set[str]]:
    """Colours of those who stand or walk in the yard or at the door at any time in a span."""
    states = [(-1, start)]
    for act in people:
        states.append((act.end_ms, after(states[-1][1], act)))

    def present(from_ms: int, to_ms: int) -> set[str]:
        colours: set[str] = set()
        for index, (since_ms, state) in enumerate(states):
            until_ms = states[index + 1][0] if index + 1 < len(states) else 1 << 62
            if since_ms <= to_ms and from_ms <= until_ms:
                colours |= set(state.standing)
        colours |= {act.colour for act in people if act.start_ms <= to_ms and from_ms <= act.end_ms}
        return colours - {""}

    return present


def _parked(start: Start, yard: list[Act]) -> Callable[[int, int], set[str]]:
    """Colours of the cars that are in the yard at any time in a span."""

    def present(from_ms: int, to_ms: int) -> set[str]:
        car, colours = start.car, set()
        for act in yard:
            if act.start_ms > to_ms:
                break
            colours |= {act.colour} if act.end_ms >= from_ms else set()
            car = act.colour if act.kind == ActKind.CAR_ARRIVES else ""
        return (colours | {car}) - {""}

    return present


class EndlessPlace:
    """A place that never ends: segment after segment from one seed, each going on where the last stopped.

    The same (seed, split) gives the same for ever, on any machine.
    """

    def __init__(self, seed: int, split: str = "demo", *, calm: float = 1.5, segment_s: int = 60) -> None:
        self._key = (split, seed)
        self._calm = calm
        self.segment_ms = segment_s * 1000
        # The last segment made; asking for an earlier one starts over from the first.
        self._index = -1
        self._segment: Script | None = None

    def segment(self, index: int) -> Script:
        """The script of [index * segment_ms, (index + 1) * segment_ms). ValueError if index is negative."""
        if index < 0:
            raise ValueError(f"index {index}: must not be negative")
        segment = self._segment
        if segment is None or index < self._index:
            self._index, segment = 0, self._make(0, None)
        while self._index < index:
            self._index, segment = self._index + 1, self._make(self._index + 1, segment)
        self._segment = segment
        return segment

    def script(self, until_ms: int) -> Script:
        """Everything from time 0 to the end of the segment that holds `until_ms`, as one script."""
        segments = [self.segment(index) for index in range(until_ms // self.segment_ms + 1)]
        first, last = segments[0], segments[-1]
        acts = tuple(act for segment in segments for act in segment.acts)
        return Script(0, last.end_ms, first.layout, first.look, first.start, acts)

    def _make(self, index: int, before: Script | None) -> Script:
        split, seed = self._key
        rng = split_rng(split, seed, f"segment {index}")
        director = Director(rng, split, self._calm * _MOODS[int(rng.integers(len(_MOODS)))])
        return director.script(self.segment_ms / 1000, place=before, start_ms=index * self.segment_ms)
