"""Recipes: what is trained, on what, and for how long, as plain data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from models.training.dataset import ClipPlan
from models.training.scratch_model import Architecture
from models.training.training_model import LossConfig
from models.training.warm_up import WarmUp
from models.vlm.frame_size import FrameBudget
from models.vlm.streamo_config import StreamoConfig

TINY_SYSTEM_PROMPT = "Answer each frame with </Silence>, </Standby> or </Response> and what to say."


@dataclass(frozen=True)
class ScratchRecipe:
    """A model trained from nothing on the simulated place: first its vision tower alone, then all of it."""

    architecture: Architecture
    streamo: StreamoConfig
    budget: FrameBudget
    vocab_size: int
    max_steps: int
    warm_up: WarmUp = field(default_factory=WarmUp)
    batch_size: int = 8
    clips: ClipPlan = field(default_factory=ClipPlan)
    loss: LossConfig = field(default_factory=LossConfig)
    learning_rate: float = 1.5e-3
    warmup_steps: int = 60
    weight_decay: float = 0.05
    adam_beta2: float = 0.98
    max_grad_norm: float = 1.0
    seed: int = 17
    eval_every_steps: int = 200
    save_every_steps: int = 50
    log_every_steps: int = 10
    num_validation_samples: int = 60


def tiny() -> ScratchRecipe:
    """The embedded model: a few million parameters, 20 visual tokens a frame, under four hours on two CPU cores."""
    return ScratchRecipe(
        architecture=Architecture(),
        streamo=StreamoConfig(
            window_rounds=32,
            max_reply_tokens=40,
            system_prompt=TINY_SYSTEM_PROMPT,
            max_instruction_tokens=256,
        ),
        budget=FrameBudget(min_pixels=28 * 28, max_pixels=140 * 112),
        vocab_size=1024,
        max_steps=3200,
    )


RECIPES: dict[str, Callable[[], ScratchRecipe]] = {"tiny": tiny}
