import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.data.place.act import DOOR_KINDS, Act, ActKind
from models.data.place.instruction import find_query
from models.data.place.label import Gold, gold_events, label
from models.data.place.picture import render
from models.data.place.query import TASKS, Query, queries
from models.data.place.script import Script, Start
from models.data.place.wording import parse_text
from models.data.sample import SEPARATOR, Round
from models.vlm.state import State
from models.vlm.time_tag import rounded_ms
from tests.support.place_scripts import act_of, frame_times, random_script, script_of, with_other_future

EVERY_SECOND = list(range(0, 14_000, 1000))
seeds = st.integers(0, 10**6)
any_query = st.sampled_from(TASKS).flatmap(lambda task: st.sampled_from(queries(task)))
first_lives = st.integers(0, 20)


def rounds_of(script: Script, times: list[int], query: Query, first_live: int = 0) -> tuple[Round, ...]:
    return label(script.told_acts, [script.view(t) for t in times], times, query, first_live)


def golds_of(script: Script, times: list[int], query: Query, first_live: int = 0) -> tuple[Gold, ...]:
    return gold_events(script.told_acts, [script.view(t) for t in times], times, query, first_live)


def told(script: Script, task: str, instruction: str, first_live: int = 0) -> list[tuple[str, str]]:
    rounds = rounds_of(script, EVERY_SECOND, find_query(task, instruction), first_live)
    return [(turn.state.name, turn.text) for turn in rounds]


def states(rounds: list[tuple[str, str]]) -> str:
    """One letter a round: s(ilence), b (standby), R(esponse)."""
    return "".join({"SILENCE": "s", "STANDBY": "b", "RESPONSE": "R"}[state] for state, _ in rounds)


ARRIVAL = act_of(ActKind.CAR_ARRIVES, 2000, 5000, "red")
DELIVERY = act_of(ActKind.PARCEL_DELIVERED, 3800, 9000, "blue")


@settings(max_examples=150, deadline=None)
@given(seeds, seeds, any_query, first_lives, st.integers(0, 40_000), seeds)
def test_labels_do_not_depend_on_what_comes_later(seed, times_seed, query, first_live, now_ms, other_seed):
    script, times = random_script(seed), frame_times(times_seed)
    other = with_other_future(script, random_script(other_seed), now_ms)
    seen = [time_ms for time_ms in times if time_ms <= now_ms]
    if len(seen) <= first_live:
        return
    # What was shown is the same ...
    assert np.array_equal(render(script, seen[-1], 42, 56), render(other, seen[-1], 42, 56))
    # ... so what is said is the same, and the same as if the stream stopped here.
    mine = rounds_of(script, times, query, first_live)[: len(seen)]
    assert rounds_of(other, times, query, first_live)[: len(seen)] == mine
    assert rounds_of(script, seen, query, first_live) == mine


@settings(max_examples=150, deadline=None)
@given(seeds, seeds, any_query, first_lives)
def test_every_gold_event_is_told_exactly_once_and_truly(seed, times_seed, query, first_live):
    script, times = random_script(seed), frame_times(times_seed)
    rounds = rounds_of(script, times, query, first_live)
    golds = golds_of(script, times, query, first_live)
    parts = [
        (time_ms, part)
        for time_ms, turn in zip(times, rounds, strict=True)
        if turn.state == State.RESPONSE
        for part in turn.text.split(SEPARATOR)
    ]
    assert parts == [(gold.frame_ms, gold.text) for gold in golds]
    for gold in golds:
        assert parse_text(query.task, gold.text) == (gold.slots,)
        index = times.index(gold.frame_ms)
        assert index >= first_live and 0 <= gold.since <= index
        if query.task != "narration":
            assert gold.end_ms <= gold.frame_ms
        if gold.open_ms is not None:
            waiting = rounds[times.index(gold.open_ms) : index]
            assert all(turn.state != State.SILENCE for turn in waiting)
        if gold.slots.start_ms is not None:
            assert gold.slots.start_ms == rounded_ms(times[gold.since])
            assert gold.slots.end_ms <= rounded_ms(gold.frame_ms)
        elif gold.slots.kind is not None and gold.start_ms < gold.end_ms:
            assert any(
                (act.kind, act.colour, act.start_ms) == (gold.slots.kind, gold.slots.colour, gold.start_ms)
                and gold.slots.place in ("", act.place)
                for act in script.told_acts
            )


@settings(max_examples=150, deadline=None)
@given(seeds, seeds, any_query, first_lives)
def test_rounds_are_well_formed(seed, times_seed, query, first_live):
    times = frame_times(times_seed)
    rounds = rounds_of(random_script(seed), times, query, first_live)
    assert [turn.end_ms for turn in rounds] == [rounded_ms(t) for t in times]
    assert all(b.start_ms == a.end_ms for a, b in itertools.pairwise(rounds))
    assert all((turn.text != "") == (turn.state == State.RESPONSE) for turn in rounds)
    assert all(turn.state == State.SILENCE for turn in rounds[:first_live])
    if query.task in ("qa", "narration"):
        assert all(turn.state != State.STANDBY for turn in rounds)
    if query.task == "qa":
        assert rounds[first_live].state == State.RESPONSE
        answers = [turn.text for turn in rounds if turn.text]
        assert all(a != b for a, b in itertools.pairwise(answers))
    if query.thing and query.task != "qa":
        assert all(turn.state == State.SILENCE for turn in rounds)


