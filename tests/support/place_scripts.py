"""Scripts of the watched place: made by hand, or drawn."""

from dataclasses import replace

import numpy as np

from models.data.place.act import SWITCH_KINDS, Act, ActKind
from models.data.place.director import Director
from models.data.place.layout import ARRANGEMENTS, Layout
from models.data.place.look import Look
from models.data.place.path import telling_share
from models.data.place.script import Script, Start
from models.data.place.split import split_rng

PLAIN_LOOK = Look(0, "day", 0, False, False, False, False, False, (), 0.0, 60.0, 0.0)


def layout_of(seed: int = 0, arrangement: int = 0) -> Layout:
    return Layout.random(np.random.default_rng(seed), ARRANGEMENTS[arrangement])


def script_of(*acts: Act, start: Start | None = None, layout: Layout | None = None) -> Script:
    return Script(0, 60_000, layout or layout_of(), PLAIN_LOOK, start or Start(), acts)


def act_of(kind: ActKind, start_ms: int, end_ms: int | None = None, colour: str = "", place: str = "") -> Act:
    if kind in SWITCH_KINDS:
        return Act(kind, start_ms, start_ms, start_ms, colour, place)
    assert end_ms is not None
    telling_ms = start_ms + round(telling_share(kind, place, layout_of()) * (end_ms - start_ms))
    return Act(kind, start_ms, telling_ms, end_ms, colour, place)


def random_script(seed: int, split: str = "test", duration_s: float = 45, calm: float = 0.6) -> Script:
    return Director(split_rng(split, seed, "script"), split, calm).script(duration_s)


def frame_times(seed: int, count: int = 30) -> list[int]:
    return [int(t) for t in np.cumsum(np.random.default_rng(seed).integers(300, 1500, size=count))]


def with_other_future(script: Script, other: Script, now_ms: int) -> Script:
    """What has begun by `now_ms` stays; what comes later is the other's."""
    past = [act for act in script.acts if act.start_ms <= now_ms]
    free_ms = max((act.end_ms for act in past), default=0)
    future = [act for act in other.acts if act.start_ms > max(now_ms, free_ms)]
    return replace(script, acts=(*past, *future))
