"""What is left out or changed in each arm of the ablations, everything else being equal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from models.data.sample import Sample
from models.training.dataset import SampleMaker
from models.training.recipes import ScratchRecipe
from models.vlm.state import State

# Clips of another seed are this far away: further than any run comes.
_SEED_STEP = 10_000_000


@dataclass(frozen=True)
class Arm:
    """`change` makes the arm's recipe of the common one."""

    name: str
    about: str
    change: Callable[[ScratchRecipe], ScratchRecipe]
    is_respond_only: bool = False


_FOCAL: dict[str, Any] = {"gamma": 2.0, "balance": "frequency", "class_counts": None}


# Arms are sent to other processes, so nothing here is a lambda.
def _changed_loss(loss: dict[str, Any], recipe: ScratchRecipe) -> ScratchRecipe:
    return replace(recipe, loss=replace(recipe.loss, **loss))


def _with_loss(**loss: Any) -> Callable[[ScratchRecipe], ScratchRecipe]:
    return partial(_changed_loss, loss)


def _whole_clips(recipe: ScratchRecipe) -> ScratchRecipe:
    return _changed_loss(_FOCAL, replace(recipe, clips=replace(recipe.clips, joined_late=0.0)))


ARMS = (
    Arm("reference", "focal loss with frequency, three states, chunks as windows", _with_loss(**_FOCAL)),
    Arm(
        "cross-entropy",
        "plain cross entropy",
        _with_loss(gamma=0.0, balance=None, class_counts=None),
    ),
    Arm(
        "class-balanced",
        "focal loss with class-balanced weights of all that is learnt",
        _with_loss(**_FOCAL | {"balance": "class_balanced"}),
    ),
    Arm(
        "respond-only",
        "no Standby: Silence until the Response",
        _with_loss(**_FOCAL),
        is_respond_only=True,
    ),
    Arm(
        "whole-clips",
        "clips from their first frame on, none a window that slid",
        _whole_clips,
    ),
)


@dataclass(frozen=True)
class ArmSamples:
    """The samples of an arm under one seed. Other seeds draw other training clips; validation stays."""

    make_sample: SampleMaker
    seed: int
    is_respond_only: bool = False

    def __call__(self, seed: int, split: str, num_frames: int, **wanted: Any) -> Sample:
        if split == "train":
            seed += self.seed * _SEED_STEP
        sample = self.make_sample(seed, split, num_frames, **wanted)
        return without_standby(sample) if self.is_respond_only else sample


def without_standby(sample: Sample) -> Sample:
    """The same with Silence for Standby."""
    rounds = tuple(
        replace(one, state=State.SILENCE) if one.state is State.STANDBY else one for one in sample.rounds
    )
    others = tuple(
        replace(other, states=np.where(other.states == State.STANDBY, State.SILENCE, other.states))
        for other in sample.others
    )
    return replace(sample, rounds=rounds, others=others)
