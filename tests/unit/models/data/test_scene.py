import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.data.render import render
from models.data.scene import (
    CAR_KINDS,
    LIGHT_KINDS,
    PERSON_KINDS,
    SPLITS,
    EndlessScene,
    SceneScript,
    scene_rng,
)

seeds = st.integers(0, 10**6)


def script_of(seed: int, duration_s: float = 60) -> SceneScript:
    return SceneScript.random(scene_rng("test", seed), duration_s)


@given(seeds)
def test_same_seed_same_script_and_json_round_trip(seed):
    script = script_of(seed)
    assert script == script_of(seed)
    assert SceneScript.from_json(script.to_json()) == script


@given(seeds)
def test_acts_of_a_lane_never_overlap_and_fit_the_script(seed):
    script = script_of(seed)
    for kinds in (CAR_KINDS, PERSON_KINDS, LIGHT_KINDS):
        lane = [act for act in script.acts if act.kind in kinds]
        for earlier, later in itertools.pairwise(lane):
            assert earlier.end_ms < later.start_ms
        for act in lane:
            assert script.start_ms < act.start_ms <= act.telling_ms <= act.end_ms < script.end_ms


@given(seeds)
def test_people_in_view_have_different_colours(seed):
    script = script_of(seed)
    for time_ms in range(0, 60_000, 500):
        colours = [person.colour for person in script.view(time_ms).persons]
        assert len(colours) == len(set(colours))


@given(seeds, st.integers(0, 60_000))
def test_shifting_moves_everything_by_the_same_time(seed, time_ms):
    script = script_of(seed)
    assert script.shifted(987_654).view(time_ms + 987_654) == script.view(time_ms)


@given(seeds)
def test_final_state_is_what_the_end_shows(seed):
    script = script_of(seed)
    last, final = script.view(script.end_ms), script.final
    assert (last.car, last.standing, last.parcel, last.light) == (
        final.car,
        final.standing,
        final.parcel,
        final.light,
    )


@settings(max_examples=20)
@given(seeds)
def test_every_act_is_to_be_seen(seed):
    """The picture when an act is told apart differs from the one before it began."""
    script = script_of(seed)
    for act in script.acts:
        before = render(script, act.start_ms - 1, 84, 112).astype(int)
        told = render(script, act.telling_ms, 84, 112).astype(int)
        assert (np.abs(told - before).max(axis=2) > 20).sum() >= 40


def test_render_is_deterministic_and_sized():
    script = script_of(3)
    picture = render(script, 12_345, 336, 448)
    assert picture.shape == (336, 448, 3) and picture.dtype == np.uint8
    assert np.array_equal(picture, render(script, 12_345, 336, 448))
    with pytest.raises(ValueError, match="height"):
        render(script, 0, 0, 10)


def test_endless_scene_is_one_scene_without_seams():
    scene = EndlessScene(11)
    whole = scene.script(until_ms=200_000)
    assert whole.end_ms == 240_000
    for index in range(4):
        segment = scene.segment(index)
        for time_ms in range(segment.start_ms, segment.end_ms, 700):
            assert segment.view(time_ms) == whole.view(time_ms)
    assert EndlessScene(11).segment(3) == scene.segment(3)
    # Going back gives the same again.
    assert scene.segment(1) == EndlessScene(11).segment(1)
    assert {act.kind for act in EndlessScene(1).script(600_000).acts} == {
        *CAR_KINDS,
        *PERSON_KINDS,
        *LIGHT_KINDS,
    }


def test_splits_draw_from_disjoint_generators():
    states = {
        (split, seed): scene_rng(split, seed, "sample").bit_generator.state["state"]["state"]
        for split in SPLITS
        for seed in range(2000)
    }
    assert len(set(states.values())) == len(states)
    with pytest.raises(ValueError, match="split"):
        scene_rng("holdout", 1)


def test_caller_mistakes_are_told():
    with pytest.raises(ValueError, match="duration_s"):
        script_of(1, 0)
    with pytest.raises(ValueError, match="quiet"):
        SceneScript.random(scene_rng("test", 1), 10, quiet=0)
    with pytest.raises(ValueError, match="index"):
        EndlessScene(1).segment(-1)
