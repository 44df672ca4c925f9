"""Records made by hand: what gold says and what was told, a round a second."""

from collections.abc import Mapping

import pytest

from models.data.sample import Round
from models.evaluation.stream import StreamRecord
from models.vlm.state import State

LETTERS = {"-": State.SILENCE, "s": State.STANDBY, "R": State.RESPONSE}


def rounds_of(states: str, texts: Mapping[int, str], first_ms: int = 0) -> tuple[Round, ...]:
    """Round i is [i, i + 1] s after `first_ms`; `texts` by index of round."""
    return tuple(
        Round(first_ms + 1000 * i, first_ms + 1000 * (i + 1), LETTERS[letter], texts.get(i, ""))
        for i, letter in enumerate(states)
    )


@pytest.fixture
def record():
    def make(
        task: str,
        gold: str,
        told: str,
        gold_texts: Mapping[int, str] | None = None,
        told_texts: Mapping[int, str] | None = None,
        *,
        name: str = "stream",
        group: str = "",
        kind: str = "lively",
        offset_s: int = 0,
        num_past_rounds: int = 0,
    ) -> StreamRecord:
        return StreamRecord(
            stream_id=name,
            group=group or name,
            kind=kind,
            task=task,
            instruction="",
            start_offset_s=offset_s,
            num_past_rounds=num_past_rounds,
            gold=rounds_of(gold, gold_texts or {}, offset_s * 1000),
            told=rounds_of(told, told_texts or {}, offset_s * 1000),
        )

    return make
