"""How much the filters of a curation are worth: precision and recall against simulated truth, before and after them.

`python -m tests.support.curation_trial --clips 40 --noise 0.3 --stubborn 0.2` prints the table.
"""

import argparse
import random
import tempfile
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from models.data.curation.claims import Answer, Claim, Question
from models.data.curation.clip_annotation import ClipResult
from models.data.curation.config import CurationConfig, FilterConfig
from models.data.curation.curation import Curation, CurationOutcome
from models.data.curation.endpoint import Endpoint
from models.data.curation.filters import agree, clean_caption, same_answer, words
from models.data.curation.store import Ledger, Store
from models.data.curation.teacher import Teacher
from tests.support.noisy_teacher import QUERY, Noise, NoisyTeacher, TrueClip, make_clip
from tests.support.stub_endpoint import Answer as HttpAnswer
from tests.support.stub_endpoint import StubEndpoint

_TIMES = FilterConfig()


@dataclass(frozen=True)
class Score:
    num_true: int = 0
    num_said: int = 0
    num_right: int = 0

    @property
    def precision(self) -> float:
        return self.num_right / self.num_said if self.num_said else 1.0

    @property
    def recall(self) -> float:
        return self.num_right / self.num_true if self.num_true else 1.0

    def __add__(self, other: "Score") -> "Score":
        return Score(
            self.num_true + other.num_true, self.num_said + other.num_said, self.num_right + other.num_right
        )


def trial_config(folder: Path, base_url: str, **changes: object) -> CurationConfig:
    return CurationConfig.model_validate(
        {
            "output": folder / "out",
            "sources": [{"name": "simulated", "root": folder / "videos", "licence": "CC0-1.0"}],
            "teacher": {"base_url": base_url, "model": "noisy", "concurrency": 4},
            "clips": {"teacher_max_side": 112},
            "split": {"validation": 0.2, "test": 0.2},
        }
        | changes
    )


def run_curation(config: CurationConfig, *, write_incomplete: bool = False) -> CurationOutcome:
    endpoint = Endpoint(config.teacher.base_url, deadline_s=config.teacher.deadline_s)

    def make_teacher(replies: Store, ledger: Ledger) -> Teacher:
        # Pauses of nothing: whoever waits here has nothing to wait for.
        wait = threading.Event().wait
        return Teacher(config.teacher, endpoint, replies, ledger, random.Random(0), lambda _: wait(0))

    with Curation(config, make_teacher) as curation:
        return curation.run(write_incomplete=write_incomplete)


def scores(clips: Sequence[TrueClip], results: Iterable[ClipResult]) -> dict[str, tuple[Score, Score]]:
    """By task, before and after the filters."""
    truths = {clip.name: clip for clip in clips}
    table: dict[str, tuple[Score, Score]] = {}
    for result in results:
        truth = truths[Path(result.clip.video).stem]
        captions = [Claim(clean_caption(text), start, end) for text, start, end in truth.captions]
        changes = [Claim(clean_caption(text), at, at) for text, at, _ in truth.changes]
        questions = [Question(q, tuple(Answer(*a) for a in answers)) for q, answers in truth.questions]
        told: dict[str, Sequence[Claim | Question]] = {
            "narration": changes,
            "action": captions,
            "event": captions,
            # Where it happens once; what was said before the filters has already passed those of its event.
            "grounding": [
                Claim(QUERY.format(claim.text), claim.start_s, claim.end_s)
                for claim in captions
                if [other.text for other in captions].count(claim.text) == 1
            ],
            "qa": questions,
        }
        for task, golds in told.items():
            verdicts = [verdict for verdict in result.verdicts if verdict.task == task]
            before = _score([verdict.claimed for verdict in verdicts], golds)
            after = _score([verdict.kept for verdict in verdicts if verdict.kept is not None], golds)
            so_far = table.get(task, (Score(), Score()))
            table[task] = (so_far[0] + before, so_far[1] + after)
    return table


def _score(said: Sequence[Claim | Question], golds: Sequence[Claim | Question]) -> Score:
    left = list(golds)
    num_right = 0
    for one in said:
        for gold in left:
            if _same(one, gold):
                left.remove(gold)
                num_right += 1
                break
    return Score(len(golds), len(said), num_right)


def _same(one: Claim | Question, gold: Claim | Question) -> bool:
    if isinstance(one, Claim) and isinstance(gold, Claim):
        return words(one.text) == words(gold.text) and agree(one.span, gold.span, _TIMES)
    if isinstance(one, Question) and isinstance(gold, Question):
        return one.text == gold.text and [a.text for a in one.answers] == [a.text for a in gold.answers] and all(
            same_answer(a.text, b.text) and abs(a.time_s - b.time_s) <= _TIMES.max_time_error_s
            for a, b in zip(one.answers, gold.answers, strict=True)
        )  # fmt: skip
    return False


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Precision and recall of a noisy teacher, before and after the filters."
    )
    parser.add_argument("--clips", type=int, default=20)
    parser.add_argument("--seconds", type=int, default=45)
    parser.add_argument("--noise", type=float, default=0.3, help="share of what is said that is wrong")
    parser.add_argument(
        "--stubborn", type=float, default=0.0, help="share of the wrong that every look repeats"
    )
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clips = [make_clip(folder / "videos", seed, options.seconds) for seed in range(options.clips)]
        teacher = NoisyTeacher(clips, Noise(options.noise, options.stubborn))
        with StubEndpoint(lambda body: HttpAnswer(teacher.reply(body))) as endpoint:
            outcome = run_curation(trial_config(folder, endpoint.base_url))
        assert outcome.manifest is not None, outcome.undone
        print(
            f"{options.clips} clips of {options.seconds} s, noise {options.noise}, stubborn {options.stubborn}, ",
            end="",
        )
        print(f"{outcome.manifest['cost']['replies']} replies")
        print("task        true |  said precision  recall |  kept precision  recall")
        for task, (before, after) in scores(clips, outcome.results).items():
            print(
                f"{task:<10} {before.num_true:>5} | {before.num_said:>5} {before.precision:>9.3f} {before.recall:>7.3f}"
                f" | {after.num_said:>5} {after.precision:>9.3f} {after.recall:>7.3f}"
            )
        for task, reasons in outcome.manifest["rejected"]["claims"].items():
            print(f"{task} rejected: {', '.join(f'{reason} {count}' for reason, count in reasons.items())}")


if __name__ == "__main__":
    main()
