"""Checkpoints of a run, and the step from one to a model that can be shipped."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Literal, overload

import torch
from transformers import AutoModelForImageTextToText

from models.training.trainer import SIDE_FILES
from models.training.truth_heads import TRUTH_HEADS_FILE

_NAME = re.compile(r"checkpoint-\d+")
_WEIGHTS_INDEX = "model.safetensors.index.json"


@overload
def newest_checkpoint(run_dir: str | Path) -> Path: ...
@overload
def newest_checkpoint(run_dir: str | Path, required: Literal[False]) -> Path | None: ...
def newest_checkpoint(run_dir: str | Path, required: bool = True) -> Path | None:
    """The last complete checkpoint of a run. Where there is none: ValueError, or None unless it is `required`."""
    checkpoints = [path for path in Path(run_dir).glob("checkpoint-*") if _NAME.fullmatch(path.name)]
    for checkpoint in sorted(checkpoints, key=step_of, reverse=True):
        if _is_whole(checkpoint):
            return checkpoint
    if required:
        raise ValueError(f"{run_dir} holds no complete checkpoint yet")
    return None


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))


def _is_whole(checkpoint: Path) -> bool:
    """Its trainer_state.json is written last, and may itself have been cut by a kill."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    return True


def export_checkpoint(
    checkpoint: str | Path,
    model_dir: str | Path,
    dtype: torch.dtype = torch.float32,
    *,
    keeps_truth_heads: bool = False,
) -> None:
    """Write what serving needs, with weights of `dtype`; files in `model_dir` that are none of a model's stay.

    `keeps_truth_heads`: write those too, for training that goes on from here.
    """
    source, target = Path(checkpoint), Path(model_dir)
    target.mkdir(parents=True, exist_ok=True)
    model = AutoModelForImageTextToText.from_pretrained(str(source), dtype=dtype)
    (target / _WEIGHTS_INDEX).unlink(
        missing_ok=True
    )  # of a larger model that was here: its files go, but not this
    model.save_pretrained(str(target))
    # The weights are written for their owner alone, who need not be who serves.
    for weights in target.glob("*.safetensors"):
        shutil.copymode(target / "config.json", weights)
    for name in (*SIDE_FILES, *([TRUTH_HEADS_FILE] if keeps_truth_heads else [])):
        shutil.copyfile(source / name, target / name)
