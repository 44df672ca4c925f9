"""Hugging Face's Trainer, taught to write servable checkpoints and to measure decisions and words."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Iterator
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

from models.training.accuracy import teacher_forced_accuracy
from models.training.dataset import Collator, Example, ExampleDataset
from models.training.training_model import TrainingModel

# What a model directory holds besides the weights, copied into every checkpoint.
SIDE_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "preprocessor_config.json",
    "streamo.json",
)
# Beside the model in a checkpoint, for resuming only.
RESUME_ONLY = (
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "trainer_state.json",
    "training_args.bin",
)


class StreamoTrainer(Trainer):
    """Trains a `TrainingModel`; every checkpoint is a directory that can be served as it stands."""

    def __init__(
        self,
        *args: Any,
        model_dir: Path,
        validation: ExampleDataset,
        collator: Collator,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            *args,
            data_collator=collator,
            eval_dataset=validation,
            callbacks=[_RunCallback()],
            **kwargs,
        )
        self._model_dir = model_dir
        self._validation = validation
        self._collator = collator
        self._part_sums: dict[str, float] = {}
        self._part_steps = 0
        self._started_s = time.monotonic()

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        result = super().compute_loss(model, inputs, *args, **kwargs)
        inner: TrainingModel = self.accelerator.unwrap_model(model)
        for name, value in vars(inner.last_parts).items():
            self._part_sums[name] = self._part_sums.get(name, 0.0) + value
        self._part_steps += 1
        return result

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs and self._part_steps:
            logs.update({f"loss_{name}": value / self._part_steps for name, value in self._part_sums.items()})
            logs["minutes"] = (time.monotonic() - self._started_s) / 60
            self._part_sums, self._part_steps = {}, 0
        super().log(logs, *args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        model = self.accelerator.unwrap_model(self.model)
        accuracy = teacher_forced_accuracy(model, self._validation_batches(), self._collator)
        metrics = {f"eval_{name}": value for name, value in accuracy.items()}
        self.log(metrics)
        control: TrainerControl = self.control  # type: ignore[has-type]
        self.control = self.callback_handler.on_evaluate(self.args, self.state, control, metrics)
        return metrics

    def _validation_batches(self) -> Iterator[list[Example]]:
        size = self.args.per_device_eval_batch_size
        for first in range(0, len(self._validation), size):
            yield [self._validation[i] for i in range(first, min(first + size, len(self._validation)))]

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        directory = Path(output_dir if output_dir is not None else self.args.output_dir)
        directory.mkdir(parents=True, exist_ok=True)
        self.accelerator.unwrap_model(self.model).save(directory)
        for name in SIDE_FILES:
            shutil.copy2(self._model_dir / name, directory / name)
        torch.save(self.args, directory / "training_args.bin")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        inner: TrainingModel = self.accelerator.unwrap_model(self.model if model is None else model)
        inner.load(resume_from_checkpoint)


class _RunCallback(TrainerCallback):
    """Lets the truth heads' weight fall, and turns SIGTERM into a saved checkpoint and a clean end."""

    def __init__(self) -> None:
        self._stop = False

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        def stop(signum: int, frame: FrameType | None) -> None:
            self._stop = True

        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, stop)

    def on_step_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **kwargs: Any,
    ) -> None:
        if model.truth_heads is not None:
            model.truth_weight = model.loss_config.truth_weight * max(
                0.0, 1 - state.global_step / state.max_steps
            )

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        if self._stop:
            control.should_save = control.should_training_stop = True
