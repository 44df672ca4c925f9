import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.data.place.act import PERSON_KINDS, SPOTS, TOLD_KINDS, ActKind
from models.data.place.director import Director, EndlessPlace
from models.data.place.layout import ARRANGEMENTS, HELD_OUT_ARRANGEMENTS, held_out
from models.data.place.script import LANES, Script, lane_of
from models.data.place.split import HELD_OUT_COMBINATIONS, SPLITS, split_rng
from tests.support.place_scripts import random_script

seeds = st.integers(0, 10**6)


@settings(max_examples=40, deadline=None)
@given(seeds)
def test_same_seed_same_script_and_json_round_trip(seed):
    script = random_script(seed)
    assert script == random_script(seed)
    assert Script.from_json(script.to_json()) == script


@settings(max_examples=60, deadline=None)
@given(seeds)
def test_acts_of_a_lane_never_overlap_and_fit_the_script(seed):
    script = random_script(seed)
    for name in LANES:
        lane = [act for act in script.acts if lane_of(act) == name]
        assert all(a.end_ms < b.start_ms for a, b in itertools.pairwise(lane))
        for act in lane:
            assert script.start_ms < act.start_ms <= act.telling_ms <= act.end_ms < script.end_ms
            assert act.telling_ms < act.end_ms or act.start_ms == act.end_ms


@settings(max_examples=40, deadline=None)
@given(seeds)
def test_people_in_view_and_cars_in_view_have_different_colours(seed):
    script = random_script(seed)
    for time_ms in range(0, 45_000, 500):
        view = script.view(time_ms)
        for things in (view.people, view.cars):
            colours = [thing.colour for thing in things]
            assert len(colours) == len(set(colours))


@settings(max_examples=40, deadline=None)
@given(seeds)
def test_acts_follow_from_what_is_there(seed):
    """Nobody leaves who is not there, no parcel is taken that was not brought."""
    script = random_script(seed)
    for act in script.acts:
        before, done = script.view(act.start_ms - 1), script.view(act.end_ms)
        match act.kind:
            case ActKind.CAR_ARRIVES:
                assert (before.car_at_gate, done.car_at_gate) == ("", act.colour)
            case ActKind.CAR_LEAVES:
                assert (before.car_at_gate, done.car_at_gate) == (act.colour, "")
            case ActKind.PARCEL_DELIVERED | ActKind.PARCEL_TAKEN:
                brought = act.kind == ActKind.PARCEL_DELIVERED
                assert (before.parcel, done.parcel) == (not brought, brought)
            case ActKind.DOOR_OPENS | ActKind.DOOR_CLOSES:
                opens = act.kind == ActKind.DOOR_OPENS
                assert (before.door_open, done.door_open) == (not opens, opens)
                # Nobody who might have done it is near the door.
                around = [script.view(act.start_ms + ms) for ms in (-2400, -1200, 1200, 2400)]
                assert not any(view.door_in_use for view in (before, done, *around))
            case ActKind.PERSON_STOPS | ActKind.PERSON_COMES_OUT:
                assert done.standing[SPOTS.index(act.place)] == act.colour
            case ActKind.PERSON_WALKS_AWAY:
                assert before.standing[SPOTS.index(act.place)] == act.colour
                assert done.standing[SPOTS.index(act.place)] == ""


@settings(max_examples=30, deadline=None)
@given(seeds, st.integers(0, 45_000))
def test_shifting_moves_everything_but_the_weather(seed, time_ms):
    script = random_script(seed)
    moved, still = script.shifted(2_800_000).view(time_ms + 2_800_000), script.view(time_ms)
    assert moved == still  # a whole number of the wind's periods


@settings(max_examples=30, deadline=None)
@given(seeds)
def test_final_state_is_what_the_end_shows(seed):
    script = random_script(seed)
    last, final = script.view(script.end_ms), script.final
    assert (last.car_at_gate, last.standing, last.parcel, last.lights) == (
        final.car,
        final.standing,
        final.parcel,
        final.lights,
    )


def test_endless_place_is_one_place_without_seams():
    place = EndlessPlace(11)
    whole = place.script(until_ms=200_000)
    assert whole.end_ms == 240_000
    for index in range(4):
        segment = place.segment(index)
        for time_ms in range(segment.start_ms, segment.end_ms, 700):
            assert segment.view(time_ms) == whole.view(time_ms)
    assert EndlessPlace(11).segment(3) == place.segment(3)
    # Going back gives the same again.
    assert place.segment(1) == EndlessPlace(11).segment(1)
    assert EndlessPlace(12).segment(0) != place.segment(0)
    # Hours on, no place has run dry.
    late = EndlessPlace(1).script(3_600_000)
    kinds = {act.kind for act in late.acts if act.start_ms > 1_800_000}
    assert kinds >= set(TOLD_KINDS)
    # Life comes and goes: there are still minutes, and never an hour of them.
    told_ms = [act.start_ms for act in late.acts if act.kind in TOLD_KINDS]
    assert 60_000 < max(b - a for a, b in itertools.pairwise(told_ms)) < 1_200_000


def test_quiet_place_shows_animals_and_weather_only():
    script = Director(split_rng("test", 5), "test", float("inf")).script(600)
    assert script.acts and not script.told_acts
    assert all(not act.colour for act in script.acts)


def test_splits_draw_from_disjoint_generators():
    states = {
        (split, seed): split_rng(split, seed, "clip").bit_generator.state["state"]["state"]
        for split in SPLITS
        for seed in range(2000)
    }
    assert len(set(states.values())) == len(states)
    with pytest.raises(ValueError, match="split"):
        split_rng("holdout", 1)


def test_held_out_things_are_in_the_test_set_alone():
    shown: dict[str, set[tuple[ActKind, str]]] = {}
    arrangements: dict[str, set[str]] = {}
    for split in SPLITS:
        scripts = [random_script(seed, split, 60, 0.5) for seed in range(60)]
        shown[split] = {(act.kind, act.colour) for script in scripts for act in script.told_acts}
        arrangements[split] = {script.layout.arrangement for script in scripts}
        assert any(held_out(script.layout) for script in scripts) == (split == "test")
        assert (shown[split] & HELD_OUT_COMBINATIONS == set()) == (split != "test")
    assert shown["test"] >= HELD_OUT_COMBINATIONS
    assert len(arrangements["test"]) == len(ARRANGEMENTS)
    # Each part of what is held out is common in training.
    assert len(arrangements["train"]) == len(ARRANGEMENTS) - len(HELD_OUT_ARRANGEMENTS)
    for side in range(3):
        kept = {a[side] for a in ARRANGEMENTS if a not in HELD_OUT_ARRANGEMENTS}
        assert kept == {True, False}
    for kind, colour in HELD_OUT_COMBINATIONS:
        assert any(k == kind for k, _ in shown["train"])
        assert any(c == colour and (k in PERSON_KINDS) == (kind in PERSON_KINDS) for k, c in shown["train"])


def test_caller_mistakes_are_told():
    with pytest.raises(ValueError, match="duration_s"):
        random_script(1, duration_s=0)
    with pytest.raises(ValueError, match="calm"):
        random_script(1, calm=0)
    with pytest.raises(ValueError, match="index"):
        EndlessPlace(1).segment(-1)
