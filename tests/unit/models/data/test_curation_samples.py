"""Kept claims through the raw format and its conversion: what a model would be taught, frame by frame."""

import json
import math
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.data.curation import filters
from models.data.curation.claims import Answer, Claim, Question
from models.data.curation.clip import Clip
from models.data.curation.sample_maker import INSTRUCTIONS, SampleMaker
from models.data.raw_sample import RawSample
from models.data.sessions import SessionFile
from models.data.stream_format import FrameRound, frame_rounds
from models.data.video_file import VideoFile
from models.vlm.state import State

DURATION_S = 60
CLIP_FPS = 8


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


def believed_samples(rng: random.Random, duration_s: float) -> Iterator[tuple[RawSample, str]]:
    """Of a clip of that length, with what each tells, of a claim at any time of it that the filters let pass."""
    clip = Clip(f"{duration_s}", "mine", "v.mp4", "sha", 0.0, duration_s, Path("clips/v.mp4"))
    maker = SampleMaker(clip, seed=0)
    end_s = round(rng.uniform(0, duration_s), 1)
    claim = Claim("a man came", max(0.0, end_s - rng.choice((0.0, 0.5, 3.0))), end_s)
    if not filters.sound([claim], duration_s)[0][1]:
        yield maker.narration([Claim(claim.text, end_s, end_s)]), claim.text
        yield maker.captions("event", [claim]), claim.text
        yield maker.grounding("When did a man come?", claim), " to "
    question, reason = filters.sound_question(
        Question("Who is there?", (Answer(0.0, "nobody"), Answer(end_s, "a man"))), duration_s
    )
    if not reason:
        yield maker.qa(question), "a man"


@pytest.mark.parametrize("fps", [1.0, 2.0])
def test_what_the_filters_let_pass_is_told_in_the_conversion_and_in_our_own_recipe(
    fps: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def opened(path: Path) -> VideoFile:
        duration_s = float(path.parent.name)
        return VideoFile(path, int(duration_s * CLIP_FPS), CLIP_FPS)

    monkeypatch.setattr(VideoFile, "open", opened)
    rng = random.Random(1)
    durations_s = [round(rng.uniform(8, 60), rng.choice((0, 3))) for _ in range(400)]
    samples = [
        (raw.model_copy(update={"video_path": f"{duration_s}/v.mp4"}), text)
        for duration_s in durations_s
        for raw, text in believed_samples(rng, duration_s)
    ]
    assert len(samples) > 1200
    path = tmp_path / "raw.json"
    path.write_text(json.dumps([raw.to_element() for raw, _ in samples]))
    file = SessionFile(path, tmp_path, fps)
    for index, (raw, text) in enumerate(samples):
        rounds, left_out = frame_rounds(raw, opened(Path(raw.video)).num_frames_at(fps), fps)
        assert left_out == []
        assert any(text in turn.text for turn in rounds)
        findings: list[object] = []
        sessions = file.sessions(index, findings.append)
        assert findings == []
        assert any(text in one.text for session in sessions for one in session.rounds)


def test_the_latest_that_can_be_told_is_told_on_the_last_frame() -> None:
    assert filters.is_over(8.0, 10.0) and filters.is_over(8.0, 10.9)
    assert not filters.is_over(8.1, 10.9)
