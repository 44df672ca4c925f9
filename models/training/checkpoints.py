"""Checkpoints of a run, and the step from one to a model that can be shipped."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from models.training.trainer import SIDE_FILES


def newest_checkpoint(run_dir: str | Path) -> Path:
    """The last complete checkpoint of a run. ValueError if there is none."""
    # trainer_state.json is written last, so a checkpoint that has it is whole.
    complete = [path.parent for path in Path(run_dir).glob("checkpoint-*/trainer_state.json")]
    if not complete:
        raise ValueError(f"{run_dir} holds no complete checkpoint yet")
    return max(complete, key=lambda path: int(path.name.rpartition("-")[2]))


def export_checkpoint(
    checkpoint: str | Path, model_dir: str | Path, dtype: torch.dtype = torch.float32
) -> None:
    """Write what serving needs, with weights of `dtype`; other files in `model_dir` stay."""
    source, target = Path(checkpoint), Path(model_dir)
    target.mkdir(parents=True, exist_ok=True)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(str(source), dtype=dtype)
    model.save_pretrained(str(target))
    for name in SIDE_FILES:
        shutil.copyfile(source / name, target / name)
