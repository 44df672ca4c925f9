"""Checkpoints of a run, and the step from one to a model that can be shipped."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal, overload

import torch
from transformers import AutoModelForImageTextToText

from models.training.trainer import SIDE_FILES
from models.training.truth_heads import TRUTH_HEADS_FILE


@overload
def newest_checkpoint(run_dir: str | Path) -> Path: ...
@overload
def newest_checkpoint(run_dir: str | Path, required: Literal[False]) -> Path | None: ...
def newest_checkpoint(run_dir: str | Path, required: bool = True) -> Path | None:
    """The last complete checkpoint of a run. Where there is none: ValueError, or None unless it is `required`."""
    # trainer_state.json is written last, so a checkpoint that has it is whole.
    complete = [path.parent for path in Path(run_dir).glob("checkpoint-*/trainer_state.json")]
    if not complete:
        if required:
            raise ValueError(f"{run_dir} holds no complete checkpoint yet")
        return None
    return max(complete, key=lambda path: int(path.name.rpartition("-")[2]))


def export_checkpoint(
    checkpoint: str | Path,
    model_dir: str | Path,
    dtype: torch.dtype = torch.float32,
    *,
    keeps_truth_heads: bool = False,
) -> None:
    """Write what serving needs, with weights of `dtype`; other files in `model_dir` stay.

    `keeps_truth_heads`: write those too, for training that goes on from here.
    """
    source, target = Path(checkpoint), Path(model_dir)
    target.mkdir(parents=True, exist_ok=True)
    model = AutoModelForImageTextToText.from_pretrained(str(source), dtype=dtype)
    model.save_pretrained(str(target))
    # The weights are written for their owner alone, who need not be who serves.
    for weights in target.glob("*.safetensors"):
        shutil.copymode(target / "config.json", weights)
    for name in (*SIDE_FILES, *([TRUTH_HEADS_FILE] if keeps_truth_heads else [])):
        shutil.copyfile(source / name, target / name)
