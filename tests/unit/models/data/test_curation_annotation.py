"""One clip through the tasks, against a teacher that replies from a script."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from models.data.curation import clip_annotation, filters, prompts
from models.data.curation.claims import Claim, Verdict
from models.data.curation.clip import Clip
from models.data.curation.clip_annotation import ClipAnnotation, ClipResult, foreign_captions
from models.data.curation.config import CurationConfig
from models.data.curation.teacher import Picture, Request

T = TypeVar("T")
Script = Callable[[Request], object]
Annotate = Callable[[Script, Callable[[ClipAnnotation], None]], tuple[ClipResult, list[Request]]]
DURATION_S = 20
QUERY = prompts.GROUNDING_QUERY.split("{")[0]


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
