from itertools import accumulate

import pytest

from models.data.sample import Round
from models.training.loss import IGNORED
from models.training.past_times import NUM_CLASSES, PastTimes
from models.vlm.dialogue import Dialogue
from models.vlm.state import State
from services.shared.settings import ModelSettings

LETTERS = "0123456789."
S, B, R = State.SILENCE, State.STANDBY, State.RESPONSE


@pytest.fixture(scope="module")
def dialogue() -> Dialogue:
    return Dialogue.load(ModelSettings().path, "")


def asked(
    dialogue: Dialogue, states: list[State], first_ms: int = 0, window_rounds: int | None = None
) -> list[tuple[str | None, str | None]]:
    """Of each round, a second and a half long: when what is under way began, and when the last Response was."""
    rounds = [
        Round(first_ms + n * 1500, first_ms + (n + 1) * 1500, state, "x" if state is R else "")
        for n, state in enumerate(states)
    ]
    texts = [
        [
            *dialogue.round_head(one.start_ms, one.end_ms, 3),
            *dialogue.reply(one.state, one.text),
            *dialogue.round_tail,
        ]
        for one in rounds
    ]
    starts = [0, *accumulate(len(text) for text in texts)][:-1]
    times = PastTimes.of(dialogue, rounds, starts, window_rounds)
    tokens = [token for text in texts for token in text]
    found, at = [], 0
    for one in rounds:
        own = f"{one.end_ms / 1000:g}"
        # Each place is the token before a letter of the end time.
        places = times.places[at : at + len(own)]
        assert dialogue.text([tokens[place + 1] for place in places]) == own
        found.append(tuple(read(times.letters[at : at + len(own), column]) for column in (0, 1)))
        at += len(own)
    assert at == len(times.places) == len(times.letters)
    return found


def read(letters: list[int]) -> str | None:
    if all(letter == IGNORED for letter in letters):
        return None
    return "".join(
        "$" if letter == NUM_CLASSES - 1 else LETTERS[letter] for letter in letters if letter != IGNORED
    )


def test_what_is_under_way_began_with_its_first_standby(dialogue: Dialogue) -> None:
    began = [one for one, _ in asked(dialogue, [S, B, B, R, B, S, R], first_ms=10_000)]
    # Asked in a tag, before the round's own state is known; as many letters as the tag's own time has.
    assert began == [None, None, "13$", "13", None, "17", None]


def test_the_last_response_is_asked_for_from_the_next_round_on(dialogue: Dialogue) -> None:
    told = [one for _, one in asked(dialogue, [S, R, S, B, R, S, S], first_ms=10_000)]
    assert told == [None, None, "13$", "13", "13$", "17", "17.5"]


def test_what_has_left_the_window_is_not_asked_for(dialogue: Dialogue) -> None:
    told = [one for _, one in asked(dialogue, [R, S, S, S, S], first_ms=10_000, window_rounds=3)]
    assert [one is not None for one in told] == [False, True, True, False, False]
