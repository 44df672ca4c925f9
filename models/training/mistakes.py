"""Histories in which something was missed, seen where nothing was, or called by a wrong word: what a model meets that
hears nobody but itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from models.data.sample import Round, Sample
from models.vlm.state import State

_LATE_TASKS = ("qa",)
_MAX_LATE_ROUNDS = 4
_WAITING_TASKS = ("action", "event", "grounding")
# Of the silent rounds of a history that is all mistakes, so many begin a false alarm, which lasts at most so long.
_FALSE_ALARM_SHARE = 0.04
_MAX_FALSE_ROUNDS = 8
_WRONG_WORD_SHARE = 0.25


def with_mistakes(sample: Sample, share: float, rng: np.random.Generator) -> tuple[Sample, tuple[Round, ...]]:
    """The sample with the rounds that are right, and the rounds that were given, which differ in `share` of the cases.

    Given is Silence for a Response, or for the first rounds of a run of Standby, up to all of them; or Standby for some
    rounds of Silence. What is right stays as it is: to go on seeing what is under way, whatever was said of it before,
    and to be silent again where nothing is. An answer is owed until it is given, so where it was missed it is right in
    the next rounds too.
    """
    right, given = list(sample.rounds), list(sample.rounds)
    index = sample.first_live
    while index < len(right):
        round_, end = right[index], index + 1
        if round_.state is State.STANDBY:
            end = _end_of_run(right, index)
            num_missed = int(rng.integers(1, end - index + 1)) if rng.random() < share else 0
            for missed in range(index, index + num_missed):
                given[missed] = replace(right[missed], state=State.SILENCE)
        elif round_.state is State.RESPONSE and rng.random() < share:
            given[index] = replace(round_, state=State.SILENCE, text="")
            if sample.task in _LATE_TASKS:
                end = _answer_late(right, given, index, int(rng.integers(1, _MAX_LATE_ROUNDS + 1)))
        elif (
            round_.state is State.SILENCE
            and sample.task in _WAITING_TASKS
            and rng.random() < share * _FALSE_ALARM_SHARE
        ):
            # A silent round stands between a false alarm and what comes, whose beginning is told by its Standby.
            alarm_end = min(
                index + int(rng.integers(1, _MAX_FALSE_ROUNDS + 1)), _end_of_run(right, index) - 1
            )
            given[index:alarm_end] = [replace(one, state=State.STANDBY) for one in right[index:alarm_end]]
            end = max(end, alarm_end)
        index = end
    return replace(sample, rounds=tuple(right)), tuple(given)


def with_wrong_words(
    rounds: Sequence[Round], words: Sequence[str], rng: np.random.Generator
) -> tuple[Round, ...]:
    """The rounds with another of `words` in place of each, in a quarter of the replies.

    After a wrong word the next ones are as right as before: so what follows it is learnt from what is to be seen, and
    not from which words have stood together. What the training set never shows together can then be told.
    """
    any_word = re.compile(rf"\b({'|'.join(map(re.escape, words))})\b")

    def another(match: re.Match[str]) -> str:
        others = [word for word in words if word != match[0]]
        return others[int(rng.integers(len(others)))]

    return tuple(
        replace(one, text=any_word.sub(another, one.text))
        if one.text and rng.random() < _WRONG_WORD_SHARE
        else one
        for one in rounds
    )


def _end_of_run(rounds: list[Round], index: int) -> int:
    """The first round after `index` whose state is another."""
    end = index + 1
    while end < len(rounds) and rounds[end].state is rounds[index].state:
        end += 1
    return end


def _answer_late(right: list[Round], given: list[Round], index: int, num_late: int) -> int:
    """Has the answer of round `index` given `num_late` rounds later, or not at all if another is due before; the round
    after it."""
    answer, last = right[index], index + num_late
    for later in range(index + 1, min(last + 1, len(right))):
        if right[later].state is not State.SILENCE:
            return later
        right[later] = replace(right[later], state=State.RESPONSE, text=answer.text)
        if later == last:
            given[later] = right[later]
    return min(last + 1, len(right))
