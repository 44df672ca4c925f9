"""StreamingBench over a user's copy of its questions, prompts and videos; results in its own layout."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, StrictStr, model_validator

from models.data.finding import FieldError
from models.evaluation.benchmarks.probe import Answer, Mode, Probe
from models.evaluation.benchmarks.shape import check_shape
from models.evaluation.benchmarks.streaming_score import Clock, clock_s, read_question_file
from models.evaluation.benchmarks.wording import wording

# The official script polls from a second after the question to this long after the right moment.
POLL_PAST_S = 4
PATIENCE_S = 2.0

_LETTERS = "ABCD"

Ask = Callable[[Sequence[Probe]], Iterator[tuple[Probe, list[Answer]]]]


class _Video(BaseModel):
    video_path: StrictStr


class _Asked(BaseModel):
    task_type: StrictStr
    question: StrictStr
    time_stamp: Clock


class _Choice(_Asked):
    options: list[StrictStr]
    answer: StrictStr

    @model_validator(mode="after")
    def _has_four_options(self) -> _Choice:
        # Where they bring their letters, the benchmark itself shows the first four of some longer lists.
        num, is_lettered = len(self.options), bool(self.options) and self.options[0].startswith("A.")
        if num < len(_LETTERS) or (num > len(_LETTERS) and not is_lettered):
            raise FieldError("options", "must be four", str(num))
        return self


class _Proactive(_Asked):
    ground_truth_time_stamp: Clock
    ground_truth_output: StrictStr


@dataclass(frozen=True)
class StreamingWording:
    """The benchmark's prompts: templates with `{}`."""

    choice: str
    choice_end: str
    sequence: str
    sequence_begin: str
    sequence_turn: str
    proactive: str
    proactive_query: str

    @classmethod
    def read(cls, repository: Path) -> StreamingWording:
        """From the user's copy of the benchmark's repository. ValueError, naming the file, where it is not there."""
        folder = repository / "src" / "benchmark"
        real, sqa = folder / "StreamingBench.py", folder / "StreamingBenchSQA.py"
        proactive = folder / "StreamingBenchProactive.py"
        return cls(
            choice=wording(real, "PROMPT_TEMPLATE"),
            choice_end=wording(real, "inp"),
            sequence=wording(sqa, "PROMPT_TEMPLATE"),
            # The first text that it assigns is empty: nothing was asked before.
            sequence_begin=wording(sqa, "context", 1),
            sequence_turn=wording(sqa, "context", 2),
            proactive=wording(proactive, "PROMPT_TEMPLATE_PROACTIVE"),
            proactive_query=wording(proactive, "query"),
        )


@dataclass(frozen=True)
class Question:
    """One question with the path to it: indices in the file. `before`: those of its sequence that come first."""

    key: str
    video: Path
    values: Mapping[str, Any]
    before: tuple[Mapping[str, Any], ...] = ()
    is_sequence: bool = False

    @property
    def asked_s(self) -> int:
        return clock_s(self.values["time_stamp"])

    @property
    def is_proactive(self) -> bool:
        return "ground_truth_time_stamp" in self.values

    @property
    def options(self) -> list[str]:
        options = list(self.values["options"])
        if not options[0].startswith("A."):
            options = [f"{letter}. {option}" for letter, option in zip(_LETTERS, options, strict=True)]
        return options


def read_questions(path: Path, videos: Path) -> tuple[list[Any], list[Question]]:
    """The file as it is, and its questions. ValueError, naming place and field, for a broken one."""
    data = read_question_file(path)
    found = []
    for number, entry in enumerate(data):
        before: list[Mapping[str, Any]] = []
        for place, subset in enumerate(entry if isinstance(entry, list) else [entry]):
            check_shape(_Video, subset, f"{path}: entry {number}-{place}")
            for index, values in enumerate(subset["questions"]):
                key = f"{number}-{place}-{index}"
                video = videos / Path(subset["video_path"]).name
                one = Question(key, video, values, tuple(before), isinstance(entry, list))
                # In a sequence every question may be told, with its answer, to the ones after it.
                is_proactive = one.is_proactive and not one.is_sequence
                check_shape(_Proactive if is_proactive else _Choice, values, f"{path}: question {key}")
                found.append(one)
                before.append(values)
    return data, found


def ask_all(
    questions: Sequence[Question], texts: StreamingWording, mode: Mode, context_s: int, ask: Ask
) -> Iterator[tuple[Question, Any]]:
    """Each question with its response, as the benchmark writes it down; None for silence.

    `ask` puts probes to the model, several at once. `context_s`: how much video before a question is shown, 0 for
    all of it.
    """
    plain = {one.key: one for one in questions if not one.is_proactive}
    probes = [_choice_probe(one, texts, mode, context_s) for one in plain.values()]
    for probe, answers in ask(probes):
        yield plain[probe.key], answers[0].text if answers else None
    proactive = [one for one in questions if one.is_proactive]
    if mode is Mode.PUSH:
        by_key = {one.key: one for one in proactive}
        for probe, answers in ask([_standing_probe(one, texts) for one in proactive]):
            yield by_key[probe.key], _told(by_key[probe.key], answers)
    else:
        yield from _poll(proactive, texts, ask)


