import pytest

from models.data.curation import filters
from models.data.curation.annotator import json_of
from models.data.curation.claims import Answer, Claim, Question, Span
from models.data.curation.config import FilterConfig
from models.data.curation.teacher import UnreadableReply

CONFIG = FilterConfig()


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("A red car arrived at the gate.", "A red car arrived at the gate."),
        ("Finally, a man left.", "a man left."),
        ("And then after that, a man left", "a man left"),
        ("  - Then a   man left ", "a man left"),
        ("First: a man left", "a man left"),
        ("Next to the door a parcel stood", "Next to the door a parcel stood"),
        ("Second car arrived", "Second car arrived"),
        ("First aid was given to a man", "First aid was given to a man"),
        ("At the end of the yard a light went on", "At the end of the yard a light went on"),
        ("After that man a dog came in", "After that man a dog came in"),
        ("And next, later trains stopped", "later trains stopped"),
        ("The video ends with a wave", ""),
        ("This clip shows a dog", ""),
        ("A man showed the video to a friend", "A man showed the video to a friend"),
        ("It is", ""),
        ("", ""),
        ("...", ""),
    ],
)
def test_captions_lose_words_of_order_and_talk_of_the_video(text: str, cleaned: str) -> None:
    assert filters.clean_caption(text) == cleaned


@pytest.mark.parametrize(
    ("one", "other", "value"),
    [
        ((0, 10), (0, 10), 1),
        ((0, 10), (5, 15), 1 / 3),
        ((0, 1), (2, 3), 0),
        ((4, 4), (4, 4), 1),
        ((0, 4), (4, 4), 0),
    ],
)
def test_iou(one: Span, other: Span, value: float) -> None:
    assert filters.iou(one, other) == filters.iou(other, one) == pytest.approx(value)


def test_claims_that_need_no_further_look() -> None:
    claims = [
        Claim("Then a red car arrived", 5, 9),
        Claim("a red car has arrived", 5.5, 9),
        Claim("a red car arrived", 20, 24),
        Claim("a blue car arrived", 5, 9),
        Claim("a man left", -1, 3),
        Claim("a man left", 9, 7),
        Claim("a man left", 50, 59.5),
        Claim("a man left", 70, 72),
        Claim("the", 1, 2),
    ]
    judged = {(claim.text, claim.start_s, reason) for claim, reason in filters.sound(claims, 60)}
    assert judged == {
        ("a red car arrived", 5, ""),
        ("a red car has arrived", 5.5, filters.REPEATED),
        ("a red car arrived", 20, ""),
        ("a blue car arrived", 5, ""),
        ("a man left", -1, filters.OUTSIDE),
        ("a man left", 9, filters.OUTSIDE),
        ("a man left", 50, filters.NOT_OVER),
        ("a man left", 70, filters.OUTSIDE),
        ("the", 1, filters.EMPTY),
    }
    moments = [Claim("a car is leaving", at, at) for at in (3, 5, 9)]
    assert [reason for _, reason in filters.sound(moments, 60)] == ["", filters.REPEATED, ""]


def confirmed(
    claim: Claim, *looks: list[Span], unique: bool = False, **config: int
) -> tuple[Claim | None, str, int]:
    found = [tuple(look) for look in looks]
    kept, reason, seen = filters.confirm(claim, lambda i: found[i], FilterConfig(**config), unique=unique)
    assert list(seen) == found[: len(seen)]
    return kept, reason, len(seen)


CLAIM = Claim("a car arrived", 10, 20)


def test_two_of_three_looks_must_find_it() -> None:
    hit, miss = [(11.0, 21.0)], [(40.0, 50.0)]
    # The median of claim and looks; no third look once two agree.
    assert confirmed(CLAIM, hit, [(13.0, 20.0)]) == (Claim("a car arrived", 11, 20), "", 2)
    assert confirmed(CLAIM, miss, hit, hit)[1:] == ("", 3)
    assert confirmed(CLAIM, hit, miss, [])[1:] == (filters.ELSEWHERE, 3)
    # Nor one that could change nothing.
    assert confirmed(CLAIM, [], [])[1:] == (filters.NOT_FOUND, 2)
    assert confirmed(CLAIM, [], miss)[1:] == (filters.ELSEWHERE, 2)
    # One of several times is enough, unless there may be but one.
    assert confirmed(CLAIM, miss + hit, hit + miss)[0] == Claim("a car arrived", 11, 21)
    assert confirmed(CLAIM, miss + hit, hit + miss, unique=True)[1:] == (filters.NOT_UNIQUE, 2)
    assert confirmed(CLAIM, hit, votes=1, min_agreeing=1)[2] == 1


