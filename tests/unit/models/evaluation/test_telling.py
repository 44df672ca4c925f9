import pytest

from models.data.place.label import Gold
from models.data.place.wording import parse_text
from models.evaluation.telling import TellingScore, Told, score_tellings


def gold(task: str, frame_ms: int, text: str) -> Gold:
    (slots,) = parse_text(task, text)
    assert slots is not None
    return Gold(frame_ms, text, slots, start_ms=frame_ms - 3000, end_ms=frame_ms, open_ms=None, since=0)


ARRIVED = gold("event", 10_000, "a red car arrived")


@pytest.mark.parametrize(
    ("tolds", "num_right", "num_told"),
    [
        ([Told(10_000, "a red car arrived")], 1, 1),
        ([Told(12_000, "a red car arrived")], 1, 1),
        ([Told(12_001, "a red car arrived")], 0, 1),
        ([Told(10_000, "a blue car arrived")], 0, 1),
        ([Told(10_000, "nonsense")], 0, 1),
        ([Told(10_000, "a red car arrived"), Told(11_000, "a red car arrived")], 1, 2),
        ([Told(10_000, "a red car arrived; the door opened")], 1, 2),
        ([], 0, 0),
        ([Told(10_000, "")], 0, 1),
    ],
)
def test_each_gold_is_told_once_with_the_right_words_in_time(tolds, num_right, num_told):
    assert score_tellings("event", [ARRIVED], tolds) == TellingScore(1, num_told, num_right)


def test_the_nearest_pair_is_matched_first():
    golds = [gold("qa", 5_000, "yes"), gold("qa", 6_500, "no"), gold("qa", 8_000, "yes")]
    tolds = [Told(6_600, "no"), Told(7_900, "yes"), Told(5_100, "yes")]
    assert score_tellings("qa", golds, tolds).num_right == 3


def test_a_span_is_right_when_both_ends_are_near():
    golds = [gold("grounding", 20_000, "12s to 20s")]
    assert score_tellings("grounding", golds, [Told(20_000, "13.5s to 20s")]).num_right == 1
    assert score_tellings("grounding", golds, [Told(20_000, "15s to 20s")]).num_right == 0


def test_scores_add_up():
    total = TellingScore(3, 4, 2) + TellingScore(1, 1, 1)
    assert (total.num_gold, total.num_told, total.num_right, total.num_false) == (4, 5, 3, 2)
