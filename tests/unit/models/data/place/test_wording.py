import re

import pytest

from models.data.place.act import CAR_KINDS, COLOURS, PERSON_KINDS, PLACES, TOLD_KINDS, ActKind
from models.data.place.instruction import Wordings, find_query, templates, wordings
from models.data.place.query import TASKS, queries
from models.data.place.wording import (
    Slots,
    caption,
    colour_text,
    count_text,
    narration,
    noun,
    parse_text,
)
from models.data.sample import SEPARATOR
from models.data.span import span_text
from models.vlm.time_tag import format_seconds

ALL_TELLINGS = [
    (kind, colour, place)
    for kind in TOLD_KINDS
    for colour in (COLOURS if kind in (*CAR_KINDS, *PERSON_KINDS) else ("",))
    for place in PLACES.get(kind, ("",))
]


@pytest.mark.parametrize("task", ["narration", "action", "event"])
def test_parsing_is_the_inverse_of_telling(task):
    say = narration if task == "narration" else caption
    texts = [say(*telling) for telling in ALL_TELLINGS]
    assert len(set(texts)) == len(texts)
    parsed = parse_text(task, SEPARATOR.join(texts))
    assert parsed == tuple(Slots(kind, noun(kind), colour, place) for kind, colour, place in ALL_TELLINGS)


def test_parsing_is_the_inverse_of_spans_and_answers():
    for start_ms, end_ms in ((0, 1000), (12_300, 13_000), (999_999_900, 1_000_000_000)):
        assert parse_text("grounding", span_text(start_ms, end_ms)) == (
            Slots(start_ms=start_ms, end_ms=end_ms),
        )
    for count in range(10):
        assert parse_text("qa", count_text(count)) == (Slots(subject="people", count=count),)
    for thing in ("car", "person"):
        for colour in ("", *COLOURS):
            (slots,) = parse_text("qa", colour_text(thing, colour))
            assert (slots.subject, slots.colour, slots.answer) == (thing, colour, colour or "none")
    assert [slots.answer for slots in parse_text("qa", "yes; no")] == ["yes", "no"]


def test_what_is_none_of_a_tasks_texts_does_not_parse():
    assert parse_text("event", "a pink car arrived; a red car arrived")[0] is None
    assert parse_text("event", "a pink car arrived; a red car arrived")[1].kind == ActKind.CAR_ARRIVES
    assert parse_text("event", "a red car is arriving") == (None,)
    assert parse_text("grounding", "yes") == parse_text("grounding", "3s to ") == (None,)
    assert parse_text("qa", "2 people there") == parse_text("qa", "a red car left") == (None,)
    assert parse_text("qa", "a pink car") == parse_text("qa", "") == parse_text("qa", "12 people") == (None,)
    with pytest.raises(ValueError, match="task"):
        parse_text("poetry", "yes")


def test_seconds_are_written_as_in_time_tags():
    times = (0, 1000, 12_340, 12_350, 999_999_960)
    assert [format_seconds(t) for t in times] == ["0", "1", "12.3", "12.4", "1000000"]


def test_every_instruction_means_one_thing():
    for task in TASKS:
        texts = [text for query in queries(task) for text in wordings(query).all]
        assert len(texts) == len(set(texts))
        for query in queries(task):
            assert len(wordings(query).seen) >= 3 and wordings(query).held_out
            assert all(find_query(task, text) == query for text in wordings(query).all)
        assert not any("{" in text or "  " in text for text in texts)
    with pytest.raises(ValueError, match="instruction"):
        find_query("qa", "Where is the cat?")
    with pytest.raises(ValueError, match="task"):
        find_query("poetry", "Where is the cat?")


def test_held_out_wordings_are_new_but_their_words_are_not():
    def words(template: str) -> set[str]:
        return set(re.findall(r"[a-z]+", re.sub(r"\{.*?\}", " ", template).lower()))

    every: list[Wordings] = [wording for task in TASKS for wording in templates(task)]
    seen_texts = {text for wording in every for text in (*wording.seen, *wording.late)}
    seen_words = {word for text in seen_texts for word in words(text)}
    for wording in every:
        for text in wording.held_out:
            assert text not in seen_texts
            assert words(text) <= seen_words, text
