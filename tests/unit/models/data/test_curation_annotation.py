"""One clip through the tasks, against a teacher that replies from a script."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from models.data.curation import clip_annotation, filters, prompts
from models.data.curation.annotator import Annotator
from models.data.curation.claims import Answer, Claim, Question, Verdict
from models.data.curation.clip import Clip
from models.data.curation.clip_annotation import ClipAnnotation, ClipResult, foreign_captions
from models.data.curation.config import CurationConfig
from models.data.curation.teacher import Picture, Request, UnreadableReply

T = TypeVar("T")
Script = Callable[[Request], object]
Annotate = Callable[[Script, Callable[[ClipAnnotation], None]], tuple[ClipResult, list[Request]]]
DURATION_S = 20
QUERY = prompts.GROUNDING_QUERY.split("{")[0]
LINES = prompts.NARRATION_LINES.split("{")[0]


def clip(key: str = "abc") -> Clip:
    return Clip(key, "mine", "v.mp4", "sha", 0.0, DURATION_S, Path("/out/clips/abc.mp4"))


class ScriptedTeacher:
    """Replies as `script` says, and never anew: an unreadable reply stays one."""

    def __init__(self, script: Script) -> None:
        self.asked: list[Request] = []
        self._script = script

    def ask(self, request: Request, read: Callable[[str], T]) -> T:
        self.asked.append(request)
        return read(json.dumps(self._script(request)))


@pytest.fixture
def annotated(monkeypatch: pytest.MonkeyPatch) -> Annotate:
    """What `work` finds in a clip whose teacher follows a script, and what it asked."""
    frames = tuple(Picture(float(second), b"jpeg") for second in range(DURATION_S))
    monkeypatch.setattr(clip_annotation, "clip_frames", lambda *_: frames)
    config = CurationConfig.model_validate(
        {
            "output": "/out",
            "sources": [{"name": "mine", "root": "/videos", "licence": "CC0-1.0"}],
            "teacher": {"base_url": "http://h/v1", "model": "m"},
        }
    )

    def annotate(script: Script, work: Callable[[ClipAnnotation], None]) -> tuple[ClipResult, list[Request]]:
        teacher = ScriptedTeacher(script)
        result = ClipResult(clip())
        work(ClipAnnotation(result, teacher, config))
        return result, teacher.asked

    return annotate


@pytest.mark.parametrize("frame_interval_s", [0.125, 0.4, 0.5, 1.0, 1.125, 2.5, 4.0])
def test_changes_are_asked_for_every_second_however_dense_the_frames_are(frame_interval_s: float) -> None:
    frames = [
        Picture(round(i * frame_interval_s, 3), b"jpeg") for i in range(int(DURATION_S / frame_interval_s))
    ]
    teacher = ScriptedTeacher(lambda request: {"change": ""})
    Annotator(teacher, frames).narration()
    asked_s = [request.frames[-1].time_s for request in teacher.asked]
    # The first frame of every second that has one; what there is at 0 s is no change.
    firsts = {int(frame.time_s): frame.time_s for frame in reversed(frames) if frame.time_s >= 1}
    assert asked_s == sorted(firsts.values())
    for request in teacher.asked:
        assert len(request.frames) >= 2
        assert request.frames[0].time_s >= request.frames[-1].time_s - max(2.0, frame_interval_s)


@pytest.mark.parametrize(
    ("choice", "letter"),
    [
        ("B", "B"), (" b ", "B"), ("(C)", "C"), ("B.", "B"), ("C: red", "C"), ("b) a red car", "B"), ("A. red", "A"),
        ("a red car", ""), ("Brown dog", ""), ("AB", ""), ("D", ""), ("", ""), (None, ""),
    ],
)  # fmt: skip
def test_a_choice_is_a_letter_and_no_words(choice: str | None, letter: str) -> None:
    question = Question("Which colour?", (Answer(0.0, "red"), Answer(5.0, "blue")))
    options: dict[str, str] = {}

    def reply(request: Request) -> object:
        options.update(re.findall(r"^([A-Z])\. (.*)$", request.text, re.M))
        return {"choice": choice}

    annotator = Annotator(ScriptedTeacher(reply), [Picture(0.0, b"jpeg")])
    if letter:
        chosen = annotator.choice(question, 3.0, 0)
        assert options[letter] == (chosen or prompts.NO_CHOICE)
    else:
        with pytest.raises(UnreadableReply, match="choice"):
            annotator.choice(question, 3.0, 0)


def test_what_repeats_another_or_says_nothing_is_no_hole_in_a_list(annotated: Annotate) -> None:
    said = [
        "a red car arrived",
        "a red car has arrived",
        "red car arrived",
        "the",
        "a man left",
        "a dog barked",
    ]

    def reply(request: Request) -> object:
        if request.text == prompts.EVENTS:
            return {"events": [{"start": 3, "end": 6, "caption": caption} for caption in said]}
        is_there = request.text.startswith(QUERY) or "dog" not in request.text
        return {"query": "When?", "questions": [], "spans": [{"start": 3, "end": 6}] if is_there else []}

    result, _ = annotated(reply, lambda one: one.run())
    events = [sample for sample in result.samples if sample.task_type == "event"]
    assert [response.content for response in events[0].response] == ["a red car arrived; a man left"]


def narrated(keep: list[object]) -> Script:
    """Tells of something at 3, 4, 5 and 9 s, keeps some of it, and finds all of it again."""
    told = {3.0: "a car is stopping", 4.0: "the car stands", 5.0: "it is grey", 9.0: "a man is leaving"}

    def reply(request: Request) -> object:
        if request.text == prompts.CHANGE:
            return {"change": told.get(request.frames[-1].time_s, "")}
        if request.text.startswith(LINES):
            return {"keep": keep}
        found = [{"start": at_s, "end": at_s + 1} for at_s, text in told.items() if text in request.text]
        return {"events": [], "actions": [], "questions": [], "spans": found}

    return reply


def test_lines_that_the_teacher_drops_itself_are_recorded_and_no_holes(annotated: Annotate) -> None:
    result, _ = annotated(narrated([3, "9.0 s"]), lambda one: one.run())
    assert {(v.claimed.start_s, v.reason) for v in result.verdicts if v.task == "narration"} == {
        (3.0, ""),
        (4.0, filters.DROPPED),
        (5.0, filters.DROPPED),
        (9.0, ""),
    }
    (sample,) = result.samples
    assert [response.content for response in sample.response] == ["a car is stopping", "a man is leaving"]


@pytest.mark.parametrize("keep", [[1, 4], [3, 9, 12]], ids=["numbers of lines", "one that is not there"])
def test_to_keep_a_line_that_is_not_there_is_no_reply(keep: list[object], annotated: Annotate) -> None:
    result, _ = annotated(narrated(keep), lambda one: one.run())
    assert result.rejected_samples == {("narration", filters.UNREADABLE): 1}
    assert result.samples == []


def claimed(key: str, text: str) -> ClipResult:
    claim = Claim(text, 1.0, 2.0)
    return ClipResult(clip(key), [Verdict(key, "event", claim, claim)])


def test_a_clip_that_comes_later_changes_few_of_the_negatives() -> None:
    results = [claimed(f"clip {i}", f"thing {i} happened") for i in range(100)]
    before = [foreign_captions(result, results, 0, 1) for result in results]
    later = [*results, claimed("later", "thing 100 happened")]
    after = [foreign_captions(result, later, 0, 1) for result in results]
    assert sum(one != other for one, other in zip(before, after, strict=True)) <= 10
    # Each clip has an order of its own, and so has each seed; none is asked about what it shows itself.
    assert len(set(map(tuple, before))) > 80
    assert before[0] != foreign_captions(results[0], results, 1, 1)
    assert all(f"thing {i} happened" not in captions for i, captions in enumerate(before))


def test_one_look_that_finds_it_is_enough_to_ask_no_negative(annotated: Annotate) -> None:
    def reply(request: Request) -> object:
        if request.text.startswith(QUERY):
            return {"query": "When did it happen?"}
        happens = "a red car" in request.text and request.look == 2
        return {"spans": [{"start": 3, "end": 5}] if happens else []}

    result, asked = annotated(reply, lambda one: one.negatives(["a red car left", "a man left"], 1))
    assert [(v.claimed.text, v.reason, v.looks) for v in result.verdicts] == [
        ("a red car left", filters.HAPPENS, ((), ((3.0, 5.0),))),
        ("When did it happen?", "", ((), (), ())),
    ]
    assert [request.look for request in asked] == [1, 2, 1, 2, 3, 0]
    assert len(result.samples) == 1


@pytest.mark.parametrize("stage", ["look", "query"])
def test_an_unreadable_reply_costs_one_negative_and_not_those_behind_it(
    annotated: Annotate, stage: str
) -> None:
    def reply(request: Request) -> object:
        is_query = request.text.startswith(QUERY)
        if "a red car" in request.text and is_query == (stage == "query"):
            return "mumble"
        return {"query": "When did it happen?", "spans": []}

    result, _ = annotated(reply, lambda one: one.negatives(["a red car left", "a man left"], 1))
    assert [(v.claimed.text, v.reason) for v in result.verdicts] == [
        ("a red car left", filters.UNREADABLE),
        ("When did it happen?", ""),
    ]
    assert len(result.samples) == 1 and not result.rejected_samples
