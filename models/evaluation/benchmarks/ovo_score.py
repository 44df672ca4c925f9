"""Scores of OVO-Bench result files: as the official scorer gives them, beside a strict reading and floors.

The official rules are lenient: a letter anywhere in the text is an answer, all digits of a text are joined to one
number, "Yes No" is right whatever was asked. What a constant answer gets on the same questions tells how much of a
score is there for nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, StrictInt, StrictStr

from models.evaluation.benchmarks.shape import check_object, check_shape

GROUPS = ("backward", "realtime", "forward")
# Beside the three groups in our own result files: how they came about.
LABEL = "streamo"
_CONSTANTS = {
    "choice": ("A", "B", "C", "D", "E"),
    "count": tuple(str(number) for number in range(11)),
    "yes_no": ("Yes", "No", "Yes No"),
}


class _Answered(BaseModel):
    response: StrictStr | list[Any] | None


class _Choice(_Answered):
    task: StrictStr
    ground_truth: StrictStr


class _Count(_Answered):
    count: StrictInt


class _Moment(_Answered):
    type: StrictInt


class _Counting(BaseModel):
    test_info: list[_Count]


class _Moments(BaseModel):
    test_info: list[_Moment]


_SHAPES: dict[str, type[BaseModel]] = {"REC": _Counting, "SSR": _Moments, "CRR": _Moments}


@dataclass(frozen=True)
class Reply:
    """One scored answer. `kind`: "choice", "count" or "yes_no"; `gold`: a letter, a number, Yes or No."""

    group: str
    task: str
    kind: str
    gold: str
    response: Any


@dataclass(frozen=True)
class Shares:
    """Percent right. `floor`: the most that one constant answer gets on the same questions, and which."""

    official: float
    strict: float
    floor: float
    floor_answer: str
    strict_floor: float
    num_probes: int
    num_silent: int


@dataclass(frozen=True)
class OvoScore:
    """`groups`: plain means of their tasks; `total`: the mean of the three groups, None where one is missing (the
    official scorer stops there). `remarks`: what a reader has to know.
    """

    tasks: dict[str, dict[str, Shares]]
    groups: dict[str, dict[str, float]]
    total: dict[str, float] | None
    remarks: tuple[str, ...]


def read_results(paths: Sequence[Path]) -> dict[str, dict[str, list[Any]]]:
    """Groups of the files, joined; by mode, since modes are never mixed ("" for files without our label).

    ValueError, naming the file, for one of another layout.
    """
    by_mode: dict[str, dict[str, list[Any]]] = {}
    for path in paths:
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} cannot be read: {error}") from error
        if not isinstance(values, dict) or any(not isinstance(values.get(group), list) for group in GROUPS):
            raise ValueError(f"{path} is no result file: it needs the lists {', '.join(GROUPS)}")
        label = values.get(LABEL, {})
        mode = label.get("mode", "") if isinstance(label, dict) else None
        if not isinstance(mode, str):
            raise ValueError(f"{path}: {LABEL}: must be an object whose mode is a text ({label!r})")
        joined = by_mode.setdefault(mode, {group: [] for group in GROUPS})
        for group in GROUPS:
            joined[group].extend(values[group])
    return by_mode


def score_results(results: dict[str, list[Any]]) -> OvoScore:
    """Scores of the three groups. ValueError, naming the item, for one that lacks what its task needs."""
    replies = [reply for group in GROUPS for item in results[group] for reply in _replies(group, item)]
    by_task: dict[tuple[str, str], list[Reply]] = {}
    for reply in replies:
        by_task.setdefault((reply.group, reply.task), []).append(reply)
    tasks: dict[str, dict[str, Shares]] = {group: {} for group in GROUPS}
    for (group, task), of_task in by_task.items():
        tasks[group][task] = _shares(of_task)
    groups = {
        group: {
            name: sum(getattr(one, name) for one in of_group.values()) / len(of_group)
            for name in ("official", "strict", "floor", "strict_floor")
        }
        for group, of_group in tasks.items()
        if of_group
    }
    total = None
    if len(groups) == len(GROUPS):
        total = {name: sum(one[name] for one in groups.values()) / len(GROUPS) for name in groups[GROUPS[0]]}
    return OvoScore(tasks, groups, total, tuple(_remarks(results, replies, groups)))


def is_right_officially(reply: Reply) -> bool:
    """The official scorer's rule, quirks and all."""
    response, gold = reply.response, reply.gold
    if response is None:
        return False
    if reply.kind == "count":
        # The official scorer ends with an error at a list; the first of it is what was meant.
        text = _first(response)
        return text is not None and "".join(re.findall(r"\d+", text)) == gold
    if reply.kind == "yes_no" and response == gold[0]:
        return True
    # Of a text this asks for a part of it; of a list, for one that is equal.
    return gold in response


