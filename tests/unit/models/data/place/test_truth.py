import numpy as np
import pytest

from models.data.place.act import CAR_KINDS, COLOURS, PERSON_KINDS, TOLD_KINDS, ActKind
from models.data.place.clip import draw_clip
from models.data.place.label import label
from models.data.place.query import TASKS, Query, queries
from models.data.place.script import Start
from models.data.place.truth import (
    ACT_COLUMNS,
    ANSWERS,
    ASKED_COLUMNS,
    COORDINATES,
    JUST_BEGUN,
    JUST_OVER,
    SEEN_COLUMNS,
    UNDER_WAY,
    acts_of,
    answers_of,
    asked_of,
    coordinates_of,
    seen_of,
)
from models.data.sample import NO_ANSWER
from models.vlm.state import State
from tests.support.place_scripts import act_of, layout_of, random_script, script_of


def truth(script, time_ms):
    return dict(zip(SEEN_COLUMNS, seen_of(script.view(time_ms), script.layout), strict=True))


def test_truth_says_what_is_where():
    layout = layout_of()
    passing = act_of(ActKind.CAR_PASSES, 1000, 5000, "blue", "left")
    script = script_of(
        passing, start=Start(car="red", standing=("green", ""), parcel=True, lights=(True, False))
    )
    seen = truth(script, 3000)
    assert seen["num_people"] == 1 and seen["parked_car"] == 1 + COLOURS.index("red")
    assert (seen["at_house"], seen["at_gate"]) == (1 + COLOURS.index("green"), 0)
    assert (seen["parcel"], seen["light_window"], seen["light_gate"], seen["door_open"]) == (1, 1, 0, 0)
    assert (seen["yard_heading"], seen["road_heading"]) == (0, 2)
    col = int(layout.car_x // 28)
    assert seen[f"cell_2_{col}"] == 1 + len(COLOURS) + COLOURS.index("red")
    # Half way, the passing car is in the middle of the road.
    assert seen["cell_3_2"] == 1 + len(COLOURS) + COLOURS.index("blue")
    assert seen["cell_0_0"] == 0
    assert truth(script_of(), 0) == dict.fromkeys(SEEN_COLUMNS, 0)


def test_coordinates_say_which_way_somebody_goes():
    of_act = {
        ActKind.PERSON_WALKS_PAST: "pavement_x",
        ActKind.CAR_PASSES: "road_x",
        ActKind.PERSON_WALKS_AWAY: "walker_y",
        ActKind.PERSON_STOPS: "walker_y",
        ActKind.CAR_ARRIVES: "yard_x",
    }
    found = set()
    for seed in range(30):
        script = random_script(seed, "train", 60, 0.5)
        for act in script.told_acts:
            if name := of_act.get(act.kind):
                early, late = (
                    dict(zip(COORDINATES, coordinates_of(script.view(moment_ms)), strict=True))[name]
                    for moment_ms in (act.start_ms + 1, act.end_ms - 1)
                )
                # To the right, and down the picture, numbers grow.
                grows = {
                    ActKind.PERSON_WALKS_AWAY: True,
                    ActKind.PERSON_STOPS: False,
                    ActKind.CAR_ARRIVES: script.layout.inward < 0,
                }.get(act.kind, act.place == "right")
                assert (late > early) == grows, act
                assert max(abs(early), abs(late)) < 3
                found.add((act.kind, grows))
    assert len(found) == 8
    still = coordinates_of(script_of(start=Start(standing=("green", ""))).view(0))
    assert np.isnan(still).all()


def test_coordinates_are_there_as_often_as_is_said():
    clips = [draw_clip(seed, "train", 24) for seed in range(60)]
    rows = np.array([coordinates_of(view) for clip in clips for view in clip.views])
    assert (~np.isnan(rows)).mean(0).tolist() == pytest.approx(list(COORDINATES.values()), abs=0.08)


def test_every_class_that_can_be_seen_occurs():
    scripts = [random_script(seed, "train", 60, 0.5) for seed in range(60)]
    rows = [seen_of(s.view(t), s.layout) for s in scripts for t in range(0, 60_000, 400)]
    columns = np.array(rows).T
    for (name, size), column in zip(SEEN_COLUMNS.items(), columns, strict=True):
        if not name.startswith("cell_"):
            assert set(column) == set(range(size)), name
    for row, col in ((1, 1), (2, 4), (3, 2)):
        assert len(set(columns[row * 5 + col])) >= 6


def test_what_goes_on_is_what_the_labels_tell():
    everything, sights = Query("event", TOLD_KINDS), Query("narration", TOLD_KINDS)
    told = set()
    for seed in range(12):
        clip = draw_clip(seed, "train", 40, calm=0.6)
        rounds = label(clip.script.told_acts, clip.views, clip.times_ms, everything)
        first_sights = label(clip.script.told_acts, clip.views, clip.times_ms, sights)
        rows = acts_of(clip.script.told_acts, clip.views, clip.times_ms)
        for round_, sight, row in zip(rounds, first_sights, rows, strict=True):
            acts = {name: int(value) for name, value in zip(ACT_COLUMNS, row, strict=True) if value}
            lasting = [acts[kind] for kind in (*CAR_KINDS, *PERSON_KINDS) if kind in acts]
            switched = [name for name in acts if name.startswith(("door", "light"))]
            assert (round_.state is State.RESPONSE) == (JUST_OVER in lasting or bool(switched))
            assert round_.state is not State.STANDBY or {JUST_BEGUN, UNDER_WAY} & set(lasting)
            assert len(round_.text.split("; ")) >= lasting.count(JUST_OVER) + len(switched) or not round_.text
            # Narration tells what begins, and switches too, unless somebody uses the door.
            assert JUST_BEGUN not in lasting or sight.state is State.RESPONSE
            assert sight.state is State.SILENCE or JUST_BEGUN in lasting or switched
            # Who does it and where stands beside every act, and beside nothing else.
            for kind in (*CAR_KINDS, *PERSON_KINDS):
                assert (kind in acts) == (f"{kind}_colour" in acts)
                assert f"{kind}_place" not in ACT_COLUMNS or (kind in acts) == (f"{kind}_place" in acts)
            told |= set(acts)
    assert told == set(ACT_COLUMNS)


def test_answers_are_what_the_frames_show_whether_told_or_not():
    told = set()
    for seed in range(40):
        clip = draw_clip(seed, "train", 24, "qa", calm=0.5)
        answers = answers_of(clip.query, clip.views)
        assert (answers >= 0).all()
        standing = None
        for round_, now in zip(clip.rounds, answers, strict=True):
            standing = round_.text or standing
            # Before it is asked nothing is told; from then on what was told last holds.
            assert standing is None or ANSWERS[now] == standing
        told |= {ANSWERS[now] for now in answers}
    assert len(told) > len(ANSWERS) // 2
    other = draw_clip(0, "train", 5, "event")
    assert answers_of(other.query, other.views).tolist() == [NO_ANSWER] * 5


def test_no_two_queries_ask_the_same():
    asked = [asked_of(query) for task in TASKS for query in queries(task)]
    assert len(set(asked)) == len(asked)
    assert all(0 <= a < size for row in asked for a, size in zip(row, ASKED_COLUMNS.values(), strict=True))