@settings(max_examples=60, deadline=None)
@given(seeds, st.integers(0, 999))
def test_at_one_frame_a_second_nothing_is_missed(seed, phase_ms):
    """Every act that begins and ends among the frames is narrated once, and so is every change of a light."""
    script = random_script(seed)
    times = list(range(phase_ms, 45_000, 1000))
    golds = golds_of(script, times, queries("narration")[0])
    narrated = [(gold.start_ms, gold.slots.kind) for gold in golds if gold.start_ms < gold.end_ms]
    whole = {
        (act.start_ms, act.kind)
        for act in script.told_acts
        if times[0] <= act.start_ms and act.end_ms < times[-1]
    }
    assert whole <= set(narrated) and len(narrated) == len(set(narrated))
    lights = [gold for gold in golds if gold.slots.subject == "light"]
    switched = [a for a in script.acts if a.kind.startswith("light") and times[0] < a.start_ms <= times[-1]]
    assert len(lights) == len(switched)


def test_event_is_standby_from_where_it_can_be_told_to_its_end():
    rounds = told(script_of(ARRIVAL), "event", "Tell me when a car arrives.")
    # At 2.0 s too little of it is in the picture to say.
    assert ARRIVAL.telling_ms > 2000
    assert states(rounds)[:8] == "sssbbRss"
    assert rounds[5][1] == "a red car arrived"
    (gold,) = golds_of(script_of(ARRIVAL), EVERY_SECOND, find_query("event", "Tell me when a car arrives."))
    assert (gold.start_ms, gold.end_ms, gold.open_ms, gold.frame_ms) == (2000, 5000, 3000, 5000)


def test_next_round_is_standby_if_another_event_is_under_way():
    rounds = told(script_of(ARRIVAL, DELIVERY), "action", "Describe what people and cars do.")
    assert states(rounds) == "sssbbRbbbRssss"
    assert (rounds[5][1], rounds[9][1]) == ("a red car arrived", "a blue person delivered a parcel")


def test_ends_on_one_frame_share_one_response_in_a_fixed_order():
    away = act_of(ActKind.PERSON_WALKS_AWAY, 2000, 4900, "green", "gate")
    start = Start(standing=("", "green"))
    for acts in ((ARRIVAL, away), (away, ARRIVAL)):
        rounds = told(script_of(*acts, start=start), "action", "Describe what people and cars do.")
        assert rounds[5][1] == "a red car arrived; a green person walked away from the gate"


def test_only_what_is_asked_for_is_told():
    script = script_of(ARRIVAL, DELIVERY)
    for instruction in (
        "Tell me when a blue car arrives.",
        "Let me know when a car leaves.",
        "Report people going in.",
        "Say when a bicycle comes.",
    ):
        assert states(told(script, "event", instruction)) == "s" * 14
    texts = [text for _, text in told(script, "event", "Report what happens with parcels.") if text]
    assert texts == ["a blue person delivered a parcel"]
    past = act_of(ActKind.CAR_PASSES, 2000, 6000, "red", "left")
    assert (
        states(told(script_of(past), "event", "Say when a car drives past to the left.")) == "sssbbbRsssssss"
    )
    assert states(told(script_of(past), "event", "Say when a car drives past to the right.")) == "s" * 14


def test_lights_and_doors_are_told_as_the_frames_show_them():
    on = act_of(ActKind.LIGHT_ON, 2500, place="gate")
    off = act_of(ActKind.LIGHT_OFF, 6500, place="gate")
    rounds = told(script_of(on, off), "event", "Tell me when a light goes on.")
    assert (states(rounds), rounds[3][1]) == ("sssRssssssssss", "the light at the gate went on")
    assert (
        states(told(script_of(on, off), "event", "Tell me when the light in the window goes on.")) == "s" * 14
    )
    # Nobody who looks once a second sees a flash that is over by then.
    flash = (
        act_of(ActKind.LIGHT_ON, 2100, place="gate"),
        act_of(ActKind.LIGHT_OFF, 2900, place="gate"),
    )
    assert states(told(script_of(*flash), "event", "Report what happens with the lights.")) == "s" * 14


