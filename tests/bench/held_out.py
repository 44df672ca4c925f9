"""Simulated streams that the checkpoint has not seen, longer than its window, run in every way that is compared.

Nothing is timed here, so streams are shared out among processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from models.data.place.label import Gold
from models.data.place.layout import PLACE_HEIGHT, PLACE_WIDTH
from models.data.place.query import TASKS
from models.data.place.simulated import make_sample
from models.data.place.wording import parse_text
from models.data.sample import Sample
from models.engine.config import EngineConfig
from models.engine.engine import Engine
from models.engine.round import Decision, Reply, RoundInput
from models.evaluation.telling import TellingScore, Told, score_tellings
from models.vlm.model import LanguageModel, VisionEncoder
from models.vlm.state import State

# (a) every round the window is prefilled anew; (b) the pinned prefix is turned to stand before the window;
# (c) it stays where it was.
WAYS = ("prefill", "move", "keep")
# Other seeds than those that the checkpoint's scores are from.
FIRST_SEED = 100_000
_ENCODE_BATCH = 32


@dataclass(frozen=True)
class Answer:
    state: State
    token_ids: tuple[int, ...]
    """Whole reply, state token first."""
    text: str


@dataclass(frozen=True)
class StreamRun:
    """One stream, from the round on at which the window first slides.

    By way: `confusions` [3, 3] counts rounds by gold and decided state, the replies before each being gold's;
    `tellings` scores what was said when nothing was forced. `rebuilt_agrees` tells, of the last
    rounds of the free run (way "move"), whether a session rebuilt from the window before them decides the
    same state as the one that ran on; `rebuilt_says` compares the text where both respond.
    """

    task: str
    confusions: dict[str, np.ndarray]
    tellings: dict[str, TellingScore]
    rebuilt_agrees: tuple[bool, ...]
    rebuilt_says: tuple[bool, ...]


class HeldOutRunner:
    """Runs one stream at a time through engines of the checkpoint's own window."""

    def __init__(self, model_dir: Path, num_rounds: int) -> None:
        self._model = LanguageModel.load(model_dir)
        self._encoder = VisionEncoder.load(model_dir)
        self._num_rounds = num_rounds
        self._window_rounds = self._model.config.window_rounds
        if num_rounds <= 2 * self._window_rounds:
            raise ValueError(f"num_rounds {num_rounds} is not longer than two windows; raise it")
        self._engines = {
            "move": self._engine("move"),
            "keep": self._engine("keep"),
        }

    def run(self, seed: int) -> StreamRun:
        size = self._encoder.budget.fit(PLACE_HEIGHT, PLACE_WIDTH)
        sample = make_sample(seed, "validation", self._num_rounds, size, task=TASKS[seed % len(TASKS)])
        rounds = self._rounds(sample)
        dialogue = self._model.dialogue
        gold = [
            replace(one, forced_reply=tuple(dialogue.reply(truth.state, truth.text)))
            for one, truth in zip(rounds, sample.rounds, strict=True)
        ]
        confusions = {way: self._confusion(sample, self._forced_states(way, sample, gold)) for way in WAYS}
        free = {way: self._free(way, sample, rounds) for way in WAYS}
        agrees, says = self._rebuild(sample, rounds, free["move"])
        return StreamRun(
            sample.task,
            confusions,
            {way: self._telling(sample, answers) for way, answers in free.items()},
            agrees,
            says,
        )

    def _rounds(self, sample: Sample) -> list[RoundInput]:
        frames = list(sample.frames)
        tokens = [
            token
            for start in range(0, len(frames), _ENCODE_BATCH)
            for token in self._encoder.encode(frames[start : start + _ENCODE_BATCH])
        ]
        grid = self._encoder.budget.grid(*sample.frames.shape[1:3])
        silence = tuple(self._model.dialogue.reply(State.SILENCE))
        # What went by before the question came is silent whatever the model says.
        return [
            RoundInput(truth.start_ms, truth.end_ms, token, grid, silence if i < sample.first_live else None)
            for i, (truth, token) in enumerate(zip(sample.rounds, tokens, strict=True))
        ]

    def _forced_states(self, way: str, sample: Sample, gold: Sequence[RoundInput]) -> list[State]:
        """What the model itself would decide in each round from the first slide on, gold before it."""
        if way != "prefill":
            decisions = [
                output for output in self._run(way, sample, (), gold) if isinstance(output, Decision)
            ]
            return [_own_state(decision) for decision in decisions[self._window_rounds :]]
        states = []
        for last in range(self._window_rounds, len(gold)):
            past = gold[last + 1 - self._window_rounds : last]
            outputs = self._run("move", sample, past, gold[last : last + 1])
            states += [_own_state(output) for output in outputs if isinstance(output, Decision)]
        return states

    def _free(self, way: str, sample: Sample, rounds: Sequence[RoundInput]) -> list[Answer]:
        """All answers, each on the model's own ones before it."""
        if way != "prefill":
            return self._answers(self._run(way, sample, (), rounds))
        # Nothing differs before the window slides.
        answers = self._answers(self._run("move", sample, (), rounds[: self._window_rounds]))
        for last in range(self._window_rounds, len(rounds)):
            first = last + 1 - self._window_rounds
            past = [
                replace(one, forced_reply=answer.token_ids)
                for one, answer in zip(rounds[first:last], answers[first:last], strict=True)
            ]
            answers += self._answers(self._run("move", sample, past, rounds[last : last + 1]))
        return answers

    def _rebuild(
        self, sample: Sample, rounds: Sequence[RoundInput], answers: Sequence[Answer]
    ) -> tuple[tuple[bool, ...], tuple[bool, ...]]:
        first_live = len(rounds) - self._window_rounds
        past = [
            replace(rounds[i], forced_reply=answers[i].token_ids)
            for i in range(first_live - self._window_rounds, first_live)
        ]
        rebuilt = self._answers(self._run("move", sample, past, rounds[first_live:]))
        pairs = list(zip(rebuilt, answers[first_live:], strict=True))
        both_speak = [(one, other) for one, other in pairs if one.state is other.state is State.RESPONSE]
        return (
            tuple(one.state is other.state for one, other in pairs),
            tuple(one.text == other.text for one, other in both_speak),
        )

    def _run(
        self, way: str, sample: Sample, past: Sequence[RoundInput], rounds: Sequence[RoundInput]
    ) -> Iterator[Decision | Reply]:
        engine = self._engines[way]
        engine.open("stream", sample.instruction, past)
        try:
            for one in rounds:
                engine.append("stream", one)
                while engine.has_work:
                    yield from engine.step()
        finally:
            engine.close("stream")

    def _answers(self, outputs: Iterator[Decision | Reply]) -> list[Answer]:
        states = self._model.dialogue.state_token_ids
        answers: list[Answer] = []
        for output in outputs:
            if isinstance(output, Decision):
                answers.append(Answer(output.state, (states[output.state],), ""))
            else:
                spoken = (states[State.RESPONSE], *output.token_ids)
                answers[-1] = Answer(State.RESPONSE, spoken, output.text)
        return answers

    def _confusion(self, sample: Sample, states: Sequence[State]) -> np.ndarray:
        counts = np.zeros((len(State), len(State)), dtype=np.int64)
        for truth, state in zip(sample.rounds[self._window_rounds :], states, strict=True):
            counts[truth.state, state] += 1
        return counts

    def _telling(self, sample: Sample, answers: Sequence[Answer]) -> TellingScore:
        first_ms = sample.rounds[self._window_rounds].end_ms
        told = [
            Told(truth.end_ms, answer.text)
            for truth, answer in zip(sample.rounds, answers, strict=True)
            if answer.state is State.RESPONSE and truth.end_ms >= first_ms
        ]
        golds = [gold for gold in _golds(sample) if gold.frame_ms >= first_ms]
        return score_tellings(sample.task, golds, told)

    def _engine(self, pinned_positions: str) -> Engine:
        budget = self._encoder.budget
        return Engine(
            self._model,
            EngineConfig(
                max_sessions=1,
                max_kv_tokens=16_384,
                max_batch_tokens=4096,
                max_frame_tokens=budget.max_pixels // budget.unit**2,
                pinned_positions=pinned_positions,
            ),
        )


