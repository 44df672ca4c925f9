"""Resampling of whole groups, and of two runs together."""

import math
from dataclasses import replace

import numpy as np
import pytest

from models.data.place.wording import parse_text
from models.evaluation.bootstrap import Resampling
from models.evaluation.report import Comparison, ScoredRun, verdict, write_comparison, write_report
from models.evaluation.scores import SCORES
from models.evaluation.suite import SuiteRun
from models.evaluation.tally import tally

RED = "a red car arrived"
BY_NAME = {score.name: score for score in SCORES}
RECALL = BY_NAME["event_recall"]


@pytest.fixture
def some(record):
    def make(hits, *, group=lambda i: f"g{i}", kind="lively", task="event"):
        return [
            record(
                task,
                "---R----",
                "---R----" if hit else "--------",
                {3: RED},
                {3: RED},
                name=f"{kind}{i}",
                group=group(i),
                kind=kind,
            )
            for i, hit in enumerate(hits)
        ]

    return make


def estimate(records, score=RECALL, **options):
    tallies = [tally(one, parse_text) for one in records]
    return Resampling(records, **options).estimate(score, tallies, range(len(records)))


def test_the_interval_is_that_of_a_share(some):
    one = estimate(some([True, False] * 50), num_resamples=4000)
    assert one.value == 0.5
    # 100 streams of one event: 1.96 * sqrt(0.25 / 100) is 0.098.
    assert one.low == pytest.approx(0.402, abs=0.015) and one.high == pytest.approx(0.598, abs=0.015)


def test_streams_of_one_group_are_drawn_together(some):
    hits = [True, True, False, False] * 10
    apart = estimate(some(hits))
    together = estimate(some(hits, group=lambda i: f"g{i // 2}"))
    assert together.value == apart.value
    assert together.high - together.low > 1.2 * (apart.high - apart.low)


def test_kinds_keep_their_share(some):
    # All lively streams hit and no quiet one does: drawn within their kind, the recall is the same every time.
    records = some([True] * 10) + some([False] * 10, kind="quiet", group=lambda i: f"q{i}")
    one = estimate(records)
    assert one.low == one.value == one.high == 0.5


def test_one_group_alone_has_no_interval(some):
    one = estimate(some([True, False, True], group=lambda i: "g"))
    assert one.value == pytest.approx(2 / 3) and math.isnan(one.low) and math.isnan(one.high)
    other = difference(some([False], group=lambda i: "g"), some([True], group=lambda i: "g"))
    assert other.value == 1 and verdict(RECALL, other) == ""
    # Nor has what rests on it and on others.
    assert math.isnan(estimate(some([True, False]) + some([True], kind="quiet")).low)


def test_a_video_is_drawn_with_all_its_tasks(some):
    videos = [group for task in ("event", "action") for group in some([True] * 6, task=task)]
    weights = Resampling(videos).weights
    assert (weights[:, :6] == weights[:, 6:]).all()
    assert (weights.sum(axis=1) == 12).all() and (weights != 1).any()


def test_nothing_to_score_is_no_number(some):
    one = estimate(some([True]), BY_NAME["span_miou"])
    assert math.isnan(one.value) and math.isnan(one.low) and math.isnan(one.high)


def scored(records, name="run"):
    run = SuiteRun(name, {"model": name, "source": {"source": "simulated"}}, tuple(records))
    return ScoredRun(run, parse_text)


def difference(before, after, score=RECALL):
    found = {
        (task, one.name): diff for task, one, _, _, diff in Comparison(scored(before), scored(after)).rows()
    }
    return found["event", score.name]


def test_a_difference_is_paired(some):
    # B hits what A hits and one in ten more: unpaired, the intervals overlap widely.
    hits = np.arange(200) % 2 == 0
    more = hits | (np.arange(200) % 10 == 1)
    one = difference(some(hits), some(more))
    assert one.value == pytest.approx(0.1)
    assert 0.05 < one.low < 0.1 < one.high < 0.15
    assert one.above_zero == 1
    assert verdict(RECALL, one) == "B better"
    back = difference(some(more), some(hits))
    assert (back.low, back.high) == pytest.approx((-one.high, -one.low))
    assert verdict(RECALL, back) == "A better"


def test_a_run_does_not_differ_from_itself(some):
    one = difference(some([True, False]), some([True, False]))
    assert (one.value, one.low, one.high, one.above_zero) == (0, 0, 0, 0.5)
    assert verdict(RECALL, one) == ""


def test_less_is_better_for_false_alarms(some):
    one = difference(some([True] * 4), some([False] * 4), BY_NAME["time_diff_s"])
    assert one.value == 4  # the last frame is 4 s after the gold one
    assert verdict(BY_NAME["time_diff_s"], one) == "A better"


def test_runs_over_other_streams_are_not_compared(some):
    with pytest.raises(ValueError, match="1 differ, lively2 first"):
        Comparison(scored(some([True] * 3)), scored(some([True] * 2)))


def test_runs_of_other_questions_or_another_reading_are_not_compared(some):
    one = some([True] * 3)
    other = [replace(record, instruction="Tell me.") for record in one]
    with pytest.raises(ValueError, match="3 differ, lively0 first"):
        Comparison(scored(one), scored(other))
    strict, loose = (
        ScoredRun(
            SuiteRun("run", {"source": {"source": "clips", "min_word_f1": least}}, tuple(one)), parse_text
        )
        for least in (1.0, 0.7)
    )
    with pytest.raises(ValueError, match=r"min_word_f1 is 1\.0 in one and 0\.7 in the other"):
        Comparison(strict, loose)


def test_reports_say_what_was_scored(some, tmp_path):
    records = some([True, True, False])
    write_report(tmp_path, scored(records), {"events.png": "Events"})
    text = (tmp_path / "report.md").read_text()
    assert "event recall | 0.667 [0.000, 1.000]" in text
    assert "Fewer than 5 quiet hours** of event" in text
    assert "![Events](events.png)" in text
    write_comparison(tmp_path, Comparison(scored(records, "one"), scored(records, "other")))
    assert (
        "| event recall | 0.667 | 0.667 | 0.000 [0.000, 0.000] |" in (tmp_path / "comparison.md").read_text()
    )
    for name in ("report.json", "comparison.json"):
        assert "NaN" not in (tmp_path / name).read_text()
