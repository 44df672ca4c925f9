"""Kept claims as raw samples: the instruction, and times that no converted round runs ahead of.

A raw time stands for a frame, and frame i of a clip shows the moment i / fps. The times written here are decimals of
seconds such that, at one frame a second or more, no Response stands before what it tells has ended and no Standby
before it has begun. At one frame a second the Response is on the first frame that can have it, at more it is less than
two seconds late.
"""

import hashlib
import math
from collections.abc import Iterable, Sequence

from models.data.curation.claims import Claim, Question
from models.data.curation.clip import Clip
from models.data.raw_sample import RawQuestion, RawResponse, RawSample
from models.data.sample import SEPARATOR
from models.data.span import span_text

INSTRUCTIONS = {
    "narration": (
        "Tell me what happens.",
        "Narrate what you see.",
        "Keep me posted on what is going on.",
        "Say it whenever something changes.",
        "Comment on each change as you see it.",
    ),
    "action": (
        "Describe each step that is carried out.",
        "Tell me each thing that is done, once it is done.",
        "Write down every action when it is finished.",
        "Note the steps one by one.",
        "What is done here, step by step?",
    ),
    "event": (
        "Report each event once it is over.",
        "Tell me about everything that happens here.",
        "Log the events of this camera.",
        "Let me know what has happened, each time.",
        "Which events are there? Tell me each at its end.",
    ),
    "qa": (
        "{question}",
        "{question} Tell me again whenever that changes.",
        "{question} Keep the answer up to date.",
        "I want to know, all the time: {question}",
        "{question} Answer now, and anew when the answer is another.",
    ),
}


class SampleMaker:
    """Makes the samples of one clip; what is drawn depends on the clip and `seed` alone."""

    def __init__(self, clip: Clip, seed: int) -> None:
        self._clip = clip
        self._seed = seed

    def captions(self, task: str, claims: Sequence[Claim]) -> RawSample:
        """Of `action` and `event`: one response for each claim; those over in the same second share one."""
        by_end: dict[int, list[Claim]] = {}
        for claim in claims:
            by_end.setdefault(math.ceil(claim.end_s), []).append(claim)
        # The latest end first: of overlapping spans the Response of the earlier end is to stand, and later entries
        # overwrite earlier ones.
        responses = [
            _span_response(ended, SEPARATOR.join(claim.text for claim in ended))
            for _, ended in sorted(by_end.items(), reverse=True)
        ]
        return self._sample(task, self._instruction(task), "0.0", responses)

    def narration(self, claims: Sequence[Claim]) -> RawSample:
        told: dict[str, list[str]] = {}
        for claim in sorted(claims, key=lambda one: one.start_s):
            told.setdefault(_answer_time(claim.start_s), []).append(claim.text)
        responses = [RawResponse(content=SEPARATOR.join(texts), time=time) for time, texts in told.items()]
        return self._sample("narration", self._instruction("narration"), "0.0", responses)

    def grounding(self, query: str, claim: Claim | None) -> RawSample:
        """Asked before it happens, or, for about every second one, after it is over; `claim` None: it never does."""
        if claim is None:
            return self._sample("grounding", query, "0.0", [])
        text = span_text(round(claim.start_s * 1000), round(claim.end_s * 1000))
        earliest_s = math.ceil(claim.end_s) + 1
        # The moments before the clip's last whole second: our own recipe has no round later.
        room_s = int(self._clip.duration_s) - 1 - earliest_s
        if room_s >= 1 and self._draw(f"direction/{query}", 2):
            asked_s = earliest_s + self._draw(f"asked/{query}", room_s)
            time = f"{asked_s + 1:.1f}"
            return self._sample("grounding", query, time, [RawResponse(content=text, time=time)])
        return self._sample("grounding", query, "0.0", [_span_response([claim], text)])

    def qa(self, question: Question) -> RawSample:
        answers: dict[str, str] = {}
        for answer in question.answers:
            answers[_answer_time(answer.time_s)] = answer.text
        instruction = self._instruction("qa", question.text).format(question=question.text)
        responses = [RawResponse(content=text, time=time) for time, text in answers.items()]
        return self._sample("qa", instruction, "0.0", responses)

    def _sample(self, task: str, instruction: str, asked: str, responses: Iterable[RawResponse]) -> RawSample:
        return RawSample(
            video_name=self._clip.key,
            video_path=f"{self._clip.path.parent.name}/{self._clip.path.name}",
            task_type=task,
            source=self._clip.source,
            question=(RawQuestion(content=instruction, time=asked),),
            response=tuple(responses),
        )

    def _instruction(self, task: str, purpose: str = "") -> str:
        wordings = INSTRUCTIONS[task]
        return wordings[self._draw(f"{task}/{purpose}", len(wordings))]

    def _draw(self, purpose: str, num_choices: int) -> int:
        digest = hashlib.sha256(f"{self._seed}/{self._clip.key}/{purpose}".encode()).digest()
        return int.from_bytes(digest[:8], "big") % num_choices


def _answer_time(time_s: float) -> str:
    return f"{math.ceil(time_s) + 1:.1f}"


def _span_response(claims: Sequence[Claim], text: str) -> RawResponse:
    start_s = min(claim.start_s for claim in claims)
    end_s = max(claim.end_s for claim in claims)
    if math.ceil(start_s) == math.ceil(end_s):  # no frame shows it under way
        return RawResponse(content=text, time=_answer_time(end_s))
    return RawResponse(content=text, st_time=_answer_time(start_s), end_time=f"{math.ceil(end_s):.1f}")
