from pathlib import Path

import pytest
import torch

from models.training.dataset import ClipPlan, SampleMaker
from models.training.recipes import ScratchRecipe
from models.training.scratch_model import write_random_checkpoint
from models.training.tokenizer import train_tokenizer
from models.training.warm_up import WarmUp
from models.vlm.frame_size import FrameBudget
from models.vlm.streamo_config import StreamoConfig
from tests.support.least_architecture import LEAST_ARCHITECTURE
from tests.support.square_sample import make_square_sample
from tests.support.tiny_models import FAMILY_NAMES, FamilyName, write_tiny_model


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
