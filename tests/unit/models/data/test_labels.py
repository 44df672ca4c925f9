import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.data.instructions import TASKS, Query, find_query, instructions, queries
from models.data.labels import SEPARATOR, gold_events, label, parse_text
from models.data.render import render
from models.data.scene import Act, ActKind, SceneScript, Start, scene_rng
from models.vlm.state import State
from models.vlm.time_tag import format_seconds, rounded_ms

ALL_QUERIES = [query for task in TASKS for query in queries(task)]
seeds = st.integers(0, 10**6)
any_query = st.sampled_from(ALL_QUERIES)


def script_of(seed: int) -> SceneScript:
    return SceneScript.random(scene_rng("test", seed), 40, quiet=0.6)


def frame_times(seed: int, count: int = 30) -> list[int]:
    steps = np.random.default_rng(seed).integers(300, 1500, size=count)
    return [int(t) for t in np.cumsum(steps)]


def scene(*acts: Act, start: Start | None = None) -> SceneScript:
    return SceneScript(0, 60_000, 0, start or Start(), acts)


def short(script: SceneScript, times: list[int], query: Query) -> list[tuple[str, str]]:
    return [(r.state.name, r.text) for r in label(script, times, query)]


ARRIVAL = Act(ActKind.CAR_ARRIVES, 2000, 5000, "red")
DELIVERY = Act(ActKind.PARCEL_DELIVERED, 4000, 9000, "blue")
EVERY_SECOND = list(range(0, 12_000, 1000))


@given(seeds, seeds, any_query, st.integers(0, 40_000), st.integers(0, 10**6))
def test_labels_do_not_depend_on_what_comes_later(seed, times_seed, query, now_ms, other_seed):
    """Acts that have not begun may change at will."""
    script, times = script_of(seed), frame_times(times_seed)
    past = [act for act in script.acts if act.start_ms <= now_ms]
    future = [act for act in script_of(other_seed).acts if act.start_ms > now_ms]
    free_ms = max((act.end_ms for act in past), default=0)
    future = [act for act in future if act.start_ms > free_ms]
    other = replace(script, acts=(*past, *future))
    seen = [time_ms for time_ms in times if time_ms <= now_ms]
    if seen:
        # What was shown is the same ...
        assert np.array_equal(render(script, seen[-1], 42, 56), render(other, seen[-1], 42, 56))
    # ... so what is said is the same, and the same as if the stream stopped here.
    mine, theirs = label(script, times, query), label(other, times, query)
    assert mine[: len(seen)] == theirs[: len(seen)]
    if seen:
        assert label(script, seen, query) == mine[: len(seen)]


@given(seeds, seeds, any_query)
def test_every_gold_event_is_told_exactly_once(seed, times_seed, query):
    script, times = script_of(seed), frame_times(times_seed)
    rounds = label(script, times, query)
    golds = gold_events(script, times, query)
    told = [
        (time_ms, part)
        for time_ms, turn in zip(times, rounds, strict=True)
        if turn.state == State.RESPONSE
        for part in turn.text.split(SEPARATOR)
    ]
    assert told == [(gold.frame_ms, gold.text) for gold in golds]
    for gold in golds:
        assert parse_text(query.task, gold.text) == (gold.slots,)
        assert gold.end_ms <= gold.frame_ms or query.task == "narration"
        if gold.open_ms is not None:
            assert rounds[times.index(gold.open_ms)].state != State.SILENCE


@given(seeds, seeds, any_query)
def test_rounds_are_well_formed(seed, times_seed, query):
    times = frame_times(times_seed)
    rounds = label(script_of(seed), times, query)
    assert [r.end_ms for r in rounds] == [rounded_ms(t) for t in times]
    assert all(b.start_ms == a.end_ms for a, b in itertools.pairwise(rounds))
    assert all((r.text != "") == (r.state == State.RESPONSE) for r in rounds)
    if query.task in ("qa", "narration"):
        assert all(r.state != State.STANDBY for r in rounds)
    if query.task == "qa":
        assert rounds[0].state == State.RESPONSE


@given(seeds, seeds, any_query)
def test_parsing_inverts_the_text(seed, times_seed, query):
    times = frame_times(times_seed)
    for turn in label(script_of(seed), times, query):
        if turn.state == State.RESPONSE:
            slots = parse_text(query.task, turn.text)
            assert None not in slots and len(slots) == len(turn.text.split(SEPARATOR))


