from pathlib import Path

import numpy as np
import pytest
import torch

from models.data.sample import OtherInstruction, Round, Sample, Truth, TruthSizes
from models.training.dataset import ClipPlan, SampleMaker
from models.training.recipes import ScratchRecipe
from models.training.scratch_model import write_random_checkpoint
from models.training.tokenizer import train_tokenizer
from models.training.warm_up import WarmUp
from models.vlm.frame_size import FrameBudget
from models.vlm.state import State
from models.vlm.streamo_config import StreamoConfig
from tests.support.least_architecture import LEAST_ARCHITECTURE
from tests.support.tiny_models import FAMILY_NAMES, FamilyName, write_tiny_model


def make_square_sample(
    seed: int, split: str, num_frames: int, *, drills: bool = False, num_others: int = 0
) -> Sample:
    """The smallest world: a frame is dark, or bright, or bright just over, which is told. Others ask for the dark."""
    rng = np.random.default_rng((seed, len(split)))
    bright = rng.integers(0, 2, num_frames).astype(bool)
    rounds = []
    for index, state in enumerate(_states(bright)):
        text = "it was bright" if state is State.RESPONSE else ""
        rounds.append(Round(index * 1000, index * 1000 + 1000, state, text))
    acts = np.array([[round_.state] for round_ in rounds], dtype=np.int64)
    other = OtherInstruction("Tell me when it was dark.", np.array([0]), np.array(_states(~bright)))
    frames = np.where(bright, 250, 5).astype(np.uint8)[:, None, None, None]
    return Sample(
        task="event",
        instruction="Tell me when it was bright.",
        frames=np.broadcast_to(frames, (num_frames, 28, 56, 3)).copy(),
        rounds=tuple(rounds),
        truth=Truth(bright.astype(np.int64)[:, None], acts, np.array([1]), TruthSizes((2,), (3,), (2,))),
        source="test",
        others=(other,) * num_others,
    )


def _states(is_on: np.ndarray) -> list[State]:
    was_on = np.concatenate(([False], is_on[:-1]))
    return [
        State.STANDBY if on else State.RESPONSE if was else State.SILENCE
        for on, was in zip(is_on, was_on, strict=True)
    ]


@pytest.fixture(scope="session")
def make_sample() -> SampleMaker:
    return make_square_sample


@pytest.fixture(scope="session")
def recipe() -> ScratchRecipe:
    return ScratchRecipe(
        architecture=LEAST_ARCHITECTURE,
        streamo=StreamoConfig(window_rounds=8, max_reply_tokens=8, system_prompt="Say what to say."),
        budget=FrameBudget(min_pixels=28 * 28, max_pixels=28 * 56),
        vocab_size=300,
        max_steps=4,
        batch_size=2,
        clips=ClipPlan(num_rounds=(3, 4), max_dropped=2, overlap_rounds=1, full_rounds=2),
        warm_up=WarmUp(
            max_steps=3,
            clips_per_batch=2,
            clip_rounds=4,
            frames_per_clip=2,
            warmup_steps=1,
            save_every_steps=2,
        ),
        warmup_steps=1,
        learning_rate=3e-3,
        eval_every_steps=100,
        save_every_steps=2,
        log_every_steps=1,
        num_validation_samples=3,
    )


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory, recipe: ScratchRecipe) -> Path:
    directory = tmp_path_factory.mktemp("scratch")
    texts = ["system user assistant it was bright Tell me when it was bright."] * 3
    write_random_checkpoint(
        directory,
        recipe.architecture,
        train_tokenizer(texts, recipe.vocab_size),
        recipe.streamo,
        recipe.budget,
        seed=3,
    )
    return directory


@pytest.fixture(scope="module", params=FAMILY_NAMES)
def family_dir(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint of each family."""
    torch.set_num_threads(1)
    family: FamilyName = request.param
    directory = tmp_path_factory.mktemp(family)
    write_tiny_model(directory, family)
    return directory
