from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.data.sample import Round, Sample, Truth
from models.training import mistakes
from models.training.dataset import make_example
from models.training.loss import IGNORED
from models.training.mistakes import with_mistakes, with_wrong_words
from models.vlm.dialogue import Dialogue
from models.vlm.pixels import PixelFormat
from models.vlm.state import State

LETTERS = {"-": State.SILENCE, "s": State.STANDBY, "R": State.RESPONSE}


def sample_of(states: str, task: str = "event", first_live: int = 0) -> Sample:
    rounds = [
        Round(1000 * n, 1000 * n + 1000, LETTERS[letter], f"text {n}" if letter == "R" else "")
        for n, letter in enumerate(states)
    ]
    frames = np.zeros((len(states), 28, 56, 3), dtype=np.uint8)
    return Sample(task, "Tell me.", frames, tuple(rounds), Truth.none(len(states)), "test", first_live)


def written(rounds: tuple[Round, ...]) -> str:
    return "".join("-sR"[round_.state] for round_ in rounds)


def missed(states: str, task: str = "event", seed: int = 0, first_live: int = 0) -> tuple[str, str]:
    sample = sample_of(states, task, first_live)
    right, given_rounds = with_mistakes(sample, 1.0, np.random.default_rng(seed))
    return written(right.rounds), written(given_rounds)


def test_without_mistakes_nothing_changes() -> None:
    sample = sample_of("-ssR-R")
    right, given_rounds = with_mistakes(sample, 0.0, np.random.default_rng(0))
    assert right.rounds == given_rounds == sample.rounds


def test_a_response_is_missed_and_standby_comes_late_or_never() -> None:
    outcomes = {missed("-sssR-", seed=seed) for seed in range(40)}
    # A false alarm is followed by a round of Silence before anything else: there is no room for one here.
    assert outcomes == {("-sssR-", given) for given in ("--ss--", "---s--", "------")}


def test_an_answer_is_owed_until_it_is_given() -> None:
    outcomes = {missed("R---------", "qa", seed=seed) for seed in range(40)}
    late = (1, 2, 3, 4)
    assert outcomes == {("R" * (1 + n) + "-" * (9 - n), "-" * n + "R" + "-" * (9 - n)) for n in late}
    # Where another is due before, the first one is never given.
    right, given = missed("RR--", "qa")
    assert (right.startswith("RR") and given.startswith("--")) or given.startswith("-R")
    sample, given_rounds = with_mistakes(sample_of("R----", "qa"), 1.0, np.random.default_rng(1))
    assert {one.text for one in (*sample.rounds, *given_rounds) if one.state is State.RESPONSE} == {"text 0"}


def test_a_false_alarm_ends_in_silence_before_anything_begins() -> None:
    outcomes = {missed("-----ssR--", seed=seed)[1] for seed in range(4000)}
    assert any("s-" in given[:5] for given in outcomes)
    assert all(given[4] == "-" for given in outcomes)
    # What is right there stays Silence, and tasks without Standby know no such thing.
    assert {missed("-" * 12, seed=seed)[0] for seed in range(200)} == {"-" * 12}
    for task in ("narration", "qa"):
        assert {missed("-" * 12, task, seed=seed)[1] for seed in range(200)} == {"-" * 12}
    runs = {len(run) for seed in range(4000) for run in missed("-" * 30, seed=seed)[1].split("-") if run}
    assert runs >= set(range(1, 9))


@given(
    st.text("-sR", min_size=1, max_size=12),
    st.integers(0, 11),
    st.integers(0, 99),
    st.sampled_from(["qa", "event"]),
)
@settings(max_examples=200)
def test_what_is_right_is_never_less(states: str, first_live: int, seed: int, task: str) -> None:
    first_live = min(first_live, len(states) - 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mistakes, "_FALSE_ALARM_SHARE", 0.5)
        right, given_rounds = missed(states, task, seed, first_live)
    for before, label, said in zip(states, right, given_rounds, strict=True):
        assert label == before or (task == "qa" and before == "-" and label == "R")
        assert said in ("-", label) or (task != "qa" and before == "-" and said == "s")
    assert right[:first_live] == given_rounds[:first_live] == states[:first_live]


def test_of_a_mistake_the_right_state_is_learnt_and_nothing_else(model_dir, recipe) -> None:
    dialogue = Dialogue.load(model_dir, recipe.streamo.system_prompt)
    pixels = PixelFormat.load(model_dir)
    sample = sample_of("-sR")
    silent = tuple(Round(one.start_ms, one.end_ms, State.SILENCE) for one in sample.rounds)
    example = make_example(sample, dialogue, pixels, given=silent)
    silence, standby, response = dialogue.state_token_ids
    at = [decision + 1 for decision in example.decisions]
    assert example.token_ids[at].tolist() == [silence] * 3
    assert example.labels[at].tolist() == [silence, standby, response]
    learnt = (example.labels != IGNORED).sum()
    assert learnt == 2 + 1 + 1  # the first round is right, and its end is learnt too
    assert len(example.token_ids) == len(make_example(sample_of("---"), dialogue, pixels).token_ids)


def test_a_given_round_too_few_is_an_error(model_dir, recipe) -> None:
    dialogue = Dialogue.load(model_dir, recipe.streamo.system_prompt)
    with pytest.raises(ValueError, match="shorter"):
        make_example(sample_of("--"), dialogue, PixelFormat.load(model_dir), given=sample_of("-").rounds)


def test_a_wrong_word_stands_in_some_replies_and_is_never_the_right_one() -> None:
    words = ("red", "green", "blue")
    texts = ("a red car left; a greenish van came", "no", "")
    rounds = tuple(Round(0, 1000, State.RESPONSE if text else State.SILENCE, text) for text in texts)
    drawn = [with_wrong_words(rounds, words, np.random.default_rng(seed)) for seed in range(4000)]
    said = [one[0].text for one in drawn]
    assert set(said) == {texts[0].replace("red", word) for word in words}
    assert 0.23 < sum(text != texts[0] for text in said) / len(said) < 0.27
    assert all(one[1:] == rounds[1:] for one in drawn)


def test_after_a_wrong_word_the_right_words_are_learnt(model_dir, recipe) -> None:
    dialogue = Dialogue.load(model_dir, recipe.streamo.system_prompt)
    pixels = PixelFormat.load(model_dir)

    def saying(text: str) -> Sample:
        sample = sample_of("-R-")
        return replace(
            sample, rounds=(sample.rounds[0], replace(sample.rounds[1], text=text), sample.rounds[2])
        )

    right, wrong = saying("a b car"), saying("a c car")
    example = make_example(right, dialogue, pixels, given=wrong.rounds)
    assert example.token_ids.tolist() == make_example(wrong, dialogue, pixels).token_ids.tolist()
    assert example.labels.tolist() == make_example(right, dialogue, pixels).labels.tolist()
    assert example.token_ids.tolist() != make_example(right, dialogue, pixels).token_ids.tolist()
    with pytest.raises(ValueError, match="round 1: 'a car' has not as many tokens as 'a b car'"):
        make_example(right, dialogue, pixels, given=saying("a car").rounds)
