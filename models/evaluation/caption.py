"""What texts in free words say: those of labelled clips, which follow no grammar that could be read into slots."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from models.data.sample import SEPARATOR
from models.data.span import read_span
from models.data.words import said_words


@dataclass(frozen=True)
class Caption:
    """One told thing by its words. Two say the same if the F1 of their words, each as often as it stands there, is at
    least `min_word_f1`.
    """

    words: tuple[str, ...]
    start_ms: int | None
    end_ms: int | None
    min_word_f1: float

    def agrees_with(self, other: Any) -> bool:
        shared = (Counter(self.words) & Counter(other.words)).total()
        return 2 * shared >= self.min_word_f1 * (len(self.words) + len(other.words))


@dataclass(frozen=True)
class CaptionReader:
    """1: the same words, case, punctuation, articles, order and how numbers are written aside."""

    min_word_f1: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.min_word_f1 <= 1:
            raise ValueError(f"min_word_f1 {self.min_word_f1}: must be above 0 and at most 1")

    def parse(self, task: str, text: str) -> tuple[Caption | None, ...]:
        """The parts of a text; None for one without a word. Only of `grounding` is a span read."""
        return tuple(self._read(task, part) for part in text.split(SEPARATOR))

    def _read(self, task: str, part: str) -> Caption | None:
        words = said_words(part)
        if not words:
            return None
        start_ms, end_ms = (read_span(part) if task == "grounding" else None) or (None, None)
        return Caption(words, start_ms, end_ms, self.min_word_f1)
