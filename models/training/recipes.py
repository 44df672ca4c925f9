"""Recipes: what is trained, on what, and for how long, as plain data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from models.data.place.act import COLOURS
from models.training.dataset import ClipPlan
from models.training.scratch_model import Architecture
from models.training.training_model import LossConfig
from models.training.warm_up import WarmUp
from models.vlm.frame_size import FrameBudget
from models.vlm.streamo_config import StreamoConfig

TINY_SYSTEM_PROMPT = "Answer each frame with </Silence>, </Standby> or </Response> and what to say."


@dataclass(frozen=True)
class LaterPass:
    """How a model goes on that an earlier pass has taught."""

    max_steps: int
    batch_size: int
    clips: ClipPlan
    learning_rate: float
    matrix_learning_rate: float
    truth_weight: float
    seen_weight: float
    warmup_steps: int = 15


@dataclass(frozen=True)
class ScratchRecipe:
    """A model trained from nothing on the simulated place: first its vision tower and the layers that read it, then all
    but the tower, in one pass or several.

    As in the paper the tower is frozen while the language model and the projector learn. `matrix_learning_rate` is
    Muon's, for the matrices of layers and projector; `learning_rate` is for everything else.
    """

    architecture: Architecture
    streamo: StreamoConfig
    budget: FrameBudget
    vocab_size: int
    max_steps: int
    warm_up: WarmUp = field(default_factory=WarmUp)
    batch_size: int = 8
    clips: ClipPlan = field(default_factory=ClipPlan)
    later_passes: tuple[LaterPass, ...] = ()
    loss: LossConfig = field(default_factory=LossConfig)
    learning_rate: float = 1.5e-3
    matrix_learning_rate: float = 0.01
    warmup_steps: int = 60
    weight_decay: float = 0.05
    adam_beta2: float = 0.98
    max_grad_norm: float = 1.0
    seed: int = 17
    eval_every_steps: int = 200
    save_every_steps: int = 50
    log_every_steps: int = 10
    num_validation_samples: int = 60

    @property
    def passes(self) -> tuple[ScratchRecipe, ...]:
        """After the tower's lessons, each a recipe of one pass."""
        first = replace(self, later_passes=())
        later = (
            replace(
                first,
                max_steps=one.max_steps,
                batch_size=one.batch_size,
                clips=one.clips,
                loss=replace(first.loss, truth_weight=one.truth_weight, seen_weight=one.seen_weight),
                learning_rate=one.learning_rate,
                matrix_learning_rate=one.matrix_learning_rate,
                warmup_steps=one.warmup_steps,
            )
            for one in self.later_passes
        )
        return first, *later


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
        max_steps=1900,
        clips=ClipPlan(wrong_words=COLOURS, asks_past_times=True, drills=True, num_others=4),
        later_passes=(
            # Sessions as they are served, whose windows slide, and in which something was missed. What is right is
            # learnt before, from shorter histories; alone a model would hear itself, and go on with what it has missed.
            # In calm ones what was answered is long out of sight, and still holds.
            LaterPass(
                max_steps=600,
                batch_size=4,
                clips=ClipPlan(
                    num_rounds=(64,),
                    joined_late=0.0,
                    window_rounds=32,
                    mistaken=0.5,
                    wrong_words=COLOURS,
                    asks_past_times=True,
                    drills=True,
                    calm=0.3,
                    num_others=6,
                ),
                learning_rate=6e-4,
                matrix_learning_rate=0.004,
                truth_weight=1.0,
                seen_weight=0.25,
            ),
        ),
        # Probabilities as they are: a balanced loss speaks too often, and no bias puts that right as well. States are
        # asked for under other instructions too, and heads ask for what is to be seen; what to say is asked here alone.
        loss=LossConfig(gamma=0.0, balance=None, text_weight=4.0),
    )


@dataclass(frozen=True)
class FineTuneRecipe:
    """A prepared checkpoint tuned on samples of videos, as in the paper: the projector and the language model
    learn, the rest of the vision tower is frozen.

    `batch_packs`: packed sequences a step, over all devices. `overlap_share`: part of a window that is context where
    the window does not begin its session. `reshards`: give up the parameters of a layer between its forward and its
    backward pass, where the model is sharded: less memory, more talk between devices.
    """

    reshards: bool
    fps: float = 1.0
    max_packed_tokens: int = 32_768
    batch_packs: int = 512
    num_epochs: float = 1.0
    learning_rate: float = 1e-5
    warmup_share: float = 0.05
    weight_decay: float = 0.1
    max_grad_norm: float = 1.0
    overlap_share: float = 0.25
    loss: LossConfig = field(default_factory=lambda: LossConfig(truth_weight=0.0))
    seed: int = 17
    save_every_steps: int = 50
    log_every_steps: int = 1


def sft_3b() -> FineTuneRecipe:
    """Qwen2.5-VL-3B, Qwen3-VL-2B or -4B: the paper's settings."""
    return FineTuneRecipe(reshards=False)


def sft_7b() -> FineTuneRecipe:
    """Qwen2.5-VL-7B or Qwen3-VL-8B: the paper's settings."""
    return FineTuneRecipe(reshards=True)


RECIPES: dict[str, Callable[[], ScratchRecipe | FineTuneRecipe]] = {
    "tiny": tiny,
    "sft_3b": sft_3b,
    "sft_7b": sft_7b,
}
