"""A sharded fine-tuning run on a CPU: `python -m tests.support.sharded_run RECIPE CHANGES MODEL DATA RUN STEPS`.

Accelerate shards on accelerators alone; here it is told that a CPU is one, so that all of the rest (what is wrapped,
gathered, saved and read back) is run as on GPUs. The run gets a SIGTERM after STEPS steps, and is resumed.
"""

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import accelerate.state
import torch
from accelerate.utils import DistributedType
from torch.distributed.fsdp import FSDPModule
from transformers import TrainerCallback

from models.training import fine_tune
from models.training.checkpoints import newest_checkpoint
from models.training.recipes import RECIPES, FineTuneRecipe


def _shard_on_cpus() -> None:
    original = accelerate.state.AcceleratorState.__init__
    plugins: list[Any] = []

    def init(self: Any, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
        original(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None:
            plugins.append(fsdp_plugin)
        if plugins:
            self.distributed_type = DistributedType.FSDP
            self.fsdp_plugin = plugins[0]

    accelerate.state.AcceleratorState.__init__ = init


class _Witness(TrainerCallback):
    """Says that the model is sharded, and sends the SIGTERM."""

    def __init__(self, steps: int) -> None:
        self._steps = steps

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        layers = model.vlm.model.language_model.layers
        if isinstance(model, FSDPModule) and all(isinstance(layer, FSDPModule) for layer in layers):
            print("FSDP", flush=True)
        if state.global_step == self._steps:
            os.kill(os.getpid(), signal.SIGTERM)


def main(name: str, changes: str, model_dir: str, data: str, run_dir: str, steps: str) -> None:
    torch.set_num_threads(1)
    _shard_on_cpus()
    recipe = RECIPES[name]()
    assert isinstance(recipe, FineTuneRecipe)

    class Trainer(fine_tune.StreamoTrainer):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.callback_handler.callbacks.insert(0, _Witness(int(steps)))

    fine_tune.StreamoTrainer = Trainer  # type: ignore[misc]
    run = fine_tune.FineTuneRun(
        replace(recipe, **json.loads(changes)),
        Path(model_dir),
        fine_tune.FineTuneData(Path(data), video_root=Path(data).parent),
        Path(run_dir),
        fine_tune.Devices(use_cpu=True, shards=True),
    )
    run.train()
    print(f"stopped at {newest_checkpoint(run_dir).name}", flush=True)
    run.train(resume=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
