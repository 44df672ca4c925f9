"""What a teacher says about a clip, and what becomes of it."""

from dataclasses import asdict, dataclass
from typing import Any

Span = tuple[float, float]


@dataclass(frozen=True)
class Claim:
    """Something said to happen from start_s to end_s of a clip; the two are equal for a moment."""

    text: str
    start_s: float
    end_s: float

    @property
    def span(self) -> Span:
        return self.start_s, self.end_s


@dataclass(frozen=True)
class Answer:
    """Right from `time_s` of the clip until the next one."""

    time_s: float
    text: str


@dataclass(frozen=True)
class Question:
    """`answers` in order of time."""

    text: str
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Verdict:
    """A claim or a question after the filters. `reason` says why it was rejected; "" it is kept, and then `kept` is
    what the looks agreed on. `looks`: what each further look found: spans, or an answer."""

    clip_key: str
    task: str
    claimed: Claim | Question
    kept: Claim | Question | None
    reason: str = ""
    looks: tuple[Any, ...] = ()

    def to_element(self) -> dict[str, Any]:
        return {
            "clip": self.clip_key,
            "task": self.task,
            "claimed": asdict(self.claimed),
            "kept": None if self.kept is None else asdict(self.kept),
            "reason": self.reason,
            "looks": list(self.looks),
        }
