"""How much of what ought to be told was told: one-to-one matching of told texts with gold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from models.data.place.label import Gold
from models.data.place.wording import parse_text
from models.evaluation.matching import match_times
from models.evaluation.stream import Slots

TOLERANCE_MS = 2000


@dataclass(frozen=True)
class Told:
    """A CLOSE or ANSWER. `media_ms`: media time of the frame it was decided at."""

    media_ms: int
    text: str


@dataclass(frozen=True)
class TellingScore:
    """`num_right` of `num_gold` were told, and of `num_told` told; the rest are misses and false."""

    num_gold: int = 0
    num_told: int = 0
    num_right: int = 0

    @property
    def num_false(self) -> int:
        return self.num_told - self.num_right

    def __add__(self, other: TellingScore) -> TellingScore:
        return TellingScore(
            self.num_gold + other.num_gold, self.num_told + other.num_told, self.num_right + other.num_right
        )


def score_tellings(task: str, golds: Sequence[Gold], tolds: Sequence[Told]) -> TellingScore:
    """Matches each part of each told text with at most one gold of the same slots within TOLERANCE_MS.

    The matching makes as many pairs as can be made. A told text may join several parts; each counts on its own.
    Wrong words, a wrong time and a repeat are each one false, and leave a miss where gold was to be told.
    """
    parts = [(told.media_ms, slots) for told in tolds for slots in parse_text(task, told.text)]
    pairs = match_times(
        [media_ms for media_ms, _ in parts],
        [gold.frame_ms for gold in golds],
        TOLERANCE_MS,
        lambda told, gold: is_same(parts[told][1], golds[gold].slots, TOLERANCE_MS),
    )
    return TellingScore(num_gold=len(golds), num_told=len(parts), num_right=len(pairs))


def is_same(told: Slots | None, gold: Slots | None, tolerance_ms: int) -> bool:
    """Whether both say the same; a span does if both its ends are within `tolerance_ms` of gold's."""
    if told is None or gold is None:
        return False
    if told.start_ms is None or told.end_ms is None or gold.start_ms is None or gold.end_ms is None:
        return told.agrees_with(gold)
    return (
        abs(told.start_ms - gold.start_ms) <= tolerance_ms and abs(told.end_ms - gold.end_ms) <= tolerance_ms
    )