def test_narration_leaves_out_the_door_that_somebody_uses_but_a_watch_on_the_door_does_not():
    comes_out = act_of(ActKind.PERSON_COMES_OUT, 2200, 5200, "green", "house")
    by_itself = act_of(ActKind.DOOR_OPENS, 9500)
    script = script_of(comes_out, by_itself)
    narrated = [text for _, text in told(script, "narration", "Describe what happens.") if text]
    assert narrated == ["a green person is coming out", "the door opened"]
    watched = [text for _, text in told(script, "event", "Report what happens with the door.") if text]
    assert watched == ["the door opened", "the door closed", "the door opened"]


def test_grounding_tells_the_span_as_the_tags_show_it():
    leaving = act_of(ActKind.CAR_LEAVES, 8300, 11_000, "red")
    script = script_of(ARRIVAL, leaving)
    rounds = told(script, "grounding", "When is the red car at the gate?")
    assert (states(rounds)[4:10], rounds[9][1]) == ("sbbbbR", "5s to 9s")
    rounds = told(script, "grounding", "When does a car leave?")
    assert rounds[11] == ("RESPONSE", "9s to 11s")


def test_grounding_asked_late_tells_the_latest_span_at_once():
    leaving = act_of(ActKind.CAR_LEAVES, 6300, 9000, "red")
    script = script_of(ARRIVAL, leaving)
    assert told(script, "grounding", "When did a car arrive?", 11)[11] == ("RESPONSE", "3s to 5s")
    assert told(script, "grounding", "When was the red car at the gate?", 11)[11] == ("RESPONSE", "5s to 7s")
    first = act_of(ActKind.CAR_PASSES, 100, 3000, "red", "left")
    second = act_of(ActKind.CAR_PASSES, 4000, 7000, "blue", "left")
    rounds = told(script_of(first, second), "grounding", "When does a car drive past?", 9)
    assert (states(rounds), rounds[9][1]) == ("sssssssssRssss", "5s to 7s")


def test_grounding_asked_while_it_lasts_waits_from_then_on_and_tells_the_whole_span():
    leaving = act_of(ActKind.CAR_LEAVES, 8300, 11_000, "red")
    for instruction, first_live, expected in (
        ("When is the red car at the gate?", 7, "sssssssbbRssss"),
        ("When does a car arrive?", 4, "ssssbRssssssss"),
    ):
        rounds = told(script_of(ARRIVAL, leaving), "grounding", instruction, first_live)
        assert states(rounds) == expected
    assert rounds[5][1] == "3s to 5s"


def test_event_asked_late_is_told_if_under_way_and_not_if_over():
    script = script_of(ARRIVAL, DELIVERY)
    assert states(told(script, "event", "Tell me when a car arrives.", 4)) == "ssssbRssssssss"
    assert states(told(script, "event", "Tell me when a car arrives.", 6)) == "s" * 14
    assert [text for _, text in told(script, "narration", "Describe what happens.", 4) if text] == [
        "a blue person is delivering a parcel"
    ]


def test_questions_are_answered_at_once_and_whenever_the_answer_changes():
    script = script_of(ARRIVAL, start=Start(standing=("green", "")))
    rounds = told(script, "qa", "Which car is at the gate?")
    assert (rounds[0], rounds[5]) == (("RESPONSE", "no car"), ("RESPONSE", "a red car"))
    assert states(rounds).count("R") == 2
    assert told(script, "qa", "Count the people.", 3)[3] == ("RESPONSE", "1 person")
    assert told(script, "qa", "Who is at the gate?")[0][1] == "nobody"
    assert told(script, "qa", "Is the blue car at the gate?")[0][1] == "no"
    assert states(told(script, "qa", "Is there a horse?")) == "R" + "s" * 13


def test_an_act_whose_beginning_was_not_seen_is_not_told():
    query = find_query("event", "Tell me when a car arrives.")
    rounds = rounds_of(script_of(ARRIVAL), EVERY_SECOND[3:], query)
    assert {turn.state for turn in rounds} == {State.SILENCE}


def test_label_needs_no_script():
    """Only acts and views: here those of a door that nobody has drawn."""
    views = [replace(script_of().view(0), door_open=is_open) for is_open in (False, True, True, False)]
    rounds = label([], views, [0, 900, 2000, 3000], Query("event", DOOR_KINDS))
    assert [turn.text for turn in rounds] == ["", "the door opened", "", "the door closed"]
    walk = Act(ActKind.PERSON_WALKS_PAST, 100, 200, 1500, "red", "left")
    rounds = label([walk], views, [0, 900, 2000, 3000], Query("event", (walk.kind,)))
    assert [turn.state.name for turn in rounds] == ["SILENCE", "STANDBY", "RESPONSE", "SILENCE"]


def test_caller_mistakes_are_told():
    query, views = queries("qa")[0], [script_of().view(0)] * 2
    with pytest.raises(ValueError, match="at least one"):
        label([], [], [], query)
    with pytest.raises(ValueError, match="rise"):
        label([], views, [5, 5], query)
    with pytest.raises(ValueError, match="views"):
        label([], views, [5], query)
    with pytest.raises(ValueError, match="first_live"):
        label([], views, [5, 6], query, 2)
