"""Scores of StreamingBench result files: as the official counter gives them, beside a strict reading and floors."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, StrictStr

from models.data.finding import FieldError
from models.evaluation.benchmarks.shape import Seconds, check_object, check_shape

TOTAL = "total"
# Before the mode, in place of a model's name: the layout has no other room to say how answers came about.
_LABEL = "streamo"
_TOLERANCE_S = 2
_LETTERS = ("A", "B", "C", "D")


@dataclass(frozen=True)
class ChoiceShares:
    """Percent right of the questions of one task.

    `official` leaves out the `num_silent` questions without an answer, as the official counter does (or stops at
    them); `strict` counts them as wrong and asks for one plain letter. `floor`: the best constant letter.
    """

    official: float | None
    strict: float
    floor: float
    floor_answer: str
    num_questions: int
    num_silent: int


@dataclass(frozen=True)
class ProactiveShares:
    """Percent told within 2 s of the right moment, and of these with the right words. Silence is wrong."""

    in_time: float
    right: float
    num_questions: int
    num_silent: int


@dataclass(frozen=True)
class StreamingScore:
    choices: dict[str, ChoiceShares]
    proactive: dict[str, ProactiveShares]


def clock_s(text: str) -> int:
    """Seconds of "HH:MM:SS" or "MM:SS"."""
    try:
        return sum(int(part) * 60**place for place, part in enumerate(reversed(text.split(":"))))
    except ValueError:
        raise ValueError(f"time stamp {text!r}: needs HH:MM:SS") from None


def _readable(text: str) -> str:
    try:
        clock_s(text)
    except ValueError:
        raise FieldError("", "needs HH:MM:SS", repr(text)) from None
    return text


Clock = Annotated[StrictStr, AfterValidator(_readable)]


class _Turn(BaseModel):
    time: Seconds
    content: StrictStr


class _Dialogue(BaseModel):
    answered: Any
    dialog_history: list[_Turn]


class _Choice(BaseModel):
    task_type: StrictStr
    answer: StrictStr
    response: StrictStr | None


class _Proactive(BaseModel):
    task_type: StrictStr
    ground_truth_time_stamp: Clock
    ground_truth_output: StrictStr
    response: _Dialogue


def read_question_file(path: Path) -> list[Any]:
    """A question file, with or without responses in it. ValueError, naming place and field, if it is none."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(data, list):
        raise ValueError(f"{path} is no question file: it needs a list")
    for number, entry in enumerate(data):
        for place, subset in enumerate(entry if isinstance(entry, list) else [entry]):
            check_object(subset, f"{path}: entry {number}-{place}")
            if not isinstance(subset.get("questions"), list):
                raise ValueError(f"{path}: entry {number}-{place}: questions: must be a list of questions")
            for index, values in enumerate(subset["questions"]):
                check_object(values, f"{path}: question {number}-{place}-{index}")
    return data


def label(mode: str) -> str:
    """The name under which our responses of a mode stand in a result file."""
    return f"{_LABEL}-{mode}"


def labels_in(data: Sequence[Any]) -> list[str]:
    """Names under which our responses stand in it."""
    return sorted(
        {name for _, values in _questions(data) for name in values if name.startswith(f"{_LABEL}-")}
    )


def score_answered(data: Sequence[Any], name: str) -> StreamingScore:
    """Of the responses under `name`, by task and in total. ValueError if there are none, or one cannot be scored."""
    choices: dict[str, list[Mapping[str, Any]]] = {}
    proactive: dict[str, list[Mapping[str, Any]]] = {}
    for key, values in _questions(data):
        if name not in values:
            continue
        is_proactive = "ground_truth_time_stamp" in values
        shape = _Proactive if is_proactive else _Choice
        check_shape(shape, {**values, "response": values[name]}, f"question {key} of {name!r}")
        by_task = proactive if is_proactive else choices
        for task in (values["task_type"], TOTAL):
            by_task.setdefault(task, []).append(values)
    if not choices and not proactive:
        raise ValueError(f"no question has a response of {name!r}: name the model as it is in the file")
    return StreamingScore(
        {task: _choice_shares(of_task, name) for task, of_task in choices.items()},
        {task: _proactive_shares(of_task, name) for task, of_task in proactive.items()},
    )


def _questions(data: Sequence[Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """By their places in the file."""
    for number, entry in enumerate(data):
        for place, subset in enumerate(entry if isinstance(entry, list) else [entry]):
            for index, values in enumerate(subset["questions"]):
                yield f"{number}-{place}-{index}", values


def _choice_shares(questions: Sequence[Mapping[str, Any]], name: str) -> ChoiceShares:
    answered = [one for one in questions if one[name]]
    right = sum(one[name][0] == one["answer"] for one in answered)
    strict = sum(_letter(one[name]) == one["answer"] for one in questions)
    floors = {letter: sum(one["answer"] == letter for one in questions) for letter in _LETTERS}
    best = max(_LETTERS, key=lambda letter: floors[letter])
    return ChoiceShares(
        official=100 * right / len(answered) if answered else None,
        strict=100 * strict / len(questions),
        floor=100 * floors[best] / len(questions),
        floor_answer=best,
        num_questions=len(questions),
        num_silent=len(questions) - len(answered),
    )


def _letter(response: Any) -> str | None:
    found = re.match(r"\s*\(?([A-D])(?:\)|[.:]|\s*$)", response or "")
    return found[1] if found else None


def _proactive_shares(questions: Sequence[Mapping[str, Any]], name: str) -> ProactiveShares:
    in_time = right = silent = 0
    for values in questions:
        response = values[name]
        silent += response["answered"] is False
        if not response["dialog_history"]:
            continue
        last = response["dialog_history"][-1]
        if abs(last["time"] - clock_s(values["ground_truth_time_stamp"])) <= _TOLERANCE_S:
            in_time += 1
            right += values["ground_truth_output"] in last["content"]
    count = len(questions)
    return ProactiveShares(100 * in_time / count, 100 * right / count, count, silent)
