"""Asks the teacher about one clip, and reads what it replies."""

import hashlib
import json
import math
import random
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from models.data.curation import prompts
from models.data.curation.claims import Answer, Claim, Question, Span
from models.data.curation.teacher import Picture, Request, Teacher, UnreadableReply
from models.data.words import is_whole

T = TypeVar("T")

# What a look at one moment sees: narration compares with the second before, an answer needs a little more.
_CHANGE_WINDOW_S = 2.0
_ANSWER_WINDOW_S = 4.0
# A letter alone, or with its option behind it; the words of an option have a first letter too.
_LETTER = re.compile(r"\(?([A-Za-z])(?:[.:)].*)?", re.DOTALL)


class Annotator:
    """The questions on one clip. `frames` are all its frames for the teacher, in order; methods raise what
    `Teacher.ask` does."""

    def __init__(self, teacher: Teacher, frames: Sequence[Picture]) -> None:
        self._teacher = teacher
        self._frames = tuple(frames)

    def events(self) -> list[Claim]:
        return self._ask(self._frames, prompts.EVENTS, lambda reply: self._claims(reply, "events"))

    def actions(self) -> list[Claim]:
        return self._ask(self._frames, prompts.ACTIONS, lambda reply: self._claims(reply, "actions"))

    def narration(self) -> tuple[list[Claim], list[Claim]]:
        """Changes at the moments where they first show, and those that the teacher then drops as repeats and empty
        remarks."""
        noted = []
        for window in self._seconds():
            now_s = window[-1].time_s
            change = self._ask(
                window, prompts.CHANGE, lambda reply: _text(reply, "change", may_be_empty=True)
            )
            if change:
                noted.append(Claim(change, now_s, now_s))
        if len(noted) < 2:
            return noted, []
        lines = "\n".join(f"{_shown_s(claim.start_s):.1f} s: {claim.text}" for claim in noted)
        seconds = [_shown_s(claim.start_s) for claim in noted]
        keep = self._ask(
            (), prompts.NARRATION_LINES.format(lines=lines), lambda reply: _kept_seconds(reply, seconds)
        )
        kept = [claim for claim, second in zip(noted, seconds, strict=True) if second in keep]
        return kept, [claim for claim in noted if claim not in kept]

    def spans(self, caption: str, look: int) -> tuple[Span, ...]:
        """Where an independent look finds what the caption says; `look` counts from 0."""
        text = prompts.REGROUND[look % len(prompts.REGROUND)].format(caption=caption)
        claims = self._ask(
            self._frames, text, lambda reply: self._claims(reply, "spans", captioned=False), look + 1
        )
        return tuple(claim.span for claim in claims)

    def grounding_query(self, caption: str) -> str:
        return self._ask(
            (), prompts.GROUNDING_QUERY.format(caption=caption), lambda reply: _text(reply, "query")
        )

    def questions(self) -> list[Question]:
        return self._ask(self._frames, prompts.QUESTIONS, self._questions)

    def choice(self, question: Question, at_s: float, look: int) -> str:
        """Which of the question's answers a look at the frames up to `at_s` finds right; "" for none of them."""
        options = sorted({answer.text for answer in question.answers})
        options.append(prompts.NO_CHOICE)
        # Another order for every look, so that a liking for a letter agrees with nothing.
        seed = hashlib.sha256(f"{question.text}/{at_s}/{look}".encode()).digest()
        random.Random(seed).shuffle(options)
        listed = "\n".join(f"{chr(65 + index)}. {option}" for index, option in enumerate(options))
        text = prompts.CHOICE.format(question=question.text, options=listed)
        window = tuple(f for f in self._frames if at_s - _ANSWER_WINDOW_S <= f.time_s <= at_s + 1e-6)
        letter = self._ask(
            window or self._frames[:1], text, lambda reply: _letter(reply, len(options)), look + 1
        )
        chosen = options[letter]
        return "" if chosen == prompts.NO_CHOICE else chosen

    def _seconds(self) -> Iterator[tuple[Picture, ...]]:
        """The first frame of each second but that at 0, behind the frames that it is to be compared with."""
        for index in range(1, len(self._frames)):
            before_s, now_s = self._frames[index - 1].time_s, self._frames[index].time_s
            if int(now_s) > int(before_s):
                from_s = min(before_s, now_s - _CHANGE_WINDOW_S)
                yield tuple(frame for frame in self._frames[: index + 1] if frame.time_s >= from_s)

    def _ask(
        self, frames: tuple[Picture, ...], text: str, read: Callable[[dict[str, Any]], T], look: int = 0
    ) -> T:
        request = Request(prompts.SYSTEM, frames, text, look)
        return self._teacher.ask(request, lambda reply: read(json_of(reply)))

    def _claims(self, reply: dict[str, Any], name: str, captioned: bool = True) -> list[Claim]:
        claims = []
        for entry in _list(reply, name):
            start_s, end_s = _number(entry, "start"), _number(entry, "end")
            text = _text(entry, "caption") if captioned else ""
            claims.append(Claim(text, start_s, end_s))
        return claims

    def _questions(self, reply: dict[str, Any]) -> list[Question]:
        questions = []
        for entry in _list(reply, "questions"):
            answers = [Answer(_number(a, "time"), _text(a, "answer")) for a in _list(entry, "answers")]
            answers.sort(key=lambda answer: answer.time_s)
            questions.append(Question(_text(entry, "question"), tuple(answers)))
        return questions


