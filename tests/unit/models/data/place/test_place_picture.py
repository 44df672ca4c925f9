"""What labels rest on is there to be seen, large enough and unlike anything else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.data.place.act import SPOTS, Act, ActKind
from models.data.place.layout import ARRANGEMENTS, PLACE_HEIGHT, PLACE_WIDTH, Layout
from models.data.place.path import telling_share
from models.data.place.picture import PAINTS, draw, render
from models.data.place.script import Script, Start
from tests.support.place_scripts import PLAIN_LOOK, layout_of, random_script

seeds = st.integers(0, 10**6)
MIN_PIXELS = 64  # 8 x 8


def picture(script: Script, time_ms: int, shrink: int = 1) -> np.ndarray:
    size = (PLACE_HEIGHT // shrink, PLACE_WIDTH // shrink)
    image = draw(script.view(time_ms), script.layout, script.look, *size)
    return np.array(image).astype(np.int16)


def num_changed(a: np.ndarray, b: np.ndarray) -> int:
    return int((np.abs(a - b).max(axis=2) > 24).sum())


@settings(max_examples=12, deadline=None)
@given(seeds)
def test_every_act_can_be_seen_when_it_is_told_and_its_end_is_a_visible_change(seed):
    script = random_script(seed)
    for act in script.told_acts:
        alone = Script(0, 60_000, script.layout, PLAIN_LOOK, _start_of(script, act), (act,))
        before, told = picture(alone, act.start_ms - 1), picture(alone, act.telling_ms)
        # Its colour can be told apart from the first picture that tells it on.
        painted = (told == np.array(PAINTS[act.colour])).all(axis=2).sum()
        assert painted >= MIN_PIXELS
        assert num_changed(before, told) >= MIN_PIXELS
        assert num_changed(picture(alone, act.end_ms - 1), picture(alone, act.end_ms)) >= MIN_PIXELS


@pytest.mark.parametrize("arrangement", [i for i, a in enumerate(ARRANGEMENTS) if a.house_left])
def test_the_picture_that_singles_an_act_out_is_one_that_no_other_act_shows(arrangement):
    layout = layout_of(seed=arrangement + 50, arrangement=arrangement)
    for start in (Start(), Start(car="blue", standing=("green", "yellow"), parcel=True)):
        ways = {act: _pictures(layout, start, act) for act in _possible(start)}
        for act in ways:
            share = telling_share(act.kind, act.place, layout)
            singled_out = picture(_alone(layout, start, act), round(share * act.end_ms), shrink=2)
            for other, shown in ways.items():
                if other != act:
                    alike = min(num_changed(singled_out, one) for one in shown)
                    # A quarter of the pixels; some of a thing may hide behind another.
                    assert alike >= MIN_PIXELS / 4 * 3 / 4, (act, other, alike)


def _possible(start: Start) -> list[Act]:
    def act(kind: ActKind, colour: str = "red", place: str = "") -> Act:
        return Act(kind, 0, 0, 10_000, colour, place)

    acts = [
        act(ActKind.PERSON_GOES_IN),
        act(ActKind.PARCEL_TAKEN if start.parcel else ActKind.PARCEL_DELIVERED),
        act(ActKind.CAR_LEAVES, start.car) if start.car else act(ActKind.CAR_ARRIVES),
        *(act(ActKind.PERSON_WALKS_PAST, place=side) for side in ("left", "right")),
        *(act(ActKind.CAR_PASSES, place=side) for side in ("left", "right")),
    ]
    for spot, colour in zip(SPOTS, start.standing, strict=True):
        if colour:
            acts += [act(ActKind.PERSON_GOES_IN, colour, spot), act(ActKind.PERSON_WALKS_AWAY, colour, spot)]
        else:
            acts += [act(ActKind.PERSON_COMES_OUT, place=spot), act(ActKind.PERSON_STOPS, place=spot)]
    return acts


def _alone(layout: Layout, start: Start, act: Act) -> Script:
    return Script(0, 60_000, layout, PLAIN_LOOK, start, (act,))


def _pictures(layout: Layout, start: Start, act: Act) -> list[np.ndarray]:
    script = _alone(layout, start, act)
    # Whoever passes from the other side was on that side before: only the first half can be confused.
    passes = act.kind in (ActKind.CAR_PASSES, ActKind.PERSON_WALKS_PAST)
    return [picture(script, time_ms, shrink=2) for time_ms in range(0, 4000 if passes else act.end_ms, 400)]


def _start_of(script: Script, act: Act) -> Start:
    view = script.view(act.start_ms - 1)
    return Start(view.car_at_gate, view.standing, view.parcel, view.lights)


def test_whoever_is_in_view_can_be_counted():
    """At least 8 x 8 of everybody is inside the picture as long as they are there."""
    for seed in range(20):
        script = random_script(seed)
        for time_ms in range(0, 45_000, 300):
            for person in script.view(time_ms).people:
                assert 8 - 6 <= person.x <= PLACE_WIDTH - 8 + 6
                assert person.y - script.layout.person_height <= PLACE_HEIGHT - 8


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_places_keep_their_distance(seed):
    for arrangement in range(len(ARRANGEMENTS)):
        layout = layout_of(seed, arrangement)
        assert layout.house_left == (layout.door_x < PLACE_WIDTH / 2)
        assert (layout.window_x < layout.door_x) == (layout.arrangement[1] == "L")
        assert (layout.parcel_x < layout.door_x) == (layout.arrangement[2] == "L")
        assert abs(layout.gate_spot_x - layout.car_x) >= 6 + layout.car_length / 2
        assert abs(layout.parcel_x - layout.door_x) >= 9 + 5.5
        for spot in SPOTS:
            assert abs(layout.spot_x(spot) - layout.post_x) >= 8


def test_render_is_deterministic_sized_and_swings_with_the_light():
    script = random_script(3)
    shown = render(script, 12_345, 448, 560)
    assert shown.shape == (448, 560, 3) and shown.dtype == np.uint8
    assert np.array_equal(shown, render(script, 12_345, 448, 560))
    exposures = [script.look.exposure(t) for t in range(0, 120_000, 1000)]
    assert max(exposures) - min(exposures) > script.look.swing
    with pytest.raises(ValueError, match="height"):
        render(script, 0, 0, 10)
