import numpy as np

from models.data.sample import Round, Sample
from models.training.begun_time import NUM_CLASSES, begun_times
from models.training.loss import IGNORED
from models.vlm.state import State

LETTERS = "0123456789."
S, B, R = State.SILENCE, State.STANDBY, State.RESPONSE


def sample_of(states: list[State], since: tuple[int, ...] = (), step_ms: int = 1500) -> Sample:
    rounds = [
        Round(n * step_ms, (n + 1) * step_ms, state, "x" if state is R else "")
        for n, state in enumerate(states)
    ]
    frames = np.zeros((len(states), 28, 28, 3), dtype=np.uint8)
    return Sample(
        "grounding", "Find it.", frames, tuple(rounds), np.zeros((len(states), 0), int), (), "test", 0, since
    )


def read(letters: np.ndarray) -> str | None:
    if (letters == IGNORED).all():
        return None
    end = letters.tolist().index(NUM_CLASSES - 1)
    assert (letters[end + 1 :] == IGNORED).all()
    return "".join(LETTERS[letter] for letter in letters[:end])


def test_what_is_under_way_began_with_its_first_standby_and_ends_with_its_response() -> None:
    told = [read(row) for row in begun_times(sample_of([S, B, B, R, B, S, R, B]))]
    assert told == [None, "3", "3", "3", "7.5", None, "10.5", "12"]


def test_a_response_has_begun_where_its_text_says() -> None:
    times = begun_times(sample_of([S, S, S, R], since=(0, 1, 2, 1)))
    assert read(times[3]) == "3"


def test_what_may_have_begun_before_the_sample_is_not_asked_for() -> None:
    assert (begun_times(sample_of([B, B, R, S]))[:3] == IGNORED).all()
    assert (begun_times(sample_of([S, B, R], since=(0, 1, -3)))[2] == IGNORED).all()


def test_late_times_fit() -> None:
    times = begun_times(sample_of([S, B], step_ms=500_000_050))
    assert "".join(LETTERS[letter] for letter in times[1]) == "1000000.1"
