"""Golden cases of the official scorer's rules, worked out by hand, beside the strict reading of the same answers."""

import json

import pytest

from models.evaluation.benchmarks.ovo_score import (
    Reply,
    is_right_officially,
    is_right_strictly,
    read_results,
    score_results,
)


def choice(task, gold, response, identity="1"):
    return {"id": identity, "task": task, "ground_truth": gold, "response": response}


@pytest.mark.parametrize(
    ("kind", "gold", "response", "official", "strict"),
    [
        ("choice", "B", "B", True, True),
        ("choice", "B", " (B) ", True, True),
        ("choice", "B", "B. the red one", True, True),
        ("choice", "B", "The answer is B", True, False),
        ("choice", "A", "ABCD", True, False),
        ("choice", "A", "Absolutely not", True, False),
        ("choice", "B", "b", False, False),
        ("choice", "B", "", False, False),
        ("choice", "B", None, False, False),
        ("choice", "B", ["B", "C"], True, True),
        ("choice", "C", ["B", "C"], True, False),
        ("choice", "B", ["B."], False, True),
        ("count", "3", "3", True, True),
        ("count", "3", " 3. ", True, True),
        ("count", "3", "They did it 3 times", True, False),
        ("count", "12", "1 or 2", True, False),
        ("count", "3", "03", False, True),
        ("count", "3", "three", False, False),
        ("count", "3", ["3"], True, True),
        ("count", "0", None, False, False),
        ("yes_no", "Yes", "Yes", True, True),
        ("yes_no", "Yes", "Y", True, True),
        ("yes_no", "No", "N", True, True),
        ("yes_no", "Yes", "yes", False, True),
        ("yes_no", "No", "Yes No", True, False),
        ("yes_no", "Yes", "Yes No", True, False),
        ("yes_no", "No", "Not sure", True, False),
        ("yes_no", "No", "No, not yet.", True, True),
        ("yes_no", "No", None, False, False),
    ],
)
def test_what_counts_as_right(kind, gold, response, official, strict):
    reply = Reply("", "", kind, gold, response)
    assert is_right_officially(reply) is official
    assert is_right_strictly(reply) is strict


RESULTS = {
    # EPM 1 of 2, ASI 1 of 1: the group is the mean of tasks, 75, and not 2 of 3.
    "backward": [
        choice("EPM", "A", "A"),
        choice("EPM", "B", "I think A.", "2"),
        choice("ASI", "C", "It must be C", "3"),
    ],
    "realtime": [choice("OCR", "D", None), choice("OCR", "D", "D", "2")],
    "forward": [
        {
            "id": "1",
            "task": "REC",
            "test_info": [{"count": 0, "response": "0"}, {"count": 1, "response": "2"}],
        },
        {
            "id": "2",
            "task": "CRR",
            "test_info": [
                {"type": 0, "response": "No"},
                {"type": 1, "response": "No"},
                {"type": 1, "response": "Yes No"},
            ],
        },
    ],
}


def test_tasks_groups_and_total():
    score = score_results(RESULTS)
    assert score.tasks["backward"]["EPM"].official == 50
    assert score.tasks["backward"]["ASI"].official == 100 and score.tasks["backward"]["ASI"].strict == 0
    assert score.tasks["realtime"]["OCR"].official == 50 and score.tasks["realtime"]["OCR"].num_silent == 1
    assert score.tasks["forward"]["REC"].official == 50
    assert score.tasks["forward"]["CRR"].official == pytest.approx(200 / 3)
    assert score.tasks["forward"]["CRR"].strict == pytest.approx(100 / 3)
    assert score.groups["backward"]["official"] == 75
    assert score.groups["forward"]["official"] == pytest.approx((50 + 200 / 3) / 2)
    assert score.total is not None
    assert score.total["official"] == pytest.approx((75 + 50 + (50 + 200 / 3) / 2) / 3)
    assert score.remarks == ("1 of 10 answers are missing (null): wrong in every reading",)


def test_floors_are_what_the_best_constant_answer_gets():
    score = score_results(RESULTS)
    assert (score.tasks["backward"]["EPM"].floor, score.tasks["backward"]["EPM"].floor_answer) == (50, "A")
    assert (score.tasks["realtime"]["OCR"].floor, score.tasks["realtime"]["OCR"].floor_answer) == (100, "D")
    crr = score.tasks["forward"]["CRR"]
    assert (crr.floor, crr.floor_answer) == (100, "Yes No")
    assert crr.strict_floor == pytest.approx(200 / 3)


def test_a_missing_group_leaves_no_total():
    score = score_results({**RESULTS, "realtime": []})
    assert score.total is None
    assert "no results of realtime: there is no total" in score.remarks[0]


def test_an_item_that_is_not_whole_is_named():
    broken = {**RESULTS, "realtime": [{"id": "77", "task": "OCR", "ground_truth": "A"}]}
    with pytest.raises(ValueError, match="realtime item 77: 'response' is missing"):
        score_results(broken)


@pytest.mark.parametrize(
    ("group", "item", "told"),
    [
        ("backward", "x", r"backward item \?: must be an object"),
        ("backward", choice("EPM", "A", 3), "backward item 1: response: "),
        ("backward", choice("EPM", 0, "A"), "backward item 1: ground_truth: must be a string"),
        ("forward", {"id": 5, "task": "XYZ", "test_info": []}, "forward item 5: task: must be one of REC"),
        ("forward", {"id": 5, "test_info": []}, "forward item 5: task: must be one of REC"),
        ("forward", {"id": 5, "task": "REC", "test_info": 3}, "forward item 5: test_info: "),
        (
            "forward",
            {"id": 5, "task": "CRR", "test_info": [{"type": "0", "response": "No"}]},
            r"forward item 5: test_info\.0\.type: ",
        ),
    ],
)
def test_what_cannot_be_scored_is_named(group, item, told):
    with pytest.raises(ValueError, match=told):
        score_results({**RESULTS, group: [*RESULTS[group], item]})


def test_files_of_one_mode_are_joined_and_modes_are_not(tmp_path):
    def write(name, results, mode=None):
        path = tmp_path / name
        path.write_text(json.dumps({**results, **({"streamo": {"mode": mode}} if mode else {})}))
        return path

    half = {"backward": RESULTS["backward"], "realtime": [], "forward": []}
    rest = {"backward": [], "realtime": RESULTS["realtime"], "forward": RESULTS["forward"]}
    found = read_results([write("a", half), write("b", rest), write("c", RESULTS, "push")])
    assert found == {"": RESULTS, "push": RESULTS}
    twice = read_results([write("a", RESULTS), write("b", RESULTS)])[""]
    assert "backward: 3 items are there more than once and count each time" in score_results(twice).remarks
    (tmp_path / "d").write_text("[]")
    with pytest.raises(ValueError, match="d is no result file"):
        read_results([tmp_path / "d"])
    (tmp_path / "e").write_text(json.dumps({**RESULTS, "streamo": "push"}))
    with pytest.raises(ValueError, match="e: streamo: must be an object"):
        read_results([tmp_path / "e"])
