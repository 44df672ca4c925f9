"""What evaluation runs over, and what it writes down of each run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from models.data.finding import BrokenSample
from models.data.sample import Round
from models.vlm.state import State

_LETTERS = {State.SILENCE: "-", State.STANDBY: "s", State.RESPONSE: "R"}
_STATES = {letter: state for state, letter in _LETTERS.items()}


class Slots(Protocol):
    """What one told text says, and the ends of the span that it names, where it names one."""

    @property
    def start_ms(self) -> int | None: ...

    @property
    def end_ms(self) -> int | None: ...

    def agrees_with(self, other: Any) -> bool:
        """Whether another text of the same source says the same, in whatever words this one allows."""
        ...


class StreamSource(Protocol):
    """Where streams and the meaning of their texts come from: a simulator, a labelled data set."""

    @property
    def settings(self) -> dict[str, Any]:
        """JSON that names exactly these streams: equal settings, equal streams."""
        ...

    @property
    def num_streams(self) -> int: ...

    def streams(self) -> Iterator[EvaluationStream]:
        """In a fixed order, made as they are asked for."""
        ...

    def leave_out(self, broken: BrokenSample) -> None:
        """For a stream whose frames were found broken as they were asked for; raises it where none may be missing."""
        ...

    def parse(self, task: str, text: str) -> tuple[Slots | None, ...]:
        """What a told text says, one per part; None for a part without a meaning."""
        ...


@dataclass(frozen=True)
class EvaluationStream:
    """One watch on one stream, with what is right to say after each kept frame.

    `stream_id`: unique in its source. `group`: streams that are variants of one scene share it, and intervals
    resample them together. `kind`: how the scene was drawn ("lively", "quiet"). `tags`: what else a report tells
    apart. `rounds`: gold, one per kept frame. `num_past_rounds` of them were shown before the instruction came:
    silence is forced on them and they are not scored. `frames`: pictures uint8 [H, W, 3] of a size the model's
    budget gives, one per round, as often as it is called; BrokenSample where they cannot be had.
    """

    stream_id: str
    group: str
    kind: str
    task: str
    instruction: str
    rounds: tuple[Round, ...]
    start_offset_s: int
    frames: Callable[[], Iterator[np.ndarray]] = field(repr=False, compare=False)
    num_past_rounds: int = 0
    tags: tuple[str, ...] = ()

    def record(self, told: tuple[Round, ...], num_truncated: int = 0) -> StreamRecord:
        """What is written down of a run on it in which this was said."""
        return StreamRecord(
            stream_id=self.stream_id,
            group=self.group,
            kind=self.kind,
            task=self.task,
            instruction=self.instruction,
            start_offset_s=self.start_offset_s,
            num_past_rounds=self.num_past_rounds,
            gold=self.rounds,
            told=told,
            num_truncated=num_truncated,
            tags=self.tags,
        )


@dataclass(frozen=True)
class StreamRecord:
    """What was right and what was said on one stream. `gold` and `told` have one round per kept frame."""

    stream_id: str
    group: str
    kind: str
    task: str
    instruction: str
    start_offset_s: int
    num_past_rounds: int
    gold: tuple[Round, ...]
    told: tuple[Round, ...]
    num_truncated: int = 0
    """Replies that were cut at the longest length allowed."""
    tags: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "stream_id": self.stream_id,
            "group": self.group,
            "kind": self.kind,
            "task": self.task,
            "instruction": self.instruction,
            "start_offset_s": self.start_offset_s,
            "num_past_rounds": self.num_past_rounds,
            "num_truncated": self.num_truncated,
            "tags": list(self.tags),
            "start_ms": [one.start_ms for one in self.gold],
            "end_ms": [one.end_ms for one in self.gold],
            **{f"{name}_{key}": value for name, rounds in self._sides for key, value in _packed(rounds)},
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> StreamRecord:
        return cls(
            **{
                name: values[name]
                for name in (
                    "stream_id",
                    "group",
                    "kind",
                    "task",
                    "instruction",
                    "start_offset_s",
                    "num_past_rounds",
                    "num_truncated",
                )
            },
            tags=tuple(values["tags"]),
            gold=_unpacked(values, "gold"),
            told=_unpacked(values, "told"),
        )

    @property
    def _sides(self) -> tuple[tuple[str, tuple[Round, ...]], ...]:
        return (("gold", self.gold), ("told", self.told))


def _packed(rounds: tuple[Round, ...]) -> Iterator[tuple[str, Any]]:
    yield "states", "".join(_LETTERS[one.state] for one in rounds)
    yield "texts", {str(index): one.text for index, one in enumerate(rounds) if one.state is State.RESPONSE}


def _unpacked(values: dict[str, Any], name: str) -> tuple[Round, ...]:
    texts = values[f"{name}_texts"]
    columns = zip(values["start_ms"], values["end_ms"], values[f"{name}_states"], strict=True)
    return tuple(
        Round(start_ms, end_ms, _STATES[letter], texts.get(str(index), ""))
        for index, (start_ms, end_ms, letter) in enumerate(columns)
    )
