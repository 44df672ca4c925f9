"""Every score of the suite on streams small enough to be worked out by hand."""

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.data.place.wording import parse_text
from models.data.sample import Round
from models.evaluation.caption import CaptionReader
from models.evaluation.scores import SCORES
from models.evaluation.stream import StreamRecord
from models.evaluation.tally import tally
from models.vlm.state import State

RED, BLUE = "a red car arrived", "a blue car arrived"
FORMULAS = {score.name: score.formula for score in SCORES}


def value(name, *records):
    total = Counter()
    for one in records:
        total.update(tally(one, parse_text))
    return float(FORMULAS[name](total))


def test_macro_f1_is_exact_per_frame_over_the_states_of_gold(record):
    one = record("event", "--------ss", "-------sss")
    # Silence: 7 right of 8, told 7 -> 14/15. Standby: 2 right of 2, told 3 -> 4/5. Response is not in gold.
    assert value("state_macro_f1", one) == pytest.approx((14 / 15 + 4 / 5) / 2)
    # A state that is told but not in gold costs the others, and is no class of its own.
    two = record("event", "----", "---R")
    assert value("state_macro_f1", two) == pytest.approx(6 / 7)
    # Pooled is over all frames, not the mean of streams.
    pooled = ((2 * 10) / (12 + 10) + 4 / 5) / 2
    assert value("state_macro_f1", one, two) == pytest.approx(pooled)


@pytest.mark.parametrize(
    ("told", "texts", "right", "num_told"),
    [
        ("-----R-----", {5: RED}, 1, 1),
        ("-------R---", {7: RED}, 1, 1),  # 2 s late
        ("--------R--", {8: RED}, 0, 1),  # 3 s late: a miss and a false one
        ("---R-------", {3: RED}, 1, 1),  # 2 s early
        ("-----R-----", {5: BLUE}, 0, 1),  # wrong colour
        ("-----R-----", {5: "nonsense"}, 0, 1),
        ("-----RR----", {5: RED, 6: RED}, 1, 2),  # a duplicate is false
        ("-----R-----", {5: f"{RED}; {BLUE}"}, 1, 2),
        ("-----------", {}, 0, 0),
    ],
)
def test_event_precision_and_recall(record, told, texts, right, num_told):
    one = record("event", "---ssR-----", told, {5: RED}, texts)
    assert value("event_recall", one) == right
    precision = value("event_precision", one)
    assert math.isnan(precision) if num_told == 0 else precision == right / num_told


def test_matching_is_the_best_not_the_first(record):
    # The told one at 4 s lies nearest to the gold at 4 s, but has to serve the one at 6 s for both to be told.
    one = record("event", "---R-R----", "-R-R------", {3: RED, 5: RED}, {1: RED, 3: RED})
    assert value("event_recall", one) == 1


def test_onsets_count_whatever_is_said(record):
    one = record("event", "----R----R---", "-----R-----RR", {4: RED, 9: RED}, {5: "x", 11: "y", 12: "z"})
    # One a second late, one 2 s late, one 3 s late of which the gold is taken.
    assert [value(f"onset_recall_{s}s", one) for s in (1, 2, 3)] == [0.5, 1, 1]
    assert [value(f"onset_precision_{s}s", one) for s in (1, 2, 3)] == [1 / 3, 2 / 3, 2 / 3]


def test_false_alarms_an_hour_of_what_is_quiet(record):
    # Gold speaks in rounds 10 to 12 (11 to 13 s): quiet is what ends before 6 s or after 18 s.
    gold = "-" * 10 + "ssR" + "-" * 17
    told = "-s---R" + "-" * 12 + "sR" + "-" * 9 + "R"
    one = record("event", gold, told, {12: RED}, {5: RED, 19: RED, 29: RED})
    # OPEN at 2 s; its RETRACT at 3 s is no alarm; the CLOSE at 6 s is exactly 5 s away: none. OPEN at 19 s, CLOSE
    # at 20 s, CLOSE at 30 s. Quiet: rounds 0 to 4 and 18 to 29, 17 s.
    assert value("false_alarms_per_quiet_hour", one) == pytest.approx(4 / 17 * 3600)
    assert value("false_opens_per_quiet_hour", one) == pytest.approx(2 / 17 * 3600)


def test_a_stream_that_asks_for_what_never_happens_is_all_quiet(record):
    one = record("qa", "-" * 20, "-" * 19 + "R", {}, {19: "yes"})
    assert value("false_alarms_per_quiet_hour", one) == pytest.approx(3600 / 20)
    assert math.isnan(value("event_recall", one)) and math.isnan(value("time_diff_s", one))


