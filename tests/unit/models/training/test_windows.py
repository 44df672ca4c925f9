"""What is trained is what is served: a sample longer than the window, against the engine whose window slides."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

from models.data.sample import Sample
from models.engine.config import EngineConfig
from models.engine.engine import Engine
from models.engine.round import Decision, RoundInput
from models.training.collator import Collator
from models.training.dataset import SampleMaker, make_example
from models.training.training_model import LossConfig, TrainingModel
from models.vlm.dialogue import Dialogue
from models.vlm.model import LanguageModel, VisionEncoder
from models.vlm.pixels import PixelFormat
from models.vlm.state import State
from models.vlm.streamo_config import StreamoConfig

WINDOW, ROUNDS = 5, 17


def trained_logits(family_dir: Path, sample: Sample, window: int | None, *, trims: bool) -> torch.Tensor:
    """Of the three states, [rounds, 3]."""
    streamo = StreamoConfig.load(family_dir)
    dialogue = Dialogue.load(family_dir, streamo.system_prompt)
    pixels = PixelFormat.load(family_dir)
    vlm = AutoModelForImageTextToText.from_pretrained(family_dir, dtype=torch.float32)
    model = TrainingModel(vlm, dialogue.state_token_ids, LossConfig(truth_weight=0.0), trims_last_layer=trims)
    # Beside another example, which must not show.
    other = make_example(
        replace(sample, rounds=sample.rounds[:3], frames=sample.frames[:3]), dialogue, pixels
    )
    example = make_example(sample, dialogue, pixels, window_rounds=window)
    with torch.no_grad():
        output = model.eval()(**Collator(pixels)([other, example]))
    is_state = torch.isin(output["targets"], torch.tensor(dialogue.state_token_ids))
    return output["logits"][is_state][-len(sample.rounds) :, list(dialogue.state_token_ids)]


def served_logits(family_dir: Path, sample: Sample) -> torch.Tensor:
    encoder, language = VisionEncoder.load(family_dir), LanguageModel.load(family_dir)
    engine = Engine(language, EngineConfig(1, 4096, 512, window_rounds=WINDOW))
    grid = encoder.budget.grid(*sample.frames.shape[1:3])
    engine.open("one", sample.instruction)
    logits = []
    for round_, frame in zip(sample.rounds, encoder.encode(list(sample.frames)), strict=True):
        forced = tuple(language.dialogue.reply(round_.state, round_.text))
        engine.append("one", RoundInput(round_.start_ms, round_.end_ms, frame, grid, forced))
        while engine.has_work:
            logits += [out.state_logits for out in engine.step() if isinstance(out, Decision)]
    return torch.tensor(logits)


@pytest.mark.parametrize("trims", [False, True])
def test_a_round_is_trained_as_it_is_served_however_often_the_window_has_slid(
    family_dir: Path, make_sample: SampleMaker, trims: bool
) -> None:
    torch.set_num_threads(1)
    sample = make_sample(3, "train", ROUNDS)
    assert {round_.state for round_ in sample.rounds} == set(State)
    size = PixelFormat.load(family_dir).budget.fit(*sample.frames.shape[1:3])
    frames = np.broadcast_to(sample.frames[:, :1, :1], (ROUNDS, *size, 3)).copy()  # each of one colour
    sample = replace(sample, frames=frames)
    trained = trained_logits(family_dir, sample, WINDOW, trims=trims)
    served = served_logits(family_dir, sample)
    torch.testing.assert_close(trained, served, atol=2e-4, rtol=0)
    # It is the window that makes the difference.
    whole = trained_logits(family_dir, sample, None, trims=trims)
    torch.testing.assert_close(whole[:WINDOW], served[:WINDOW], atol=2e-4, rtol=0)
    assert (whole[WINDOW:] - served[WINDOW:]).abs().max() > 1e-3
