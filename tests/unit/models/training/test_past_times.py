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


class Told:
    """A dialogue of rounds, a second and a half long, and the times that are looked up in it."""

    def __init__(
        self,
        dialogue: Dialogue,
        states: list[State | str],
        first_ms: int = 0,
        window_rounds: int | None = None,
    ) -> None:
        """`states`: of each round; a Response by its text."""
        self.dialogue = dialogue
        self.rounds = [
            Round(
                first_ms + n * 1500,
                first_ms + (n + 1) * 1500,
                R if isinstance(state, str) else state,
                state if isinstance(state, str) else "",
            )
            for n, state in enumerate(states)
        ]
        heads = [dialogue.round_head(one.start_ms, one.end_ms, 3) for one in self.rounds]
        replies = [dialogue.reply(one.state, one.text) for one in self.rounds]
        texts = [[*head, *reply, *dialogue.round_tail] for head, reply in zip(heads, replies, strict=True)]
        self.starts = [0, *accumulate(len(text) for text in texts)][:-1]
        self.decisions = [start + len(head) - 1 for start, head in zip(self.starts, heads, strict=True)]
        self.tokens = [token for text in texts for token in text]
        self.times = PastTimes.of(dialogue, self.rounds, self.starts, self.decisions, window_rounds)

    def text_at(self, places: list[int]) -> str:
        return self.dialogue.text([self.tokens[place] for place in places])

    def asked(self) -> list[str | None]:
        """Of each round: the letters of the time at which what is under way began."""
        found, at = [], 0
        for one in self.rounds:
            own = f"{one.end_ms / 1000:g}"
            # Each place is the token before a letter of the end time.
            assert self.text_at([place + 1 for place in self.times.places[at : at + len(own)]]) == own
            found.append(read(self.times.letters[at : at + len(own)]))
            at += len(own)
        assert at == len(self.times.places) == len(self.times.letters)
        return found

    def looks(self, *, in_replies: bool) -> list[tuple[int, str, int, str]]:
        """From which round, where what would come next; to which round, where what stands."""
        return [
            (self.round_of(query), self.text_at([query + 1]), self.round_of(key), self.text_at([key]))
            for query, key in self.times.looks["time"].T.tolist()
            if (query > self.decisions[self.round_of(query)]) == in_replies
        ]

    def round_of(self, place: int) -> int:
        return max(index for index, start in enumerate(self.starts) if start <= place)


def read(letters: list[int]) -> str | None:
    if all(letter == IGNORED for letter in letters):
        return None
    return "".join(
        "$" if letter == NUM_CLASSES - 1 else LETTERS[letter] for letter in letters if letter != IGNORED
    )


def test_what_is_under_way_began_with_its_first_standby(dialogue: Dialogue) -> None:
    told = Told(dialogue, [S, B, B, "x", B, S, "x"], first_ms=10_000)
    # Asked in a tag, before the round's own state is known; as many letters as the tag's own time has.
    assert told.asked() == [None, None, "13$", "13", None, "17", None]
    # It stands in the tag after that round, where it is looked up letter by letter.
    looks = [(2, "1", 2, "1"), (2, "4", 2, "3"), (2, ".", 2, "s"), (3, "1", 2, "1"), (3, "6", 2, "3")]
    assert told.looks(in_replies=False)[:5] == looks
    assert {pair[::2] for pair in told.looks(in_replies=False)[5:]} == {(5, 5)}
    queries = told.times.looks["time"][0]
    assert (queries[1:] >= queries[:-1]).all()


def test_what_has_left_the_window_is_not_asked_for(dialogue: Dialogue) -> None:
    told = Told(dialogue, [B, B, B, B, B], first_ms=10_000, window_rounds=3)
    # The tag of the second round shows it still when the first is gone.
    assert [one is not None for one in told.asked()] == [False, True, True, True, False]
    assert {pair[::2] for pair in told.looks(in_replies=False)} == {(1, 1), (2, 1), (3, 1)}


def test_a_span_is_looked_up_where_it_began_and_in_its_own_round(dialogue: Dialogue) -> None:
    told = Told(dialogue, [S, B, S, "from 13 to 16 seconds"], first_ms=10_000)
    began, own = told.looks(in_replies=True)[:3], told.looks(in_replies=True)[3:]
    assert began == [(3, "1", 2, "1"), (3, "3", 2, "3"), (3, "to", 2, "s")]
    assert own == [(3, "1", 3, "1"), (3, "6", 3, "6"), (3, "se", 3, "s")]


@pytest.mark.parametrize("states", [[S, S, S, "13s to 16s"], [B, B, B, "11.5s to 16s"]])
def test_a_time_that_the_history_does_not_show_is_not_looked_up(
    dialogue: Dialogue, states: list[State | str]
) -> None:
    window_rounds = 2 if B in states else None
    told = Told(dialogue, states, first_ms=10_000, window_rounds=window_rounds)
    assert {pair[2] for pair in told.looks(in_replies=True)} == {3}


def test_a_tag_looks_at_the_state_before_it_and_that_at_the_one_before(dialogue: Dialogue) -> None:
    told = Told(dialogue, [S, B, "x"], first_ms=9_000)
    silence, standby, response = (decision + 1 for decision in told.decisions)
    assert told.times.looks["change"].T.tolist() == [[standby, silence], [response, standby]]
    queries, keys = told.times.looks["state"]
    assert [told.text_at(list(queries[keys == state])) for state in (silence, standby)] == ["10.5s-", "12s-"]
    assert set(keys.tolist()) == {silence, standby}
