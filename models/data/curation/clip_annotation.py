"""One clip through the teacher and the filters, task by task."""

import hashlib
import heapq
from collections import Counter
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field

from models.data.curation import filters
from models.data.curation.annotator import Annotator
from models.data.curation.claims import Claim, Question, Span, Verdict
from models.data.curation.clip import Clip, clip_frames
from models.data.curation.config import CurationConfig
from models.data.curation.sample_maker import SampleMaker
from models.data.curation.teacher import Teacher, TeacherSilent, UnreadableReply
from models.data.raw_sample import RawSample

# Reasons of which nothing that happens goes untold.
_NO_HOLES = (filters.EMPTY, filters.REPEATED, filters.DROPPED)


@dataclass
class ClipResult:
    """samples, and how many lists were not worth one, by task and reason. undone: reasons by task, or by the stage that
    was stopped in it, for which the teacher gave no reply; another run may."""

    clip: Clip
    verdicts: list[Verdict] = field(default_factory=list)
    samples: list[RawSample] = field(default_factory=list)
    rejected_samples: Counter[tuple[str, str]] = field(default_factory=Counter)
    undone: dict[str, str] = field(default_factory=dict)

    def claims(self, task: str, without: Container[str] = ()) -> list[Claim]:
        """Everything claimed for a task, kept or not, but what was rejected for a reason in `without`."""
        return [
            v.claimed
            for v in self.verdicts
            if v.task == task and isinstance(v.claimed, Claim) and v.reason not in without
        ]

    def kept(self, task: str) -> list[Claim]:
        return [v.kept for v in self.verdicts if v.task == task and isinstance(v.kept, Claim)]


