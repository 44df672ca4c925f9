"""Which streams of a simulator are run."""

from __future__ import annotations

from dataclasses import dataclass

from models.data.place.query import TASKS
from models.data.place.split import check_split


@dataclass(frozen=True)
class StreamPlan:
    """Streams of each task, as many.

    In `lively_streams` of `lively_rounds` frames something happens all the time, and most ask for something that
    does; in `quiet_streams` of `quiet_minutes` hardly anything happens. `start_offsets_s`: media times at which
    streams begin; `grounding` runs every lively stream at each of them, the other tasks take them in turn. Seeds
    count from `first_seed`.
    """

    split: str = "validation"
    lively_streams: int = 24
    lively_rounds: int = 192
    quiet_streams: int = 26
    quiet_minutes: float = 18.0
    start_offsets_s: tuple[int, ...] = (0, 3_600, 360_000)
    first_seed: int = 0
    tasks: tuple[str, ...] = TASKS

    def __post_init__(self) -> None:
        check_split(self.split)
        if unknown := sorted(set(self.tasks) - set(TASKS)):
            raise ValueError(f"tasks {unknown}: must be of {', '.join(TASKS)}")
        for name in ("tasks", "start_offsets_s"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise ValueError(
                    f"{name} must name each once, got {', '.join(map(str, getattr(self, name)))}"
                )
        for name in ("lively_streams", "quiet_streams", "first_seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.lively_rounds < 1 or self.quiet_minutes <= 0:
            raise ValueError("lively_rounds must be at least 1 and quiet_minutes positive")
        if not self.start_offsets_s or min(self.start_offsets_s) < 0:
            raise ValueError(f"start_offsets_s must name times from 0 on, got {self.start_offsets_s}")

    @property
    def lively(self) -> list[tuple[str, int, int]]:
        """(task, seed, start offset) of the lively streams, in the order they are run."""
        return [
            (task, self.first_seed + number, offset_s)
            for number in range(self.lively_streams)
            for task in self.tasks
            for offset_s in (self.start_offsets_s if task == "grounding" else self._in_turn(number))
        ]

    @property
    def quiet(self) -> list[tuple[str, int, int]]:
        return [
            (task, self.first_seed + number, offset_s)
            for number in range(self.quiet_streams)
            for task in self.tasks
            for offset_s in self._in_turn(number)
        ]

    @property
    def quiet_ms(self) -> int:
        return round(self.quiet_minutes * 60_000)

    @property
    def num_streams(self) -> int:
        return len(self.lively) + len(self.quiet)

    def _in_turn(self, number: int) -> tuple[int, ...]:
        return (self.start_offsets_s[number % len(self.start_offsets_s)],)
