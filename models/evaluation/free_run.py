"""Evaluation through the engine that serves: frame by frame, many sessions at once, on its own outputs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from models.data.finding import BrokenSample
from models.data.sample import Round
from models.engine.engine import Engine
from models.engine.errors import EngineFull
from models.engine.round import Decision, RoundInput
from models.evaluation.cached_encoder import CachedEncoder
from models.evaluation.stream import EvaluationStream, StreamRecord
from models.vlm.dialogue import Dialogue
from models.vlm.state import State

_FRAMES_AT_ONCE = 16


def _refuse(broken: BrokenSample) -> None:
    raise broken


@dataclass(frozen=True, eq=False)
class LiveFrame:
    """A kept frame of a dialogue. `is_past`: shown before the instruction came; silence is forced on it."""

    start_ms: int
    end_ms: int
    picture: np.ndarray
    is_past: bool = False


@dataclass(frozen=True, eq=False)
class DialogueScript:
    """What one session is given: an instruction, and frames as the session comes to them, or BrokenSample."""

    session_id: str
    instruction: str
    frames: Iterable[LiveFrame]


@dataclass(frozen=True)
class Transcript:
    """What was decided and said, a round per frame, past ones included."""

    session_id: str
    rounds: tuple[Round, ...]
    num_truncated: int


def run_dialogues(
    engine: Engine,
    encoder: CachedEncoder,
    dialogue: Dialogue,
    scripts: Iterable[DialogueScript],
    *,
    max_at_once: int,
    sensitivity: float = 0.0,
    on_round: Callable[[], None] = lambda: None,
    on_broken: Callable[[str, BrokenSample], None] = lambda session_id, broken: _refuse(broken),
) -> Iterator[Transcript]:
    """Run every script to its end, `max_at_once` of them in the engine at a time, and tell each as it ends.

    Nothing is forced but silence on past frames: every other round is decided on what was said before. Fewer
    run at once where the engine has no room for more; EngineFull if it has none for a single one. `on_round` is
    called once for each round that is over, `on_broken` for a script whose frames break off: it is left out.
    """
    if max_at_once < 1:
        raise ValueError(f"max_at_once must be at least 1, got {max_at_once}")
    silence = tuple(dialogue.reply(State.SILENCE))
    waiting = iter(scripts)
    held_back: DialogueScript | None = None
    running: dict[str, _Run] = {}
    try:
        while True:
            while len(running) < max_at_once:
                script = held_back or next(waiting, None)
                held_back = None
                if script is None:
                    break
                try:
                    engine.open(script.session_id, script.instruction, sensitivity=sensitivity)
                except EngineFull:
                    if not running:
                        raise
                    held_back = script
                    break
                running[script.session_id] = _Run(script, silence)
            if not running:
                return
            for session_id, run in list(running.items()):
                try:
                    run.feed(engine, encoder)
                except BrokenSample as broken:
                    on_broken(session_id, broken)
                    engine.close(session_id)
                    del running[session_id]
            for output in engine.step():
                run = running[output.session_id]
                if isinstance(output, Decision):
                    finished = run.decide(output.round_index, output.state)
                else:
                    finished = run.reply(output.round_index, output.text, output.truncated)
                if finished:
                    on_round()
            for session_id in [session_id for session_id, run in running.items() if run.is_over]:
                engine.close(session_id)
                yield running.pop(session_id).transcript()
    finally:
        for session_id in running:
            engine.close(session_id)


def free_run(
    engine: Engine,
    encoder: CachedEncoder,
    dialogue: Dialogue,
    streams: Iterable[EvaluationStream],
    *,
    max_at_once: int = 32,
    sensitivity: float = 0.0,
    on_round: Callable[[], None] = lambda: None,
    on_broken: Callable[[BrokenSample], None] = _refuse,
) -> Iterator[StreamRecord]:
    """Records of streams, each as it ends, so not always in the order they came in; else as `run_dialogues`."""
    by_id: dict[str, EvaluationStream] = {}

    def scripts() -> Iterator[DialogueScript]:
        for stream in streams:
            by_id[stream.stream_id] = stream
            yield DialogueScript(stream.stream_id, stream.instruction, _live_frames(stream))

    def leave_out(session_id: str, broken: BrokenSample) -> None:
        on_broken(broken)
        del by_id[session_id]

    for transcript in run_dialogues(
        engine,
        encoder,
        dialogue,
        scripts(),
        max_at_once=max_at_once,
        sensitivity=sensitivity,
        on_round=on_round,
        on_broken=leave_out,
    ):
        yield by_id.pop(transcript.session_id).record(transcript.rounds, transcript.num_truncated)


def _live_frames(stream: EvaluationStream) -> Iterator[LiveFrame]:
    # strict: a source whose pictures and labels do not pair up must not be scored.
    for index, (round_, picture) in enumerate(zip(stream.rounds, stream.frames(), strict=True)):
        yield LiveFrame(round_.start_ms, round_.end_ms, picture, index < stream.num_past_rounds)


@dataclass(eq=False)
class _Run:
    """A session on its way through its script."""

    script: DialogueScript
    silence: tuple[int, ...]
    rounds: list[Round] = field(default_factory=list)
    num_over: int = 0
    num_truncated: int = 0

    def __post_init__(self) -> None:
        self._frames = iter(self.script.frames)
        self._ready: list[tuple[LiveFrame, torch.Tensor]] = []
        self._is_dry = False

    @property
    def is_over(self) -> bool:
        return self._is_dry and not self._ready and self.num_over == len(self.rounds)

    def feed(self, engine: Engine, encoder: CachedEncoder) -> None:
        """Append what the engine takes of the frames to come."""
        session_id = self.script.session_id
        while engine.can_append(session_id):
            if not self._ready:
                chunk = list(itertools.islice(self._frames, _FRAMES_AT_ONCE))
                if not chunk:
                    self._is_dry = True
                    return
                tokens = encoder.encode([frame.picture for frame in chunk])
                self._ready = list(zip(chunk, tokens, strict=True))[::-1]
            frame, visual = self._ready.pop()
            engine.append(
                session_id,
                RoundInput(
                    frame.start_ms,
                    frame.end_ms,
                    visual,
                    encoder.grid(frame.picture),
                    forced_reply=self.silence if frame.is_past else None,
                ),
            )
            self.rounds.append(Round(frame.start_ms, frame.end_ms, State.SILENCE))

    def decide(self, index: int, state: State) -> bool:
        """Whether the round is over: a Response has its text to come."""
        self.rounds[index] = replace(self.rounds[index], state=state)
        self.num_over += state is not State.RESPONSE
        return state is not State.RESPONSE

    def reply(self, index: int, text: str, truncated: bool) -> bool:
        self.rounds[index] = replace(self.rounds[index], text=text)
        self.num_over += 1
        self.num_truncated += truncated
        return True

    def transcript(self) -> Transcript:
        return Transcript(self.script.session_id, tuple(self.rounds), self.num_truncated)
