"""Evaluation through the engine that serves: frame by frame, on its own outputs."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from models.data.labels import Gold, parse_text
from models.data.sample import Sample
from models.engine.engine import Engine
from models.engine.round import Decision, RoundInput
from models.evaluation.telling import TellingScore, Told, score_tellings
from models.vlm.model import VisionEncoder
from models.vlm.state import State

_SESSION = "evaluation"


@dataclass
class TaskResult:
    """`states` counts rounds by (gold, decided)."""

    states: Counter[tuple[State, State]] = field(default_factory=Counter)
    telling: TellingScore = field(default_factory=TellingScore)

    @property
    def macro_f1(self) -> float:
        """Mean of the F1 of each state that occurs in gold; exact per frame."""
        scores = []
        for state in State:
            right = self.states[state, state]
            gold = sum(count for (truth, _), count in self.states.items() if truth == state)
            decided = sum(count for (_, answer), count in self.states.items() if answer == state)
            if gold:
                scores.append(2 * right / (gold + decided))
        return float(np.mean(scores)) if scores else float("nan")


def free_run(engine: Engine, encoder: VisionEncoder, samples: Iterable[Sample]) -> dict[str, TaskResult]:
    """Per task. Every round is decided by the engine on what it said before; nothing is forced."""
    results: dict[str, TaskResult] = {}
    for sample in samples:
        result = results.setdefault(sample.task, TaskResult())
        told = []
        for index, (state, text) in enumerate(_run(engine, encoder, sample)):
            result.states[sample.rounds[index].state, state] += 1
            if state == State.RESPONSE:
                told.append(Told(sample.rounds[index].end_ms, text))
        result.telling += score_tellings(sample.task, _golds(sample), told)
    return results


def _run(engine: Engine, encoder: VisionEncoder, sample: Sample) -> list[tuple[State, str]]:
    engine.open(_SESSION, sample.instruction)
    try:
        answers = []
        tokens = encoder.encode(list(sample.frames))
        grid = encoder.budget.grid(*sample.frames.shape[1:3])
        for round_, frame in zip(sample.rounds, tokens, strict=True):
            engine.append(_SESSION, RoundInput(round_.start_ms, round_.end_ms, frame, grid))
            state, text = State.SILENCE, ""
            while engine.has_work:
                for output in engine.step():
                    if isinstance(output, Decision):
                        state = output.state
                    else:
                        text = output.text
            answers.append((state, text))
        return answers
    finally:
        engine.close(_SESSION)


def _golds(sample: Sample) -> list[Gold]:
    golds = []
    for round_ in sample.rounds:
        if round_.state != State.RESPONSE:
            continue
        for slots in parse_text(sample.task, round_.text):
            if slots is None:
                raise ValueError(f"gold text {round_.text!r} of task {sample.task} does not parse")
            golds.append(Gold(round_.end_ms, round_.text, slots, round_.start_ms, round_.end_ms, None))
    return golds
