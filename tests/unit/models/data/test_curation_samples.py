"""Kept claims through the raw format and its conversion: what a model would be taught, frame by frame."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.data.curation.claims import Answer, Claim, Question
from models.data.curation.clip import Clip
from models.data.curation.sample_maker import INSTRUCTIONS, SampleMaker
from models.data.raw_sample import RawSample
from models.data.stream_format import FrameRound, frame_rounds
from models.vlm.state import State

DURATION_S = 60


def maker(key: str = "abc", seed: int = 0) -> SampleMaker:
    clip = Clip(key, "mine", "v.mp4", "sha", 100.0, 100.0 + DURATION_S, Path("/out/clips/abc.mp4"))
    return SampleMaker(clip, seed)


def converted(raw: RawSample, fps: int) -> list[FrameRound]:
    return frame_rounds(raw, DURATION_S * fps, fps)[0]


times = st.floats(0, DURATION_S - 2).map(lambda t: round(t, 2))
claims = st.lists(
    st.tuples(times, times).map(
        lambda ends: Claim(f"thing {min(ends)} to {max(ends)}", min(ends), max(ends))
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda claim: claim.text,
)


@given(claims, st.sampled_from([1, 2, 4]))
def test_captions_are_told_right_after_their_end_and_never_before(told: list[Claim], fps: int) -> None:
    rounds = converted(maker().captions("event", told), fps)
    responses = [
        (index / fps, turn.text) for index, turn in enumerate(rounds) if turn.state is State.RESPONSE
    ]
    for claim in told:
        (at_s,) = [at_s for at_s, text in responses if claim.text in text.split("; ")]
        # Too short to be shown under way at one frame a second, it is told by its moment, as narration is.
        is_shown = math.ceil(claim.start_s) < math.ceil(claim.end_s)
        assert claim.end_s <= at_s <= claim.end_s + (1 if is_shown or fps == 1 else 2)
    assert sum(len(text.split("; ")) for _, text in responses) == len(told)
    for index, turn in enumerate(rounds):
        under_way = [c for c in told if c.start_s <= index / fps and index / fps <= math.ceil(c.end_s)]
        assert turn.state is not State.STANDBY or under_way
        # At one frame a second, whatever is under way and not over is never passed over in silence.
        if fps == 1 and any(math.ceil(c.start_s) <= index < math.ceil(c.end_s) for c in told):
            assert turn.state is not State.SILENCE


@given(claims, st.sampled_from([1, 2, 4]))
def test_narration_is_told_within_a_second_of_what_it_tells(told: list[Claim], fps: int) -> None:
    moments = [Claim(claim.text, claim.start_s, claim.start_s) for claim in told]
    rounds = converted(maker().narration(moments), fps)
    assert all(turn.state is not State.STANDBY for turn in rounds)
    for claim in moments:
        (at_s,) = [i / fps for i, turn in enumerate(rounds) if claim.text in turn.text.split("; ")]
        assert claim.start_s <= at_s < claim.start_s + 2


@given(st.integers(0, 200), times, times, st.sampled_from([1, 2]))
def test_grounding_is_answered_after_its_end_and_after_it_was_asked(
    seed: int, one: float, other: float, fps: int
) -> None:
    claim = Claim("When did it happen?", min(one, other), max(one, other))
    raw = maker(seed=seed).grounding(claim.text, claim)
    rounds = converted(raw, fps)
    asked = [index for index, turn in enumerate(rounds) if turn.question == claim.text]
    ((answered, text),) = [(i, turn.text) for i, turn in enumerate(rounds) if turn.state is State.RESPONSE]
    assert asked[0] == 0 and asked[-1] <= answered
    assert answered / fps >= claim.end_s
    if len(asked) > 1:  # asked after it was over: answered in the same round
        assert asked[-1] == answered
        assert all(turn.state is State.SILENCE for turn in rounds[:answered])
    start, end = (float(part.removesuffix("s")) for part in text.split(" to "))
    assert (start, end) == (pytest.approx(claim.start_s, abs=0.051), pytest.approx(claim.end_s, abs=0.051))


def test_grounding_is_asked_both_ways() -> None:
    claim = Claim("When did it happen?", 5.0, 9.0)
    asked = [maker(seed=seed).grounding(claim.text, claim) for seed in range(200)]
    late = [raw.question[0].time != "0.0" for raw in asked]
    assert [raw.response[0].time is not None for raw in asked] == late
    assert 70 < sum(late) < 130


def test_what_never_happens_is_never_answered() -> None:
    rounds = converted(maker().grounding("When did the dog bark?", None), 1)
    assert rounds[0].question == "When did the dog bark?"
    assert {turn.state for turn in rounds} == {State.SILENCE}


def test_answers_stand_where_they_become_right() -> None:
    question = Question("How many?", (Answer(0, "one"), Answer(9.2, "two"), Answer(20, "three")))
    rounds = converted(maker().qa(question), 1)
    assert "How many?" in rounds[0].question
    assert [(i, turn.text) for i, turn in enumerate(rounds) if turn.text] == [
        (0, "one"),
        (10, "two"),
        (20, "three"),
    ]


def test_samples_name_their_clip_and_vary_their_instruction() -> None:
    raw = maker().captions("event", [Claim("a car arrived", 3, 5)])
    assert (raw.video_path, raw.video_name, raw.source, raw.task_type) == (
        "clips/abc.mp4",
        "abc",
        "mine",
        "event",
    )
    for task in ("narration", "action", "event"):
        claim = [Claim("a car arrived", 3, 5)]
        drawn = {
            (maker(key).narration(claim) if task == "narration" else maker(key).captions(task, claim))
            .question[0]
            .content
            for key in map(str, range(60))
        }
        assert drawn == set(INSTRUCTIONS[task])
    assert maker("k", 3).captions("event", claim) == maker("k", 3).captions("event", claim)
