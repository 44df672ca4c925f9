"""The tensors of one half of a checkpoint, read from its safetensors files and put into a module."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open


def vision_name(name: str) -> str | None:
    """The tower's own name of a checkpoint tensor, None if it belongs to the other half."""
    for prefix in ("model.visual.", "visual."):
        if name.startswith(prefix):
            return name.removeprefix(prefix)
    return None


def language_name(name: str) -> str | None:
    """The text model's own name of a checkpoint tensor (or `lm_head.weight`), None for the tower's."""
    if vision_name(name) is not None:
        return None
    # Checkpoints from before transformers 4.52 have the text model right under "model.".
    for prefix in ("model.language_model.", "language_model.model.", "model."):
        if name.startswith(prefix):
            return name.removeprefix(prefix)
    return name


def read_weights(
    model_dir: str | Path, rename: Callable[[str], str | None], dtype: torch.dtype, device: torch.device
) -> dict[str, torch.Tensor]:
    """The tensors that `rename` gives a name, under that name; nothing else is read from disk."""
    directory = Path(model_dir)
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = sorted({file for name, file in weight_map.items() if rename(name) is not None})
    else:
        files = ["model.safetensors"]
    weights = {}
    for file in files:
        if not (directory / file).is_file():
            raise ValueError(f"{directory} lacks {file}; only safetensors weights are read")
        with safe_open(directory / file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (safe_open is no mapping)
                if (own_name := rename(name)) is not None:
                    weights[own_name] = tensors.get_tensor(name).to(device, dtype)
    return weights


def put_weights(module: Any, weights: dict[str, torch.Tensor], model_dir: str | Path) -> None:
    """Make the tensors the module's parameters. ValueError unless they are all of them, in their shapes."""
    try:
        module.load_state_dict(weights, strict=True, assign=True)
    except RuntimeError as error:
        raise ValueError(f"the weights in {model_dir} are not those of its config.json: {error}") from error