def is_right_strictly(reply: Reply) -> bool:
    """One plain answer and nothing that contradicts it."""
    text = _first(reply.response)
    if text is None:
        return False
    text = text.strip()
    if reply.kind == "count":
        return re.fullmatch(r"(\d+)\.?", text) is not None and str(int(text.rstrip("."))) == reply.gold
    if reply.kind == "yes_no":
        words = {word.lower() for word in re.findall(r"[A-Za-z]+", text)} & {"yes", "no", "y", "n"}
        begins = re.match(r"(yes|no|y|n)\b", text, re.IGNORECASE)
        return begins is not None and {word[0] for word in words} == {reply.gold[0].lower()}
    choice = re.match(r"\(?([A-Z])(?:\)|[.:]|$)", text)
    return choice is not None and choice[1] == reply.gold


def _replies(group: str, item: Any) -> Iterable[Reply]:
    name = item.get("id", "?") if isinstance(item, dict) else "?"
    where = f"{group} item {name}"
    check_object(item, where)
    if group != "forward":
        check_shape(_Choice, item, where)
        yield Reply(group, item["task"], "choice", item["ground_truth"], item["response"])
        return
    task = item.get("task")
    if not isinstance(task, str) or task not in _SHAPES:
        raise ValueError(f"{where}: task: must be one of {', '.join(_SHAPES)} ({task!r})")
    check_shape(_SHAPES[task], item, where)
    for probe in item["test_info"]:
        if task == "REC":
            yield Reply(group, task, "count", str(probe["count"]), probe["response"])
        else:
            gold = "No" if probe["type"] == 0 else "Yes"
            yield Reply(group, task, "yes_no", gold, probe["response"])


def _shares(replies: Sequence[Reply]) -> Shares:
    floor, floor_answer = _floor(replies, is_right_officially)
    strict_floor, _ = _floor(replies, is_right_strictly)
    return Shares(
        official=_percent(replies, is_right_officially),
        strict=_percent(replies, is_right_strictly),
        floor=floor,
        floor_answer=floor_answer,
        strict_floor=strict_floor,
        num_probes=len(replies),
        num_silent=sum(reply.response is None for reply in replies),
    )


def _percent(replies: Sequence[Reply], rule: Callable[[Reply], bool]) -> float:
    return 100 * sum(map(rule, replies)) / len(replies)


def _floor(replies: Sequence[Reply], rule: Callable[[Reply], bool]) -> tuple[float, str]:
    def share(answer: str) -> float:
        return _percent([Reply(r.group, r.task, r.kind, r.gold, answer) for r in replies], rule)

    best = max(_CONSTANTS[replies[0].kind], key=share)
    return share(best), best


def _first(response: Any) -> str | None:
    if isinstance(response, list):
        response = response[0] if response else None
    return None if response is None else str(response)


def _remarks(
    results: dict[str, list[Any]], replies: Sequence[Reply], groups: dict[str, Any]
) -> Iterable[str]:
    missing = [group for group in GROUPS if group not in groups]
    if missing:
        yield f"no results of {', '.join(missing)}: there is no total, and the official scorer stops with an error"
    num_lists = sum(reply.kind == "count" and isinstance(reply.response, list) for reply in replies)
    if num_lists:
        yield (
            f"{num_lists} counts are lists, of which the first is taken; the official scorer stops with an error"
        )
    silent = sum(reply.response is None for reply in replies)
    if silent:
        yield f"{silent} of {len(replies)} answers are missing (null): wrong in every reading"
    for group in GROUPS:
        ids = [str(item.get("id")) for item in results[group]]
        if len(set(ids)) < len(ids):
            yield f"{group}: {len(ids) - len(set(ids))} items are there more than once and count each time"
