import numpy as np

from models.data.place.act import COLOURS, ActKind
from models.data.place.script import Start
from models.data.place.truth import TRUTH_COLUMNS, truth_of
from tests.support.place_scripts import act_of, layout_of, random_script, script_of


def truth(script, time_ms):
    return dict(zip(TRUTH_COLUMNS, truth_of(script.view(time_ms), script.layout), strict=True))


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
    assert truth(script_of(), 0) == dict.fromkeys(TRUTH_COLUMNS, 0)


def test_every_class_that_can_be_seen_occurs():
    scripts = [random_script(seed, "train", 60, 0.5) for seed in range(60)]
    rows = [truth_of(s.view(t), s.layout) for s in scripts for t in range(0, 60_000, 400)]
    columns = np.array(rows).T
    for (name, size), column in zip(TRUTH_COLUMNS.items(), columns, strict=True):
        if not name.startswith("cell_"):
            assert set(column) == set(range(size)), name
    for row, col in ((1, 1), (2, 4), (3, 2)):
        assert len(set(columns[row * 5 + col])) >= 6