@pytest.mark.parametrize(
    ("task", "told", "texts", "share"),
    [
        ("event", "---RR", {3: RED, 4: RED}, 1 / 2),
        ("event", "---RR", {3: RED, 4: BLUE}, 0),  # false, but no repeat
        (
            "event",
            "---R" + "-" * 30 + "R",
            {3: RED, 34: RED},
            0,
        ),  # after half a minute it is a claim of its own
        ("event", "----R", {4: BLUE}, 0),
        ("qa", "---R" + "-" * 60 + "R", {3: "yes", 64: "yes"}, 1 / 2),  # the answer holds on
        ("qa", "---R" + "-" * 60 + "R", {3: "yes", 64: "no"}, 0),
        ("qa", "---------R", {9: "yes"}, 0),  # the first time it is told, though too late
    ],
)
def test_duplicates(record, task, told, texts, share):
    gold = "---R".ljust(len(told), "-")
    one = record(task, gold, told, {3: "yes" if task == "qa" else RED}, texts)
    assert value("duplicate_share", one) == share


def test_time_diff_is_to_the_first_response_of_each_turn(record):
    golds = {3: "yes", 9: "no", 14: "yes"}
    gold = "---R-----R----R-----"
    # 1 s late; 2 s early; never: as if on the last frame, 5 s late.
    one = record("qa", gold, "----R--R------------", golds, {4: "", 7: ""})
    assert value("time_diff_s", one) == pytest.approx((1 + 2 + 5) / 3)
    # Silence in the first turn counts up to the frame before the second gold.
    two = record("qa", gold, "---------R----R-----", golds, {})
    assert value("time_diff_s", two) == pytest.approx((5 + 0 + 0) / 3)


def span(start_s, end_s):
    return f"{start_s}s to {end_s}s"


def test_span_iou_with_misses_and_spurious_spans(record):
    gold = "-" * 9 + "R" + "-" * 9 + "R"
    golds = {9: span(4, 10), 19: span(14, 20)}
    told = "-" * 5 + "R---R" + "-" * 10
    one = record("grounding", gold, told, golds, {5: span(1, 6), 9: span(6, 12)})
    # 4 s of 8 shared; the second is a miss; the first told span is spurious.
    assert value("span_miou", one) == pytest.approx((4 / 8 + 0) / 2)
    assert value("spurious_span_share", one) == 0.5
    assert value("span_miou_forward", one) == pytest.approx(0.25)
    assert math.isnan(value("span_miou_backward", one))


def test_a_span_told_too_late_is_a_miss(record):
    one = record("grounding", "---R------", "------R---", {3: span(1, 4)}, {6: span(1, 4)})
    assert value("span_miou", one) == 0


def test_two_spans_of_one_reply_are_matched_for_the_most_overlap(record):
    golds = {5: f"{span(1, 4)}; {span(2, 6)}"}
    one = record("grounding", "-----R", "-----R", golds, {5: f"{span(2, 6)}; {span(1, 4)}"})
    assert value("span_miou", one) == 1


def test_backward_is_what_had_ended_when_it_was_asked(record):
    # Asked after 6 s. The gold span 2-6 s is told at once, the span 6-9 s when it ends.
    golds = {6: span(2, 6), 9: span(6, 9)}
    one = record(
        "grounding", "------R--R", "------R--R", golds, {6: span(2, 6), 9: span(0, 9)}, num_past_rounds=6
    )
    assert value("span_miou_backward", one) == 1
    assert value("span_miou_forward", one) == pytest.approx(3 / 9)


def test_rounds_before_the_instruction_are_not_scored(record):
    asked = record("event", "R----R", "s--s-R", {0: RED, 5: RED}, {5: RED}, num_past_rounds=3)
    later = record("event", "--R", "s-R", {2: RED}, {2: RED})
    for name in ("state_macro_f1", "event_recall", "event_precision"):
        assert value(name, asked) == value(name, later)


def test_timed_qa_counts_false_answers(record):
    golds = {2: "yes", 8: "no"}
    one = record("qa", "--R-----R---", "--R--R-----R", golds, {2: "yes", 5: "no", 11: "no"})
    # One right. The one at 6 s is false, the one 3 s late too, and the gold at 9 s is a miss: 1 / (2 + 2).
    assert value("timed_qa_accuracy", one) == 1 / 4
    # Within 3 s and with nothing to pay for false ones, both golds are hit.
    assert value("timed_qa_hits", one) == 1
    silent = record("qa", "--R", "---", {2: "yes"}, {})
    assert value("timed_qa_accuracy", silent) == 0
    # Pooled over answers: 2 hits of 3. Mean of questions: (1 + 0) / 2.
    assert value("timed_qa_hits", one, silent) == pytest.approx(2 / 3)
    assert value("timed_qa_mean_share", one, silent) == pytest.approx(1 / 2)


def test_streampro_f1_wanes_with_delay(record):
    one = record("event", "---ssR-----", "------R---R", {5: RED}, {6: RED, 10: RED})
    # A second late is worth 3/4; P = 0.75 / 2, R = 0.75.
    assert value("streampro_f1", one) == pytest.approx(2 * 0.375 * 0.75 / (0.375 + 0.75))
    early = record("event", "---ssR-----", "----R------", {5: RED}, {4: RED})
    assert value("streampro_f1", early) == pytest.approx(0.75)
    before = record("event", "---ssR-----", "--R--------", {5: RED}, {2: RED})
    assert value("streampro_f1", before) == 0
    grounded = record("grounding", "-----R", "-----R", {5: span(2, 6)}, {5: span(4, 6)})
    assert value("streampro_f1", grounded) == pytest.approx(0.5)