def with_responses(data: list[Any], responses: Mapping[str, Any], name: str) -> list[Any]:
    """The question file with `responses`, by key, under the model's name: what the official counter reads."""
    answered = copy.deepcopy(data)
    for key, response in responses.items():
        number, place, index = map(int, key.split("-"))
        entry = answered[number]
        subset = entry[place] if isinstance(entry, list) else entry
        subset["questions"][index][name] = response
    return answered


def _choice_probe(one: Question, texts: StreamingWording, mode: Mode, context_s: int) -> Probe:
    if one.is_sequence:
        prompt = texts.sequence.format(_history(one, texts), one.values["question"], *one.options)
    else:
        prompt = texts.choice.format(one.values["question"], *one.options) + texts.choice_end
    start_s = max(0, one.asked_s - context_s) if context_s else 0
    end_s = one.asked_s + (PATIENCE_S if mode is Mode.PUSH else 0)
    return Probe(one.key, one.video, prompt, end_s, start_s=start_s, asked_s=one.asked_s)


def _history(one: Question, texts: StreamingWording) -> str:
    """What was asked before, with the true answers, as the benchmark tells it."""
    turns = []
    for values in one.before:
        asked = Question("", one.video, values)
        turns.append(
            texts.sequence_turn.format(
                values["time_stamp"], values["question"], *asked.options, values["answer"]
            )
        )
    return texts.sequence_begin + "".join(turns) if turns else ""


def _end_s(one: Question) -> int:
    return clock_s(one.values["ground_truth_time_stamp"]) + POLL_PAST_S


def _standing_probe(one: Question, texts: StreamingWording) -> Probe:
    prompt = texts.proactive.format(one.values["question"])
    return Probe(one.key, one.video, prompt, _end_s(one), start_s=one.asked_s, asked_s=one.asked_s)


def _told(one: Question, answers: Sequence[Answer]) -> dict[str, Any]:
    """As the official script writes down what came of a question; silence as its polls to the end do."""
    at_s = answers[0].at_s if answers else _end_s(one)
    text = answers[0].text if answers else ""
    return {
        "answered": answers[0].at_s if answers else False,
        "dialog_history": [
            {"role": "user", "content": one.values["question"], "time": one.asked_s},
            {"role": "assistant", "content": text, "time": at_s},
        ],
    }


def _poll(questions: Sequence[Question], texts: StreamingWording, ask: Ask) -> Iterator[tuple[Question, Any]]:
    """The official way: every second whether it is time, and once it is, what to say. All questions in step."""
    waiting = {one.key: one for one in questions}
    history: dict[str, list[dict[str, Any]]] = {key: [] for key in waiting}
    wait_s = 1
    while waiting:
        now_s = {key: one.asked_s + wait_s for key, one in waiting.items()}
        for key in [key for key, one in waiting.items() if now_s[key] > _end_s(one)]:
            yield waiting.pop(key), {"answered": False, "dialog_history": history[key]}
        queries = {
            key: texts.proactive_query.format(one.values["question"], one.values["ground_truth_output"])
            for key, one in waiting.items()
        }
        ready = []
        for key, query, said in _ask_at(waiting, queries, now_s, texts, ask):
            history[key] += _turn(query, said, now_s[key])
            if "yes" in said.strip().lower():
                ready.append(key)
        asked = {key: waiting[key] for key in ready}
        contents = {key: one.values["question"] for key, one in asked.items()}
        for key, content, said in _ask_at(asked, contents, now_s, texts, ask):
            history[key] += _turn(content, said, now_s[key])
            yield waiting.pop(key), {"answered": now_s[key], "dialog_history": history[key]}
        wait_s += 1


def _ask_at(
    questions: Mapping[str, Question],
    queries: Mapping[str, str],
    now_s: Mapping[str, int],
    texts: StreamingWording,
    ask: Ask,
) -> Iterator[tuple[str, str, str]]:
    """(key, what was asked, what was said) of each question over [asked_s, now]."""
    probes = [
        Probe(key, one.video, texts.proactive.format(queries[key]), now_s[key], start_s=one.asked_s)
        for key, one in questions.items()
    ]
    for probe, answers in ask(probes):
        yield probe.key, queries[probe.key], answers[-1].text if answers else ""


def _turn(asked: str, said: str, at_s: int) -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": asked, "time": at_s},
        {"role": "assistant", "content": said, "time": at_s},
    ]
