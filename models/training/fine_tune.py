"""One run of a fine-tuning recipe, on one process or as one of several under torchrun."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, TrainingArguments

from models.data.finding import Finding
from models.data.sessions import SessionFile
from models.training.accuracy import teacher_forced_accuracy
from models.training.checkpoints import newest_checkpoint, step_of
from models.training.collator import Collator
from models.training.fine_tune_data import PackCollator, PackDataset, PackPlan
from models.training.loss import class_weights
from models.training.recipes import FineTuneRecipe
from models.training.run_record import RunRecord, file_hash
from models.training.trainer import StreamoTrainer
from models.training.training_model import TrainingModel
from models.vlm.dialogue import Dialogue
from models.vlm.pixels import PixelFormat
from models.vlm.state import State
from models.vlm.streamo_config import StreamoConfig

# Of the model's folder: what a step sees, and how it is cut.
_DECISIVE_FILES = ("streamo.json", "tokenizer.json", "preprocessor_config.json")


@dataclass(frozen=True)
class FineTuneData:
    """Samples in the raw or the stream format, and where their videos are."""

    train: Path
    validation: Path | None = None
    video_root: Path | None = None
    skip_broken: bool = False


@dataclass(frozen=True)
class Devices:
    """What a run may use. `shards`: the run is one of `num_processes` of torchrun, and the model is sharded over them
    (FSDP2).
    """

    use_cpu: bool = False
    shards: bool = False
    num_processes: int = 1
    num_workers: int = 0
    """Processes that decode videos, for each device; 0 decodes between the steps."""
    num_threads: int = 1


class FineTuneRun:
    """A run's folder: `checkpoint-N/`, each of which can be served as it stands, and `run.json`, what it began with."""

    def __init__(
        self,
        recipe: FineTuneRecipe,
        model_dir: Path,
        data: FineTuneData,
        run_dir: Path,
        devices: Devices | None = None,
        *,
        on_finding: Callable[[Finding], None] = lambda finding: None,
        on_sample: Callable[[int, int], None] = lambda num_read, num_all: None,
    ) -> None:
        """`model_dir`: a checkpoint of `streamo model prepare`, or one that was tuned before.

        ValueError where the recipe's batch cannot be shared out among the processes.
        """
        self._recipe = recipe
        self._model_dir = model_dir
        self._data = data
        self._dir = run_dir
        self._devices = devices if devices is not None else Devices()
        self._on_finding = on_finding
        self._on_sample = on_sample
        self._packs_per_process, remainder = divmod(recipe.batch_packs, self._devices.num_processes)
        if remainder or not self._packs_per_process:
            raise ValueError(
                f"batch_packs {recipe.batch_packs}: must be a multiple of the {self._devices.num_processes} processes"
            )
        self._datasets: dict[str, PackDataset] = {}

    def read(self) -> None:
        """Read every sample once, and plan what each step sees. `train` does it where it was not done.

        ValueError, BrokenSample.
        """
        for name, path in (("train", self._data.train), ("validation", self._data.validation)):
            if path is not None and name not in self._datasets:
                self._datasets[name] = self._dataset(path)

    @property
    def summary(self) -> str:
        """What was read, in a line."""
        return "; ".join(
            f"{name}: {len(dataset.file)} samples, {dataset.num_broken} of them broken, {dataset.num_windows} windows"
            f" in {len(dataset)} packed sequences"
            for name, dataset in self._datasets.items()
        )

    @property
    def num_steps(self) -> int:
        """Of the whole run; after `read`."""
        per_epoch = math.ceil(len(self._datasets["train"]) / self._recipe.batch_packs)
        return math.ceil(self._recipe.num_epochs * per_epoch)

    @property
    def state_weights(self) -> dict[State, tuple[int, float]]:
        """How many rounds of each state are learnt in an epoch, and what the loss gives each; after `read`.

        Weights are those of the whole data, whatever of it a step sees: a packed sequence alone may hold nothing but
        Silence.
        """
        counts, balance = self._datasets["train"].state_counts, self._recipe.loss.balance
        weights = class_weights(torch.tensor(counts, dtype=torch.float64), balance).tolist()
        return {state: (counts[state], weights[state]) for state in State}

    def checkpoint(self, *, resume: bool) -> Path | None:
        """Where a resumed run begins; None for a new one.

        ValueError if there is nothing to resume, if the data or the recipe are not what the run began with, or if a
        new run would overwrite an old one.
        """
        newest = newest_checkpoint(self._dir, required=False)
        if resume and newest is None:
            raise ValueError(f"{self._dir} holds no complete checkpoint yet: there is nothing to resume")
        if newest is not None and not resume:
            raise ValueError(f"{self._dir} holds a run already; resume it, or name another folder")
        if resume:
            self._record.check(self._dir)
        return newest

    def train(self, *, resume: bool = False) -> bool:
        """Train to the end of the data, or to SIGTERM; blocks. A resumed run is the uninterrupted one.

        Whether the end was reached: a run that was ended early can be resumed.
        ValueError as `checkpoint` raises it; BrokenSample.
        """
        recipe, devices = self._recipe, self._devices
        if devices.use_cpu:
            torch.set_num_threads(devices.num_threads)
        checkpoint = self.checkpoint(resume=resume)
        if checkpoint is None:
            self._record.write(self._dir)
        self.read()
        if checkpoint is not None and step_of(checkpoint) >= self.num_steps:
            return True  # Trainer looks for the end after a step, and would make one more
        train_set, validation = self._datasets["train"], self._datasets.get("validation")
        state_token_ids, collator = train_set.dialogue.state_token_ids, Collator(train_set.pixels)
        torch.manual_seed(recipe.seed)
        vlm, loss = self._load(), recipe.loss
        if loss.balance is not None:
            loss = replace(loss, class_counts=train_set.state_counts)
        model = TrainingModel(vlm, state_token_ids, loss)
        layer_name = type(vlm.model.language_model.layers[0]).__name__

        def evaluation() -> dict[str, float]:
            if validation is None:
                return {}
            packs = (validation[index] for index in range(len(validation)))
            with trainer.accelerator.autocast():
                return teacher_forced_accuracy(model, packs, collator)

        trainer = StreamoTrainer(
            model=model,
            args=self._arguments(layer_name, has_validation=validation is not None),
            train_dataset=train_set,
            data_collator=PackCollator(collator),
            eval_dataset=validation,
            model_dir=self._model_dir,
            evaluation=evaluation,
        )
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        return bool(trainer.state.global_step >= trainer.state.max_steps)

    @cached_property
    def _record(self) -> RunRecord:
        files = {name: file_hash(self._model_dir / name) for name in _DECISIVE_FILES}
        data = {"data": file_hash(self._data.train), "skip_broken": self._data.skip_broken}
        return RunRecord.of(self._recipe, {**files, **data})

    def _dataset(self, path: Path) -> PackDataset:
        recipe, streamo = self._recipe, StreamoConfig.load(self._model_dir)
        plan = PackPlan(
            window_rounds=streamo.window_rounds,
            overlap_rounds=int(recipe.overlap_share * streamo.window_rounds),
            max_tokens=recipe.max_packed_tokens,
            max_reply_tokens=streamo.max_reply_tokens,
            seed=recipe.seed,
        )
        return PackDataset(
            SessionFile(path, self._data.video_root, recipe.fps),
            plan,
            Dialogue.load(self._model_dir, streamo.system_prompt, streamo.max_instruction_tokens),
            PixelFormat.load(self._model_dir),
            skip_broken=self._data.skip_broken,
            on_finding=self._on_finding,
            on_sample=self._on_sample,
        )

    def _load(self) -> Any:
        """Float32 master weights; what the paper freezes is frozen."""
        vlm = AutoModelForImageTextToText.from_pretrained(self._model_dir, dtype=torch.float32)
        visual = vlm.model.visual
        visual.requires_grad_(False)
        visual.merger.requires_grad_(True)
        for merger in getattr(visual, "deepstack_merger_list", ()):
            merger.requires_grad_(True)
        with warnings.catch_warnings():  # of its newer name
            warnings.simplefilter("ignore", FutureWarning)
            vlm.model.language_model.gradient_checkpointing_enable({"use_reentrant": False})
        return vlm

    def _arguments(self, layer_name: str, *, has_validation: bool) -> TrainingArguments:
        recipe, devices = self._recipe, self._devices
        sharding: dict[str, Any] = {}
        if devices.shards:
            sharding = {
                "fsdp": True,
                "fsdp_config": {
                    "version": 2,
                    "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
                    "transformer_layer_cls_to_wrap": [layer_name],
                    "reshard_after_forward": recipe.reshards,
                },
            }
        return TrainingArguments(
            output_dir=str(self._dir),
            num_train_epochs=recipe.num_epochs,
            per_device_train_batch_size=1,
            gradient_accumulation_steps=self._packs_per_process,
            learning_rate=recipe.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=recipe.warmup_share,
            weight_decay=recipe.weight_decay,
            max_grad_norm=recipe.max_grad_norm,
            optim="adamw_torch_fused",
            bf16=not devices.use_cpu,
            use_cpu=devices.use_cpu,
            train_sampling_strategy="sequential",  # already random; a resumed run goes on
            remove_unused_columns=False,
            dataloader_num_workers=devices.num_workers,
            dataloader_prefetch_factor=2 if devices.num_workers else None,
            dataloader_pin_memory=not devices.use_cpu,
            eval_strategy="steps" if has_validation else "no",
            eval_steps=recipe.save_every_steps if has_validation else None,
            save_strategy="steps",
            save_steps=recipe.save_every_steps,
            save_total_limit=2,
            logging_steps=recipe.log_every_steps,
            report_to=["tensorboard"],
            disable_tqdm=not sys.stderr.isatty(),
            seed=recipe.seed,
            **sharding,
        )
