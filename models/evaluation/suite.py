"""A run of the suite: one checkpoint under one engine setting over the streams of a source, in one directory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from models.data.finding import BrokenSample
from models.data.place.wording import parse_text
from models.engine.config import EngineConfig, PinnedPositions
from models.engine.engine import Engine
from models.evaluation import clip_streams, place_streams
from models.evaluation.cached_encoder import CachedEncoder
from models.evaluation.caption import CaptionReader
from models.evaluation.free_run import free_run
from models.evaluation.journal import Journal, read_journal
from models.evaluation.stream import StreamRecord, StreamSource
from models.evaluation.tally import Parse
from models.vlm.frame_size import FrameBudget
from models.vlm.model import LanguageModel, VisionEncoder

JOURNAL_NAME = "streams.jsonl"
# Text of a round beside its frame and reply: time tag, vision and turn tokens.
_SCAFFOLDING_TOKENS = 64


@dataclass(frozen=True)
class ServingSettings:
    """How the checkpoint is served while it is scored. None: as it was trained.

    `sensitivity` is added to the logits of Standby and Response: choose it on validation only.
    """

    window_rounds: int | None = None
    max_window_tokens: int | None = None
    pinned_positions: PinnedPositions = "move"
    sensitivity: float = 0.0
    dtype: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True)
class SuiteRun:
    """What a directory holds. `settings`: of the model, its serving and the source."""

    name: str
    settings: dict[str, Any]
    records: tuple[StreamRecord, ...]


class ServedModel:
    """A checkpoint in the engine, as a replica has it. `max_at_once` sessions fit at most."""

    def __init__(
        self,
        model_dir: Path,
        serving: ServingSettings,
        *,
        device: str = "cpu",
        max_at_once: int = 32,
        max_cached_frames: int = 4096,
        max_instruction_tokens: int | None = None,
        adapt: Callable[[LanguageModel], LanguageModel] = lambda model: model,
    ) -> None:
        dtype = getattr(torch, serving.dtype)
        encoder = VisionEncoder.load(model_dir, dtype, device)
        model = adapt(LanguageModel.load(model_dir, dtype, device))
        max_frame_tokens = max(1, encoder.budget.max_pixels // encoder.budget.unit**2)
        checkpoint = model.config
        num_pinned = 2 * checkpoint.max_instruction_tokens + (max_instruction_tokens or 0)
        rounds = serving.window_rounds or checkpoint.window_rounds
        most = rounds * (max_frame_tokens + checkpoint.max_reply_tokens + _SCAFFOLDING_TOKENS)
        # A round more than the window: what is reserved comes in whole blocks, with a copy of the pinned prefix.
        window = min(most, serving.max_window_tokens or most) + 2 * num_pinned + _SCAFFOLDING_TOKENS
        config = EngineConfig(
            max_sessions=max_at_once,
            max_kv_tokens=max_at_once * window,
            max_batch_tokens=4096,
            max_frame_tokens=max_frame_tokens,
            window_rounds=serving.window_rounds,
            max_window_tokens=serving.max_window_tokens,
            pinned_positions=serving.pinned_positions,
        )
        self.budget: FrameBudget = encoder.budget
        self.dialogue = model.dialogue
        self.engine = Engine(model, config)
        self.encoder = CachedEncoder(encoder, max_cached_frames)
        self.max_at_once = max_at_once


def model_settings(model_dir: Path) -> dict[str, Any]:
    """What names a checkpoint: its folder and a hash of everything in it that decides what it says."""
    if not (model_dir / "config.json").is_file():
        raise ValueError(f"{model_dir} is not a model directory: it has no config.json")
    digest = hashlib.sha256()
    for path in sorted([*model_dir.glob("*.safetensors"), *model_dir.glob("*.json")]):
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return {"model": model_dir.resolve().name, "sha256": digest.hexdigest()}


def run_suite(
    directory: Path,
    model_dir: Path,
    served: ServedModel,
    serving: ServingSettings,
    source: StreamSource,
    *,
    on_stream: Callable[[], None] = lambda: None,
    on_round: Callable[[], None] = lambda: None,
) -> SuiteRun:
    """Run what of the source the directory does not hold yet, and give the whole.

    `on_stream` is called once a stream, also for those done before or left out. ValueError where the directory holds
    a run under other settings; BrokenSample where the source wants none left out.
    """
    settings = {**model_settings(model_dir), "serving": asdict(serving), "source": source.settings}
    with Journal(directory / JOURNAL_NAME, settings) as journal:

        def left() -> Any:
            for stream in source.streams():
                if stream.stream_id in journal:
                    on_stream()
                else:
                    yield stream

        def leave_out(broken: BrokenSample) -> None:
            source.leave_out(broken)
            on_stream()

        for record in free_run(
            served.engine,
            served.encoder,
            served.dialogue,
            left(),
            max_at_once=served.max_at_once,
            sensitivity=serving.sensitivity,
            on_round=on_round,
            on_broken=leave_out,
        ):
            journal.add(record.stream_id, record.to_json())
            on_stream()
        served.engine.check_integrity()
    return load_run(directory)


def parse_of(settings: Mapping[str, Any]) -> Parse:
    """How the texts of a run are understood. ValueError for a source this version does not know."""
    source = settings["source"]
    match source["source"]:
        case place_streams.SOURCE:
            return parse_text
        case clip_streams.SOURCE:
            return CaptionReader(source["min_word_f1"]).parse
        case unknown:
            raise ValueError(f"source {unknown!r}: this version cannot read its texts")


def load_run(directory: Path) -> SuiteRun:
    """ValueError if nothing was run there. Records come in the order of their ids."""
    settings, values = read_journal(directory / JOURNAL_NAME)
    records = sorted((StreamRecord.from_json(value) for value in values), key=lambda one: one.stream_id)
    return SuiteRun(directory.resolve().name, settings, tuple(records))