def test_short_spans_agree_within_the_time_error() -> None:
    short = Claim("the light went on", 10, 10.5)
    assert confirmed(short, [(11.2, 11.9)], [(9.0, 9.5)])[1] == ""
    assert confirmed(short, [(11.6, 12.1)], [(11.6, 12.1)])[1] == filters.ELSEWHERE


def test_of_a_moment_only_the_beginning_counts() -> None:
    moment = Claim("a car is arriving", 10, 10)
    assert confirmed(moment, [(10.5, 30.0)], [(9.0, 12.0)])[0] == Claim("a car is arriving", 10, 10)
    assert confirmed(moment, [(5.0, 12.0)], [(5.0, 12.0)])[1] == filters.ELSEWHERE


def test_the_looks_that_agree_move_a_claim_that_is_off() -> None:
    assert confirmed(CLAIM, [(7.0, 18.0)], [(7.0, 17.0)])[0] == Claim("a car arrived", 7, 18)


def question(*answers: tuple[float, str]) -> Question:
    return Question("How many people are there?", tuple(Answer(*answer) for answer in answers))


def test_a_question_has_answers_that_change() -> None:
    joined, reason = filters.sound_question(question((0, "two"), (5, "2"), (9, "three people")), 30)
    assert (joined, reason) == (question((0, "two"), (9, "three people")), "")
    assert filters.sound_question(question((0, "Two."), (5, "2")), 30)[1] == filters.ONE_ANSWER
    assert filters.sound_question(question((0, "1"), (29.5, "2")), 30)[1] == filters.OUTSIDE
    assert (
        filters.sound_question(Question("Is it?", (Answer(0, "a"), Answer(3, "b"))), 30)[1] == filters.EMPTY
    )


def test_answers_are_looked_at_after_a_change_and_before_the_next() -> None:
    asked = question((0, "one"), (10, "two"), (12, "one"))
    assert filters.check_times(asked, 30, 1.5) == [
        (1.5, "one"), (8.5, "one"), (11.0, "two"), (13.5, "one"), (28.5, "one"),
    ]  # fmt: skip


def test_one_disputed_answer_is_enough_to_reject() -> None:
    asked = question((0, "one"), (10, "two"))
    truth = {1.5: "1", 8.5: "one", 11.5: "two", 28.5: "Two."}
    assert filters.confirm_question(asked, lambda at_s, look: truth[at_s], 30, CONFIG)[0] == ""
    # One look may err at each moment ...
    assert (
        filters.confirm_question(asked, lambda at_s, look: truth[at_s] if look else "no", 30, CONFIG)[0] == ""
    )
    # ... but two of three may not, at any.
    reason, chosen = filters.confirm_question(
        asked, lambda at_s, look: "" if at_s == 11.5 else truth[at_s], 30, CONFIG
    )
    assert (reason, len(chosen)) == (filters.DISPUTED, 2 + 2 + 2)


def test_a_list_with_too_many_holes_is_not_enough() -> None:
    assert filters.enough_kept(2, 4, CONFIG)
    assert not filters.enough_kept(1, 3, CONFIG)
    assert not filters.enough_kept(0, 0, CONFIG)


@pytest.mark.parametrize(
    "reply",
    ['{"a": 1}', 'Sure!\n```json\n{"a": 1}\n```', 'set {x} then {"a": 1} and {"b": 2}', '{"a": 1'],
)
def test_json_is_found_in_what_surrounds_it(reply: str) -> None:
    if reply.endswith("1"):
        with pytest.raises(UnreadableReply):
            json_of(reply)
    else:
        assert json_of(reply) == {"a": 1}