def run_streams(
    model_dir: Path,
    num_streams: int,
    num_rounds: int,
    num_processes: int,
    tick: Callable[[int], object],
) -> list[StreamRun]:
    """All streams, in order of their seeds; `tick` is told of each that is done."""
    context = get_context("spawn")
    with ProcessPoolExecutor(
        num_processes, mp_context=context, initializer=_start_process, initargs=(model_dir, num_rounds)
    ) as pool:
        futures = [pool.submit(_run_seed, FIRST_SEED + number) for number in range(num_streams)]
        for _ in as_completed(futures):
            tick(1)
        return [future.result() for future in futures]


_runner: HeldOutRunner | None = None  # of a worker process


def _start_process(model_dir: Path, num_rounds: int) -> None:
    global _runner
    torch.set_num_threads(1)
    _runner = HeldOutRunner(model_dir, num_rounds)


def _run_seed(seed: int) -> StreamRun:
    assert _runner is not None
    return _runner.run(seed)


def _own_state(decision: Decision) -> State:
    return State(int(np.argmax(decision.state_logits)))


def _golds(sample: Sample) -> list[Gold]:
    return [
        Gold(truth.end_ms, truth.text, slots, truth.start_ms, truth.end_ms, None, since=index)
        for index, truth in enumerate(sample.rounds)
        if truth.state is State.RESPONSE
        for slots in parse_text(sample.task, truth.text)
        if slots is not None
    ]
