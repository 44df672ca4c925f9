"""What the states and texts of a watch's rounds are to a subscriber: the event life cycle, as it is served."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from models.vlm.state import State

# The other tasks have no open phase: their Standby tells subscribers nothing.
OPENING_TASKS = frozenset({"action", "event", "grounding"})


class Phase(StrEnum):
    OPEN = "open"
    CLOSE = "close"
    ANSWER = "answer"
    RETRACT = "retract"


@dataclass(frozen=True)
class WatchEvent:
    """`media_ms`: of the frame it was decided at. `open_ms`: of a CLOSE or RETRACT, its OPEN's; else None."""

    phase: Phase
    media_ms: int
    text: str = ""
    open_ms: int | None = None

    @property
    def is_told(self) -> bool:
        """Whether it says something in words: a CLOSE or an ANSWER."""
        return self.phase in (Phase.CLOSE, Phase.ANSWER)


def watch_events(task: str, rounds: Iterable[tuple[int, State, str]]) -> list[WatchEvent]:
    """Events of rounds (media_ms, state, text) in their order. What is still open at the end stays so."""
    events = []
    opened_ms: int | None = None
    for media_ms, state, text in rounds:
        if state is State.STANDBY:
            if opened_ms is None and task in OPENING_TASKS:
                opened_ms = media_ms
                events.append(WatchEvent(Phase.OPEN, media_ms))
        elif state is State.RESPONSE:
            phase = Phase.CLOSE if task in OPENING_TASKS else Phase.ANSWER
            events.append(WatchEvent(phase, media_ms, text, opened_ms))
            opened_ms = None
        elif opened_ms is not None:
            events.append(WatchEvent(Phase.RETRACT, media_ms, open_ms=opened_ms))
            opened_ms = None
    return events
