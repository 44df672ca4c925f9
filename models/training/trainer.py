"""Hugging Face's Trainer, taught to write servable checkpoints and to measure decisions and words."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from transformers import (
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

# What a model directory holds besides the weights, copied into every checkpoint.
SIDE_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "preprocessor_config.json",
    "streamo.json",
)


class StreamoTrainer(Trainer):
    """Trains a model that has `save`, `load` and `last_parts`; every checkpoint of it can be served as it stands.

    SIGTERM saves a checkpoint and ends the run cleanly, if training runs in the main thread.
    """

    def __init__(
        self, *args: Any, model_dir: Path, evaluation: Callable[[], dict[str, float]], **kwargs: Any
    ) -> None:
        """`model_dir` holds the SIDE_FILES, ValueError if not. `evaluation` gives the scores that are logged below
        `eval_`."""
        if missing := [name for name in SIDE_FILES if not (model_dir / name).is_file()]:
            raise ValueError(
                f"{model_dir} lacks {', '.join(missing)}: it cannot be served, nor can its checkpoints"
            )
        self._run_callback = _RunCallback()
        super().__init__(*args, callbacks=[self._run_callback], **kwargs)
        self._model_dir = model_dir
        self._evaluation = evaluation
        self._part_sums: dict[str, torch.Tensor] = {}
        self._part_counts: dict[str, int] = {}
        self._started_s = time.monotonic()

    def train(self, *args: Any, **kwargs: Any) -> Any:
        def stop(signum: int, frame: FrameType | None) -> None:
            self._run_callback.stops = True

        if threading.current_thread() is not threading.main_thread():
            return super().train(*args, **kwargs)
        previous = signal.signal(signal.SIGTERM, stop)
        try:
            return super().train(*args, **kwargs)
        finally:
            signal.signal(signal.SIGTERM, previous)

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        result = super().compute_loss(model, inputs, *args, **kwargs)
        for name, value in self.accelerator.unwrap_model(model).last_parts.items():
            self._part_sums[name] = self._part_sums.get(name, 0.0) + value
            self._part_counts[name] = self._part_counts.get(name, 0) + 1
        return result

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs:
            for name, total in self._part_sums.items():
                logs[f"loss_{name}"] = float(total) / self._part_counts[name]
            self._part_sums, self._part_counts = {}, {}
            logs["minutes"] = (time.monotonic() - self._started_s) / 60
        super().log(logs, *args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        metrics = {f"eval_{name}": value for name, value in self._evaluation().items()}
        self.log(metrics)
        control: TrainerControl = self.control  # type: ignore[has-type]
        self.control = self.callback_handler.on_evaluate(self.args, self.state, control, metrics)
        return metrics

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        directory = Path(output_dir if output_dir is not None else self.args.output_dir)
        directory.mkdir(parents=True, exist_ok=True)
        self.accelerator.unwrap_model(self.model).save(directory, state_dict)
        for name in SIDE_FILES:
            shutil.copy2(self._model_dir / name, directory / name)
        torch.save(self.args, directory / "training_args.bin")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            self.accelerator.unwrap_model(self.model if model is None else model).load(resume_from_checkpoint)

    def get_train_dataloader(self) -> Any:
        loader = super().get_train_dataloader()
        # A SIGTERM to the whole group is for the main process, which ends its workers when it has saved. What is set on
        # accelerate's wrapper does not reach the loader that starts them.
        of_workers = loader.base_dataloader
        of_workers.worker_init_fn = partial(_start_worker, of_workers.worker_init_fn)
        return loader


def _start_worker(seed: Callable[[int], None] | None, worker_id: int) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if seed is not None:
        seed(worker_id)


def _asked_of_any(stops: bool, device: torch.device) -> bool:
    """Processes get their SIGTERM at different steps, and have to save at the same one, or they wait for ever."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return stops
    flag = torch.tensor(int(stops), device=device)
    torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
    return bool(flag)


class _RunCallback(TrainerCallback):
    """Lets the truth heads' weight fall, and ends the run cleanly when it is asked to."""

    def __init__(self) -> None:
        self.stops = False

    def on_step_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **kwargs: Any,
    ) -> None:
        if getattr(model, "truth_heads", None) is not None:
            share_left = max(0.0, 1 - state.global_step / state.max_steps)
            # Trainer adds up what several processes lose, each divided by the targets of all. The heads give means.
            model.truth_weight = model.loss_config.truth_weight * share_left / args.world_size

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        if _asked_of_any(self.stops, args.device):
            control.should_save = control.should_training_stop = True
