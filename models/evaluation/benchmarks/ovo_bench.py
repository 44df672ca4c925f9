"""OVO-Bench over a user's copy of its annotations, prompts and videos: questions out, a result file back."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, StrictInt, StrictStr, model_validator

from models.data.finding import FieldError
from models.evaluation.benchmarks.ovo_score import GROUPS, LABEL
from models.evaluation.benchmarks.probe import Answer, Mode, Probe
from models.evaluation.benchmarks.shape import Seconds, check_object, check_shape
from models.evaluation.benchmarks.wording import wording

TASKS = {
    "backward": ("EPM", "ASI", "HLD"),
    "realtime": ("OCR", "ACR", "ATR", "STU", "FPD", "OJR"),
    "forward": ("REC", "SSR", "CRR"),
}
_GROUP_OF = {task: group for group, tasks in TASKS.items() for task in tasks}


class _Item(BaseModel):
    id: StrictInt | StrictStr
    video: StrictStr


class _Choice(_Item):
    realtime: Seconds
    question: StrictStr
    options: Annotated[list[StrictStr], Field(min_length=1)]
    gt: StrictInt

    @model_validator(mode="after")
    def _names_an_option(self) -> _Choice:
        if not 0 <= self.gt < len(self.options):
            raise FieldError("gt", f"must be the index of one of {len(self.options)} options", str(self.gt))
        return self


class _Count(BaseModel):
    realtime: Seconds
    count: StrictInt


class _Moment(BaseModel):
    realtime: Seconds
    type: StrictInt


class _Step(_Moment):
    step: StrictStr


class _Counting(_Item):
    activity: StrictStr
    test_info: Annotated[list[_Count], Field(min_length=1)]


class _Steps(_Item):
    test_info: Annotated[list[_Step], Field(min_length=1)]


class _Clue(_Item):
    question: StrictStr
    ask_time: Seconds
    test_info: Annotated[list[_Moment], Field(min_length=1)]


_SHAPES: dict[str, type[BaseModel]] = {
    "backward": _Choice,
    "realtime": _Choice,
    "REC": _Counting,
    "SSR": _Steps,
    "CRR": _Clue,
}
# In push mode the answer to a multiple-choice question may come this much after it was asked.
PATIENCE_S = 2.0


@dataclass(frozen=True)
class OvoWording:
    """The benchmark's prompts: templates with one or two `{}`."""

    choice: str
    count: str
    count_question: str
    step: str
    ready: str

    @classmethod
    def read(cls, repository: Path) -> OvoWording:
        """From the user's copy of the benchmark's repository. ValueError, naming the file, where it is not there."""
        constants, runner = repository / "constant.py", repository / "utils" / "OVOBench.py"
        return cls(
            choice=wording(constants, "BR_PROMPT_TEMPLATE"),
            count=wording(constants, "REC_PROMPT_TEMPLATE"),
            count_question=wording(runner, "question"),
            step=wording(constants, "SSR_PROMPT_TEMPLATE"),
            ready=wording(constants, "CRR_PROMPT_TEMPLATE"),
        )


