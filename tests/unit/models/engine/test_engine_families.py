"""Frames through our encoder and the engine, against Hugging Face's whole model over pixels and token ids."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

from models.engine.config import EngineConfig
from models.engine.engine import Engine
from models.engine.round import Decision, Reply, RoundInput
from models.vlm.model import LanguageModel, VisionEncoder
from models.vlm.state import State
from tests.support.tiny_chats import INSTRUCTIONS, Chat, hf_inputs, random_frames, random_grids
from tests.support.tiny_models import FAMILY_NAMES, write_tiny_model

NUM_ROUNDS = 8


@pytest.fixture(scope="module", params=FAMILY_NAMES)
def model_dir(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp(request.param)
    write_tiny_model(directory, request.param, seed=3)
    return directory


@pytest.mark.parametrize("max_batch_tokens", [8, 29, 512])
def test_rounds_of_a_camera_equal_the_whole_model_over_the_chat(
    model_dir: Path, max_batch_tokens: int
) -> None:
    encoder, language = VisionEncoder.load(model_dir), LanguageModel.load(model_dir)
    hf_model: Any = AutoModelForImageTextToText.from_pretrained(model_dir, dtype=torch.float32).eval()
    engine = Engine(
        language,
        EngineConfig(
            max_sessions=2, max_kv_tokens=4096, max_batch_tokens=max_batch_tokens, max_frame_tokens=20
        ),
    )
    assert language.config.window_rounds >= NUM_ROUNDS, "nothing may be dropped here"
    feeds = {}
    for name, seed in (("door", 0), ("gate", 1)):
        grids = random_grids(NUM_ROUNDS, seed)
        frames = random_frames(encoder.budget, grids, seed)
        rounds = [
            RoundInput(1000 * index, 1000 * index + 700, tokens, grid)
            for index, (tokens, grid) in enumerate(zip(encoder.encode(frames), grids, strict=True))
        ]
        feeds[name] = (INSTRUCTIONS[seed], frames, rounds)
        engine.open(name, INSTRUCTIONS[seed])
    decisions, replies = run(engine, {name: rounds for name, (_, _, rounds) in feeds.items()})

    states = set()
    for name, (instruction, frames, rounds) in feeds.items():
        found = [decisions[name, index] for index in range(NUM_ROUNDS)]
        states |= {decision.state for decision in found}
        said = [replies.get((name, index), ()) for index in range(NUM_ROUNDS)]
        expected = whole_model(
            model_dir, hf_model, language, instruction, frames, rounds, [d.state for d in found], said
        )
        np.testing.assert_allclose([d.state_logits for d in found], expected, atol=1e-4, rtol=0)
    assert State.RESPONSE in states and len(states) > 1, "decisions too alike to prove anything"


def run(
    engine: Engine, feeds: dict[str, list[RoundInput]]
) -> tuple[dict[tuple[str, int], Decision], dict[tuple[str, int], tuple[int, ...]]]:
    decisions, replies = {}, {}
    waiting = {name: list(rounds) for name, rounds in feeds.items()}
    while any(waiting.values()) or engine.has_work:
        for name, rounds in waiting.items():
            while rounds and engine.can_append(name):
                engine.append(name, rounds.pop(0))
        for output in engine.step():
            if isinstance(output, Reply):
                replies[output.session_id, output.round_index] = output.token_ids
            else:
                decisions[output.session_id, output.round_index] = output
        engine.check_integrity()
    return decisions, replies


def whole_model(
    model_dir: Path,
    hf_model: Any,
    language: LanguageModel,
    instruction: str,
    frames: list[np.ndarray],
    rounds: list[RoundInput],
    states: list[State],
    said: list[tuple[int, ...]],
) -> torch.Tensor:
    """State logits [rounds, 3] of one forward over all that was fed and said."""
    dialogue = language.dialogue
    ids, places = list(dialogue.pinned_prefix(instruction)), []
    for one, state, text in zip(rounds, states, said, strict=True):
        ids += dialogue.round_head(one.start_ms, one.end_ms, len(one.frame))
        places.append(len(ids) - 1)
        ids += [dialogue.state_token_ids[state], *text, *dialogue.round_tail]
    chat = Chat(torch.tensor([ids]), torch.empty(0), frames, [one.grid for one in rounds])
    with torch.no_grad():
        logits = hf_model(**hf_inputs(model_dir, chat)).logits[0]
    return logits[places][:, list(dialogue.state_token_ids)]
