"""One question of a benchmark on one stretch of video, put to the serving engine."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import torch

from models.evaluation.benchmarks.clip import clip_frames
from models.evaluation.free_run import DialogueScript, LiveFrame, Transcript, run_dialogues
from models.evaluation.suite import ServedModel, ServingSettings
from models.vlm.dialogue import Dialogue
from models.vlm.model import LanguageModel
from models.vlm.state import State

# Benchmarks' prompts, with options and history, are longer than a standing instruction.
MAX_PROMPT_TOKENS = 4096
# Added to the logit of Response; above any difference between logits, and far from overflowing bfloat16.
_FORCE = 1e6
_TAG_MS = 1000


class Mode(StrEnum):
    """How a question is put. Scores of different modes are never put into one table."""

    OFFICIAL = "official"
    """As the benchmark does: the clip up to the question, and an answer that must come (Response is forced)."""
    PUSH = "push"
    """As it is served: the model speaks when it chooses to, and silence is wrong."""


@dataclass(frozen=True)
class Probe:
    """The stretch [start_s, end_s] of a video is shown with `prompt` as the instruction.

    `asked_s`: in push mode the model may speak from then on; where the stretch shows no frame after it, the last one is
    shown again then. In official mode it is made to speak once, on the last frame.
    """

    key: str
    video: Path
    prompt: str
    end_s: float
    start_s: float = 0.0
    asked_s: float = 0.0


@dataclass(frozen=True)
class Answer:
    """What was said, and when: seconds of the video."""

    at_s: float
    text: str


class _MadeToRespond(LanguageModel):
    """The same weights; wherever a state is decided it is Response. The text is the model's own."""

    def __init__(self, model: LanguageModel) -> None:
        self.__dict__.update(model.__dict__)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = super().logits(hidden).float()
        # Texts hold no state token, so that this changes nothing after the first.
        logits[..., self.dialogue.state_token_ids[State.RESPONSE]] += _FORCE
        return logits


def serve_for(
    model_dir: Path, mode: Mode, serving: ServingSettings, *, device: str, max_at_once: int
) -> ServedModel:
    """A checkpoint for benchmark questions of a mode: as it is served, but for the length of instructions."""

    def adapt(model: LanguageModel) -> LanguageModel:
        adapted = _MadeToRespond(model) if mode is Mode.OFFICIAL else copy.copy(model)
        prompt = model.config.system_prompt
        adapted.dialogue = Dialogue.load(model_dir, prompt, MAX_PROMPT_TOKENS)
        return adapted

    return ServedModel(
        model_dir,
        serving,
        device=device,
        max_at_once=max_at_once,
        max_cached_frames=512,
        max_instruction_tokens=MAX_PROMPT_TOKENS,
        adapt=adapt,
    )


def ask(
    served: ServedModel,
    probes: Iterable[Probe],
    mode: Mode,
    fps: float,
    sensitivity: float = 0.0,
    on_round: Callable[[], None] = lambda: None,
) -> Iterator[tuple[Probe, list[Answer]]]:
    """Each probe with what was said, as it ends. Raises ClipError for a video that cannot be shown."""
    by_key: dict[str, Probe] = {}

    def scripts() -> Iterator[DialogueScript]:
        for probe in probes:
            by_key[probe.key] = probe
            yield DialogueScript(probe.key, probe.prompt, _frames(probe, mode, fps, served))

    for transcript in run_dialogues(
        served.engine,
        served.encoder,
        served.dialogue,
        scripts(),
        max_at_once=served.max_at_once,
        sensitivity=sensitivity,
        on_round=on_round,
    ):
        probe = by_key.pop(transcript.session_id)
        yield probe, _answers(probe, transcript)


def _answers(probe: Probe, transcript: Transcript) -> list[Answer]:
    return [
        Answer(probe.start_s + one.end_ms / 1000, one.text)
        for one in transcript.rounds
        if one.state is State.RESPONSE
    ]


def _frames(probe: Probe, mode: Mode, fps: float, served: ServedModel) -> Iterator[LiveFrame]:
    """One frame behind the decoder, since the last frame of all is always live."""
    asked_ms = (probe.asked_s - probe.start_s) * 1000
    held: LiveFrame | None = None
    begin_ms = 0
    for at_ms, picture in clip_frames(probe.video, probe.start_s, probe.end_s, fps, served.budget):
        if held is not None:
            yield held
        else:
            begin_ms = max(0, at_ms - _TAG_MS)
        is_past = mode is Mode.OFFICIAL or at_ms < asked_ms
        held = LiveFrame(begin_ms, at_ms, picture, is_past)
        begin_ms = at_ms
    assert held is not None  # clip_frames gives one or raises
    if mode is Mode.PUSH and held.end_ms < asked_ms:
        yield held
        held = LiveFrame(held.end_ms, math.ceil(asked_ms), held.picture)
    yield LiveFrame(held.start_ms, held.end_ms, held.picture)
