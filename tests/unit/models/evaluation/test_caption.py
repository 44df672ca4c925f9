import pytest

from models.data.place.query import TASKS
from models.evaluation.caption import CaptionReader


def agree(one: str, other: str, min_word_f1: float = 1.0, task: str = "event") -> bool:
    reader = CaptionReader(min_word_f1)
    (mine,), (theirs,) = reader.parse(task, one), reader.parse(task, other)
    assert mine is not None and theirs is not None
    assert mine.agrees_with(theirs) == theirs.agrees_with(mine)
    return mine.agrees_with(theirs)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("A man left.", "a man left"),
        ("the man left", "Man left!"),
        ("two people", "2 people"),
        ("left: a man", "a man left"),
    ],
)
def test_the_same_words_say_the_same_however_they_are_written(one: str, other: str) -> None:
    assert agree(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a red car arrived", "a blue car arrived"),
        ("2", "3"),
        ("a man left", "a man left left"),
        ("yes", "no"),
    ],
)
def test_other_words_do_not(one: str, other: str) -> None:
    assert not agree(one, other)


def test_how_alike_they_must_be_can_be_set() -> None:
    # Two of three words each: an F1 of 2/3.
    assert agree("man opened gate", "man closed gate", 0.66)
    assert not agree("man opened gate", "man closed gate", 0.67)
    for wrong in (0.0, 1.1, -1.0):
        with pytest.raises(ValueError, match="min_word_f1"):
            CaptionReader(wrong)


def test_parts_are_read_apart_and_what_has_no_word_says_nothing() -> None:
    first, second = CaptionReader().parse("action", "a man left; the door closed")
    assert first is not None and first.words == ("man", "left")
    assert second is not None and second.words == ("door", "closed")
    assert CaptionReader().parse("qa", "...") == (None,)
    assert CaptionReader().parse("qa", "") == (None,)


def test_only_of_grounding_is_a_span_read() -> None:
    for task in TASKS:
        (said,) = CaptionReader().parse(task, "From 12 to 15.5 seconds.")
        assert said is not None
        assert (said.start_ms, said.end_ms) == ((12_000, 15_500) if task == "grounding" else (None, None))