def read_annotations(path: Path, tasks: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The items of these tasks (of all, if none is named). ValueError, naming item and field, for a broken one."""
    try:
        items = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(items, list):
        raise ValueError(f"{path} is no annotation file: it needs a list of items")
    if unknown := sorted(set(tasks) - set(_GROUP_OF)):
        raise ValueError(f"tasks {unknown}: OVO-Bench has {', '.join(_GROUP_OF)}")
    chosen = []
    taken: dict[str, int] = {}
    for place, item in enumerate(items):
        check_object(item, f"{path}: item {place}")
        task = item.get("task")
        if not isinstance(task, str) or task not in _GROUP_OF:
            raise ValueError(f"{path}: item {place} has the task {task!r}, known are {', '.join(_GROUP_OF)}")
        where = f"{path}: item {place} ({task})"
        is_forward = _GROUP_OF[task] == "forward"
        shape = _SHAPES[task if is_forward else _GROUP_OF[task]]
        if missing := [name for name in shape.model_fields if item.get(name) is None]:
            raise ValueError(f"{where} lacks {', '.join(missing)}")
        check_shape(shape, item, where)
        for key in (
            _key(item),
            *(_key(item, at) for at in range(len(item["test_info"]) if is_forward else 0)),
        ):
            if taken.setdefault(key, place) != place:
                raise ValueError(
                    f"{where}: id: {item['id']!r} is taken by item {taken[key]}, give it another"
                )
        if not tasks or task in tasks:
            chosen.append(item)
    return chosen


def questions(
    items: Sequence[Mapping[str, Any]], texts: OvoWording, videos: Path, mode: Mode
) -> Iterator[Probe]:
    """The probes of all items.

    Clips end where the official script cuts them, at the next whole second. Official: one probe for each answer.
    Push: multiple choice has PATIENCE_S from when it is asked; each standing question is one session, from when it is
    asked to the last time it is looked at.
    """
    for item in items:
        video = videos / item["video"]
        if _GROUP_OF[item["task"]] != "forward":
            options = "; ".join(f"{chr(65 + i)}. {option}" for i, option in enumerate(item["options"])) + ";"
            prompt = texts.choice.format(item["question"], options)
            asked_s = item["realtime"]
            if mode is Mode.PUSH:
                yield Probe(_key(item), video, prompt, asked_s + PATIENCE_S, asked_s=asked_s)
            else:
                yield Probe(_key(item), video, prompt, math.ceil(asked_s))
        elif mode is Mode.OFFICIAL:
            for place, info in enumerate(item["test_info"]):
                yield Probe(
                    _key(item, place), video, _forward_prompt(item, info, texts), math.ceil(info["realtime"])
                )
        else:
            asked_s = float(item["ask_time"]) if item["task"] == "CRR" else 0.0
            for key, infos in _standing(item).items():
                end_s = math.ceil(max(info["realtime"] for info in infos))
                prompt = _forward_prompt(item, infos[0], texts)
                yield Probe(key, video, prompt, end_s, asked_s=asked_s)


def result_file(
    items: Sequence[Mapping[str, Any]],
    answers: Mapping[str, Sequence[Answer]],
    mode: Mode,
    label: Mapping[str, Any],
) -> dict[str, Any]:
    """The benchmark's own layout, with our label beside it. Silence is null.

    `answers`: by key of probe. In push mode a probe of a standing question takes the answer that stands then: the
    last one told by that time.
    """
    groups: dict[str, list[Any]] = {group: [] for group in GROUPS}
    for item in items:
        group = _GROUP_OF[item["task"]]
        if group != "forward":
            told = answers[_key(item)]
            groups[group].append(
                {
                    **{name: item[name] for name in ("id", "video", "task", "question")},
                    "response": told[0].text if told else None,
                    "ground_truth": chr(65 + item["gt"]),
                }
            )
            continue
        answered = copy.deepcopy(dict(item))
        if mode is Mode.OFFICIAL:
            for place, info in enumerate(answered["test_info"]):
                told = answers[_key(item, place)]
                info["response"] = told[-1].text if told else None
        else:
            for key, infos in _standing(answered).items():
                for info in infos:
                    told = [one for one in answers[key] if one.at_s <= info["realtime"]]
                    info["response"] = told[-1].text if told else None
        groups[group].append(answered)
    return {**groups, LABEL: {"mode": mode.value, **label}}


def _standing(item: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Times at which each question of a forward item is looked at; of SSR every step is a question of its own."""
    if item["task"] != "SSR":
        return {_key(item): list(item["test_info"])}
    by_step: dict[str, list[dict[str, Any]]] = {}
    for info in item["test_info"]:
        by_step.setdefault(info["step"], []).append(info)
    return {_key(item, place): infos for place, infos in enumerate(by_step.values())}


def _forward_prompt(item: Mapping[str, Any], info: Mapping[str, Any], texts: OvoWording) -> str:
    if item["task"] == "REC":
        return texts.count.format(texts.count_question.format(item["activity"]))
    if item["task"] == "SSR":
        return texts.step.format(info["step"])
    return texts.ready.format(item["question"])


def _key(item: Mapping[str, Any], place: int | None = None) -> str:
    return f"{item['id']}" if place is None else f"{item['id']}_{place}"