class ClipAnnotation:
    """Annotates the clip of `result`, which gets what is found, and in `undone` what the teacher owes. CurationStopped
    goes through; what was found before it is in the result."""

    def __init__(self, result: ClipResult, teacher: Teacher, config: CurationConfig) -> None:
        clip = result.clip
        frames = clip_frames(clip.path, config.clips.teacher_fps, config.clips.teacher_max_side)
        self._result = result
        self._clip = clip
        self._config = config
        self._annotator = Annotator(teacher, frames)
        self._maker = SampleMaker(clip, config.seed)

    def run(self) -> None:
        """All tasks of the config. Grounding rests on the events, which are looked for with it."""
        tasks: dict[str, Callable[[], None]] = {
            "narration": self._narration,
            "action": lambda: self._captions("action", self._annotator.actions),
            "event": lambda: self._captions("event", self._annotator.events),
            "grounding": self._grounding,
            "qa": self._qa,
        }
        for task, annotate in tasks.items():
            needed = task in self._config.tasks or (task == "event" and "grounding" in self._config.tasks)
            if needed:
                self._attempt(task, annotate)

    def negatives(self, captions: Sequence[str], num_wanted: int) -> None:
        """Grounding questions about what, by every look, does not happen here."""
        self._attempt("negative", lambda: self._negatives(captions, num_wanted))

    def _attempt(self, task: str, annotate: Callable[[], None]) -> None:
        try:
            annotate()
        except TeacherSilent as error:
            self._result.undone[task] = str(error)
        except UnreadableReply:
            self._result.rejected_samples[task, filters.UNREADABLE] += 1

    def _captions(self, task: str, ask: Callable[[], list[Claim]]) -> None:
        kept = self._confirmed(task, ask())
        if task in self._config.tasks:
            self._keep_list(task, kept, lambda: self._maker.captions(task, kept))

    def _narration(self) -> None:
        claims, dropped = self._annotator.narration()
        for claim in dropped:
            self._judge("narration", claim, None, filters.DROPPED)
        kept = self._confirmed("narration", claims)
        self._keep_list("narration", kept, lambda: self._maker.narration(kept))

    def _confirmed(self, task: str, claims: list[Claim]) -> list[Claim]:
        kept = []
        for claim, reason in filters.sound(claims, self._clip.duration_s):
            if reason:
                self._judge(task, claim, None, reason)
            elif agreed := self._confirm(task, claim, claim.text):
                kept.append(agreed)
        return kept

    def _confirm(self, task: str, claim: Claim, text: str, unique: bool = False) -> Claim | None:
        try:
            agreed, reason, looks = filters.confirm(
                claim, lambda look: self._annotator.spans(text, look), self._config.filters, unique=unique
            )
        except UnreadableReply:
            agreed, reason, looks = None, filters.UNREADABLE, ()
        if agreed and not filters.is_over(agreed.end_s, self._clip.duration_s):
            # The looks have moved it beyond what was sound.
            agreed, reason = None, filters.NOT_OVER
        self._judge(task, claim, agreed, reason, looks)
        return agreed

    def _keep_list(self, task: str, kept: list[Claim], make: Callable[[], RawSample]) -> None:
        """A list with too many holes would teach silence where something happens."""
        num_claimed = len(self._result.claims(task, without=_NO_HOLES))
        if not num_claimed:
            return
        if filters.enough_kept(len(kept), num_claimed, self._config.filters):
            self._result.samples.append(make())
        else:
            self._result.rejected_samples[task, filters.TOO_FEW_KEPT] += 1

    def _grounding(self) -> None:
        for claim in self._result.kept("event"):
            try:
                query = self._annotator.grounding_query(claim.text)
            except UnreadableReply:
                self._judge("grounding", claim, None, filters.UNREADABLE)
                continue
            if agreed := self._confirm("grounding", Claim(query, *claim.span), query, unique=True):
                self._result.samples.append(self._maker.grounding(query, agreed))

    def _negatives(self, captions: Sequence[str], num_wanted: int) -> None:
        num_made = 0
        for caption in captions:
            if num_made == num_wanted:
                return
            num_made += self._refuted(caption)

    def _refuted(self, caption: str) -> bool:
        """Whether no look finds it; then it is asked about. What it costs is its own: another may take its place."""
        looks: list[tuple[Span, ...]] = []
        reason = ""
        nowhere = Claim(caption, 0.0, 0.0)
        try:
            while not reason and len(looks) < self._config.filters.votes:
                looks.append(self._annotator.spans(caption, len(looks)))
                reason = filters.HAPPENS if looks[-1] else ""
            if not reason:
                nowhere = Claim(self._annotator.grounding_query(caption), 0.0, 0.0)
                self._result.samples.append(self._maker.grounding(nowhere.text, None))
        except UnreadableReply:
            reason = filters.UNREADABLE
        self._judge("negative", nowhere, None if reason else nowhere, reason, tuple(looks))
        return not reason

    def _qa(self) -> None:
        for asked in self._annotator.questions():
            question, reason = filters.sound_question(asked, self._clip.duration_s)
            chosen: tuple[str, ...] = ()
            if not reason:
                try:
                    reason, chosen = self._confirm_question(question)
                except UnreadableReply:
                    reason = filters.UNREADABLE
            self._judge("qa", question, None if reason else question, reason, chosen)
            if not reason:
                self._result.samples.append(self._maker.qa(question))

    def _confirm_question(self, question: Question) -> tuple[str, tuple[str, ...]]:
        return filters.confirm_question(
            question,
            lambda at_s, look: self._annotator.choice(question, at_s, look),
            self._clip.duration_s,
            self._config.filters,
        )

    def _judge(
        self,
        task: str,
        claimed: Claim | Question,
        kept: Claim | Question | None,
        reason: str,
        looks: tuple[object, ...] = (),
    ) -> None:
        self._result.verdicts.append(Verdict(self._clip.key, task, claimed, kept, reason, looks))


def foreign_captions(
    result: ClipResult, others: Sequence[ClipResult], seed: int, num_wanted: int
) -> list[str]:
    """Captions kept for other clips and unlike anything claimed for this one, in an order of this clip's own; twice as
    many as are wanted, for some may happen here after all. Where a caption stands follows from nothing but the clip and
    itself, so that clips which come later change few of the questions that were paid for."""
    mine = [filters.words(claim.text) for claim in result.claims("event")]
    captions = {
        claim.text
        for other in others
        if other.clip.key != result.clip.key
        for claim in other.kept("event")
        if filters.words(claim.text) not in mine
    }

    def place(caption: str) -> bytes:
        return hashlib.sha256(f"{seed}/{result.clip.key}/{caption}".encode()).digest()

    return heapq.nsmallest(2 * num_wanted, captions, key=place)