def test_lead_of_open_over_close(record):
    one = record("event", "--sssR--R", "--ss-sRsR", {5: RED, 8: BLUE}, {6: RED, 8: BLUE})
    # Told: OPEN 6 s CLOSE 7 s, OPEN 8 s CLOSE 9 s. Gold: OPEN 3 s CLOSE 6 s, and a CLOSE alone.
    assert value("open_lead_s", one) == 1
    assert value("gold_open_lead_s", one) == 3
    assert value("open_share", one) == 1
    alone = record("event", "--sssR", "-----R", {5: RED}, {5: RED})
    assert value("open_share", one, alone) == pytest.approx(2 / 3)
    assert math.isnan(value("open_lead_s", alone))


def test_gold_without_a_meaning_is_refused(record):
    with pytest.raises(ValueError, match="stream stream: gold text 'gibberish'"):
        tally(record("event", "R", "-", {0: "gibberish"}), parse_text)


def test_an_open_that_lasts_is_one_false_alarm_and_much_quiet_time(record):
    told = "-" * 10 + "s" * 20 + "-" * 10
    one = record("event", "-" * 40, told)
    assert value("false_alarms_per_quiet_hour", one) == pytest.approx(3600 / 40)
    assert value("open_quiet_share", one) == 0.5
    # Nearer than the margin to what truly happens it is not counted: 5 s around 30 s to 31 s.
    near = record("event", "-" * 30 + "R" + "-" * 9, told, {30: RED})
    assert value("open_quiet_share", near) == pytest.approx(15 / 29)
    # Standby opens nothing where nobody is told of it.
    assert tally(record("qa", "-" * 40, told), parse_text)["alarms/open_ms"] == 0


def test_gold_that_names_no_span_is_not_scored_by_spans(record):
    one = record("grounding", "---R", "---R", {3: "the red car is there"}, {3: "the red car is there"})
    counts = tally(one, CaptionReader().parse)
    assert counts["events/right"] == 1
    assert not [name for name in counts if name.startswith("spans/")]


def test_parts_told_together_have_one_lead(record):
    both = f"{RED}; {BLUE}"
    one = record("event", "--ssR", "--ssR", {4: both}, {4: both})
    assert value("event_recall", one) == 1
    assert tally(one, parse_text)["lead/right"] == 1


STATES = st.lists(st.sampled_from(State), min_size=1, max_size=25)
TEXTS = {
    "event": st.sampled_from([RED, BLUE, f"{RED}; {BLUE}", "nonsense"]),
    "qa": st.sampled_from(["yes", "no", "nonsense"]),
    "grounding": st.sampled_from([span(1, 5), span(3, 9), span(12, 20), "nonsense"]),
}


@st.composite
def any_record(draw):
    task = draw(st.sampled_from(sorted(TEXTS)))
    num_rounds = draw(st.integers(1, 25))

    def side(texts):
        found = []
        for index in range(num_rounds):
            state = draw(st.sampled_from(State))
            text = draw(texts) if state is State.RESPONSE else ""
            found.append(Round(1000 * index, 1000 * (index + 1), state, text))
        return tuple(found)

    told = side(TEXTS[task])
    gold = side(TEXTS[task].filter(lambda text: text != "nonsense"))
    return StreamRecord("s", "s", "lively", task, "", 0, 0, gold, told)


@settings(max_examples=100, deadline=None)
@given(any_record())
def test_what_holds_of_any_stream(one):
    counts = tally(one, parse_text)
    assert StreamRecord.from_json(one.to_json()) == one
    assert 0 <= counts["events/right"] <= min(counts["events/gold"], counts["events/told"])
    assert counts["events/duplicate"] <= counts["events/told"] - counts["events/right"]
    assert counts["onsets/matched_1s"] <= counts["onsets/matched_2s"] <= counts["onsets/matched_3s"]
    assert sum(count for name, count in counts.items() if name.startswith("states/")) == len(one.gold)
    assert 0 <= counts["alarms/quiet_ms"] <= counts["stream_ms"]
    for score in SCORES:
        result = float(score.formula(counts))
        assert math.isnan(result) or result >= 0
        if not math.isnan(result) and not score.unit:
            assert result <= 1


@settings(max_examples=50, deadline=None)
@given(any_record())
def test_gold_told_as_it_stands_is_perfect(one):
    perfect = StreamRecord(**{**one.__dict__, "told": one.gold})
    for score in SCORES:
        if score.tasks and one.task not in score.tasks:
            continue
        result = float(score.formula(tally(perfect, parse_text)))
        if math.isnan(result) or score.name in ("open_share", "open_lead_s", "gold_open_lead_s"):
            continue
        assert result == pytest.approx(1.0 if score.higher_is_better else 0.0), score.name