def json_of(reply: str) -> dict[str, Any]:
    """The first JSON object in a reply, whatever stands around it. UnreadableReply where there is none."""
    decoder = json.JSONDecoder()
    at = reply.find("{")
    while at >= 0:
        try:
            value, _ = decoder.raw_decode(reply, at)
        except ValueError:
            at = reply.find("{", at + 1)
            continue
        except RecursionError:
            raise UnreadableReply("is nested too deeply") from None
        if isinstance(value, dict):
            return value
    raise UnreadableReply("holds no JSON object")


def _list(entry: dict[str, Any], name: str) -> list[dict[str, Any]]:
    value = entry.get(name)
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise UnreadableReply(f"{name}: is no list of objects")
    return value


def _text(entry: dict[str, Any], name: str, may_be_empty: bool = False) -> str:
    value = entry.get(name)
    if value is None and may_be_empty:
        return ""
    if not isinstance(value, str) or not (may_be_empty or value.strip()):
        raise UnreadableReply(f"{name}: is no text")
    if not is_whole(value):
        raise UnreadableReply(f"{name}: holds half a character")
    return " ".join(value.split())


def _number(entry: dict[str, Any], name: str) -> float:
    return _finite(entry.get(name), name)


def _finite(value: Any, name: str) -> float:
    if isinstance(value, str):
        value = value.strip().removesuffix("s").strip()
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise UnreadableReply(f"{name}: is no number") from None
    if isinstance(value, bool) or not math.isfinite(number):
        raise UnreadableReply(f"{name}: is no number")
    return number


def _shown_s(time_s: float) -> float:
    """As lines of narration show it."""
    return round(time_s, 1)


def _kept_seconds(reply: dict[str, Any], seconds: Sequence[float]) -> set[float]:
    value = reply.get("keep")
    if not isinstance(value, list):
        raise UnreadableReply("keep: is no list")
    keep = {_shown_s(_finite(second, "keep")) for second in value}
    if not keep.issubset(seconds):
        raise UnreadableReply("keep: names a second that no line has")
    return keep


def _letter(reply: dict[str, Any], num_options: int) -> int:
    value = reply.get("choice")
    found = _LETTER.fullmatch(value.strip()) if isinstance(value, str) else None
    index = ord(found[1].upper()) - 65 if found else -1
    if not 0 <= index < num_options:
        raise UnreadableReply("choice: is none of the letters")
    return index