def test_event_is_standby_from_where_it_can_be_told_to_its_end():
    query = find_query("event", "Tell me when a car arrives.")
    states = short(scene(ARRIVAL), EVERY_SECOND, query)
    # At 2.0 s only a bit of it is in the picture: too early to say.
    assert ARRIVAL.telling_ms > 2000
    assert [s for s, _ in states[:7]] == ["SILENCE"] * 3 + ["STANDBY"] * 2 + ["RESPONSE", "SILENCE"]
    assert states[5] == ("RESPONSE", "a red car arrived")
    (gold,) = gold_events(scene(ARRIVAL), EVERY_SECOND, query)
    assert (gold.start_ms, gold.end_ms, gold.open_ms, gold.frame_ms) == (2000, 5000, 3000, 5000)
    assert (gold.slots.kind, gold.slots.colour) == (ActKind.CAR_ARRIVES, "red")


def test_next_round_is_standby_if_another_event_is_under_way():
    query = find_query("action", "Describe everything that is done.")
    states = short(scene(ARRIVAL, DELIVERY), EVERY_SECOND, query)
    assert states[5:10] == [
        ("RESPONSE", "a red car arrived"),
        ("STANDBY", ""),
        ("STANDBY", ""),
        ("STANDBY", ""),
        ("RESPONSE", "a blue person delivered a parcel"),
    ]


def test_ends_on_one_frame_share_one_response():
    query = find_query("action", "Describe everything that is done.")
    light = Act(ActKind.LIGHT_ON, 4500, 4500)
    assert short(scene(ARRIVAL, light), EVERY_SECOND, query)[5] == (
        "RESPONSE",
        "the light went on; a red car arrived",
    )


def test_filter_by_kind_and_colour_and_never_happening():
    script = scene(ARRIVAL, DELIVERY)
    for instruction in (
        "Tell me when a blue car arrives.",
        "Tell me when a car leaves.",
        "Report people going in.",
    ):
        assert {s for s, _ in short(script, EVERY_SECOND, find_query("event", instruction))} == {"SILENCE"}
    told = short(script, EVERY_SECOND, find_query("event", "Report deliveries."))
    assert [text for _, text in told if text] == ["a blue person delivered a parcel"]


def test_grounding_tells_the_span_as_the_tags_show_it():
    leaving = Act(ActKind.CAR_LEAVES, 8300, 11_000, "red")
    script = scene(ARRIVAL, leaving)
    told = short(script, EVERY_SECOND, find_query("grounding", "When is the red car at the gate?"))
    assert [s for s, _ in told[4:10]] == ["SILENCE"] + ["STANDBY"] * 4 + ["RESPONSE"]
    assert told[9][1] == "5s to 9s"
    act = short(script, EVERY_SECOND, find_query("grounding", "When does a car leave?"))
    assert act[11] == ("RESPONSE", "9s to 11s")


def test_narration_tells_at_first_sight_and_qa_answers_at_once_and_on_change():
    script = scene(ARRIVAL, start=Start(standing=("green", "")))
    narrated = short(script, EVERY_SECOND, find_query("narration", "Tell me what happens."))
    assert narrated[3] == ("RESPONSE", "a red car is arriving")
    assert sum(s == "RESPONSE" for s, _ in narrated) == 1
    answered = short(script, EVERY_SECOND, find_query("qa", "Which car is at the gate?"))
    assert (answered[0], answered[5]) == (("RESPONSE", "no car"), ("RESPONSE", "a red car"))
    assert short(script, EVERY_SECOND, find_query("qa", "Count the people."))[0][1] == "1 person"


def test_an_act_whose_beginning_was_not_seen_is_not_told():
    query = find_query("event", "Tell me when a car arrives.")
    assert {s for s, _ in short(scene(ARRIVAL), EVERY_SECOND[4:], query)} == {"SILENCE"}


def test_seconds_are_written_as_in_time_tags():
    assert [format_seconds(t) for t in (0, 1000, 12_340, 12_350, 999_999_960)] == [
        "0",
        "1",
        "12.3",
        "12.4",
        "1000000",
    ]


def test_text_of_another_kind_does_not_parse():
    assert parse_text("event", "a purple car arrived; a red car arrived")[0] is None
    assert parse_text("event", "a purple car arrived; a red car arrived")[1] is not None
    assert parse_text("grounding", "yes") == (None,)
    assert parse_text("qa", "a purple car") == (None,)


def test_every_instruction_finds_its_query_and_is_unique_in_its_task():
    for task in TASKS:
        texts = [text for query in queries(task) for text in query.phrasings]
        assert len(texts) == len(set(texts)) == len(instructions(task))
        for query in queries(task):
            assert query.phrasings
            assert all(find_query(task, text) == query for text in query.phrasings)
    with pytest.raises(ValueError, match="instruction"):
        find_query("qa", "Where is the cat?")
    with pytest.raises(ValueError, match="task"):
        queries("poetry")


def test_caller_mistakes_are_told():
    query = queries("qa")[0]
    with pytest.raises(ValueError, match="at least one"):
        label(scene(), [], query)
    with pytest.raises(ValueError, match="rise"):
        label(scene(), [5, 5], query)
