"""One run of a scratch recipe, from an empty folder or from where it stopped."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from safetensors.torch import load_file
from torch import nn
from transformers import Qwen2_5_VLForConditionalGeneration, TrainingArguments

from models.data.place import simulated
from models.data.place.data_set import SIMULATOR_VERSION
from models.data.place.truth import CELL_COLS, CELL_ROWS
from models.training.accuracy import teacher_forced_accuracy
from models.training.checkpoints import export_checkpoint, newest_checkpoint
from models.training.collator import Collator
from models.training.corpus import tokenizer_texts
from models.training.dataset import ClipPlan, Example, ExampleDataset, SampleMaker
from models.training.muon import Muon
from models.training.recipes import ScratchRecipe
from models.training.run_record import RunRecord
from models.training.scratch_model import write_random_checkpoint
from models.training.tokenizer import train_tokenizer
from models.training.trainer import StreamoTrainer
from models.training.training_model import TrainingModel
from models.training.truth_heads import TRUTH_HEADS_FILE, TruthShape
from models.training.warm_up import SeenFramesCollator, SeenFramesDataset, WarmUp, WarmUpModel
from models.vlm.dialogue import Dialogue
from models.vlm.pixels import PixelFormat


@dataclass(frozen=True)
class Simulator:
    """Where samples come from. `num_placed`: the first so many columns of what is seen say what is where."""

    make_sample: SampleMaker = simulated.make_sample
    num_placed: int = CELL_ROWS * CELL_COLS


@dataclass(frozen=True)
class Machine:
    """What a run may use. Equal recipes give equal batches on any. Gradients differ a little with the processes: heads
    weigh the means of each alike, whatever was asked there.
    """

    num_threads: int = 1
    num_workers: int = 0
    """Processes that make samples, for each that trains; 0 makes them between the steps."""
    num_processes: int = 1
    """Of torchrun, of which the run is one: a batch is shared out among them. Many steps of a small model are too small
    for two threads to share."""
    use_cpu: bool = True
    """Even where there is a GPU."""


class ScratchRun:
    """A run's folder: `init/` the random model, `warm_up/` the tower's checkpoints, `warmed/` the model with the
    tower it got, `checkpoint-N/` the whole model's. Of a recipe of several passes these are of the last; `pass_1/` are
    the checkpoints of the first and `taught_1/` the model that it made, and so on.
    """

    def __init__(
        self,
        recipe: ScratchRecipe,
        run_dir: Path,
        machine: Machine | None = None,
        simulator: Simulator | None = None,
    ) -> None:
        self._recipe = recipe
        self._dir = run_dir
        self._machine = machine if machine is not None else Machine()
        self._simulator = simulator if simulator is not None else Simulator()

    def train(self, *, resume: bool = False, warmed: Path | None = None) -> None:
        """Train to the recipe's last step, or to SIGTERM; blocks. A resumed run is the uninterrupted one.

        `warmed`: begin with the model of this folder, the `warmed/` of another run, instead of warming a tower up.
        ValueError if there is nothing to resume, if the recipe is not what the run began with, if a new run would
        overwrite an old one, or if `warmed` has another tokenizer or size of frames.
        """
        torch.set_num_threads(self._machine.num_threads)
        init_dir = self._dir / "init"
        if resume and not init_dir.exists():
            raise ValueError(f"{self._dir} holds no run to resume")
        record = RunRecord.of(self._recipe, {"simulator_version": SIMULATOR_VERSION})
        if resume:
            if warmed is not None:
                raise ValueError("warmed: a run that is resumed has its tower already; leave it out")
            record.check(self._dir)
        else:
            if init_dir.exists():
                raise ValueError(f"{self._dir} holds a run already; resume it, or name another folder")
            self._by_one_process(lambda: self._write_init(record, warmed))
        warmed_dir = self._dir / "warmed"
        if not warmed_dir.exists() and not self._warm_up():
            return
        *earlier, last = self._recipe.passes
        source = warmed_dir
        for number, recipe in enumerate(earlier, start=1):
            taught_dir = self._dir / f"taught_{number}"
            if not taught_dir.exists():
                pass_dir = self._dir / f"pass_{number}"
                if not self._pass(recipe, pass_dir, source):
                    return
                self._copy_newest(pass_dir, taught_dir)
            source = taught_dir
        self._pass(last, self._dir, source)

    def _write_init(self, record: RunRecord, warmed: Path | None) -> None:
        recipe = self._recipe
        tokenizer = train_tokenizer(tokenizer_texts(), recipe.vocab_size)
        # Written last: whoever resumes takes a folder without it for no run.
        partial = self._dir / ".init"
        write_random_checkpoint(
            partial, recipe.architecture, tokenizer, recipe.streamo, recipe.budget, recipe.seed
        )
        record.write(self._dir)
        if warmed is not None:
            for name in ("tokenizer.json", "preprocessor_config.json"):
                if (warmed / name).read_bytes() != (partial / name).read_bytes():
                    raise ValueError(f"{warmed}: its {name} is not that of this recipe")
            _copy_model(warmed, self._dir / "warmed")
            # The prompt and the window are those that the rest is taught with.
            recipe.streamo.save(self._dir / "warmed")
        partial.rename(self._dir / "init")

    def _warm_up(self) -> bool:
        """Whether the tower's lessons are over; they are not if they were ended early."""
        recipe, plan, run_dir = self._recipe, self._recipe.warm_up, self._dir / "warm_up"
        vlm, pixels = self._load(self._dir / "init")
        dialogue = self._dialogue(self._dir / "init")
        make_sample = self._simulator.make_sample
        first = make_sample(0, "train", 1)
        grid = pixels.budget.grid(*first.frames.shape[1:3])
        torch.manual_seed(recipe.seed)
        model = WarmUpModel(vlm, first.truth.sizes, dialogue, grid, plan.frames_per_clip)
        rates = {
            vlm.model.visual: plan.matrix_learning_rate,
            vlm.model.language_model: plan.reading_learning_rate,
        }
        train_set = SeenFramesDataset(make_sample, "train", plan.max_steps * plan.clips_per_batch, plan)
        collator = SeenFramesCollator(pixels)
        validation = SeenFramesDataset(make_sample, "validation", 2 * plan.clips_per_batch, plan)

        def evaluation() -> dict[str, float]:
            batch = collator([validation[index] for index in range(len(validation))])
            device = next(model.parameters()).device
            right, off_by = model.accuracy(**{name: tensor.to(device) for name, tensor in batch.items()})
            num_placed = self._simulator.num_placed
            return {
                "placed": float(right[:num_placed].mean()),
                "others": float(right[num_placed:].mean()),
                "coordinates_off_by": off_by,
            }

        trainer = StreamoTrainer(
            model=model,
            args=self._arguments(
                run_dir,
                max_steps=plan.max_steps,
                batch_size=plan.clips_per_batch,
                learning_rate=plan.learning_rate,
                warmup_steps=plan.warmup_steps,
                save_steps=plan.save_every_steps,
                eval_steps=recipe.eval_every_steps,
            ),
            train_dataset=train_set,
            data_collator=collator,
            eval_dataset=validation,
            model_dir=self._dir / "init",
            evaluation=evaluation,
            optimizers=(self._optimizer(model, plan, rates), None),
        )
        is_over = _run(trainer, run_dir)
        if is_over:
            self._copy_newest(run_dir, self._dir / "warmed")
        return is_over

    def _pass(self, recipe: ScratchRecipe, pass_dir: Path, source: Path) -> bool:
        """Train the whole model that is in `source`, but for its tower; whether the last step was reached."""
        vlm, pixels = self._load(source)
        vlm.model.visual.requires_grad_(False)
        vlm.model.visual.merger.requires_grad_(True)
        dialogue = self._dialogue(source)
        print(f"{sum(p.numel() for p in vlm.parameters()) / 1e6:.2f} M parameters", flush=True)
        torch.manual_seed(recipe.seed)
        model = TrainingModel(
            vlm, dialogue.state_token_ids, recipe.loss, self._truth_shape(), trims_last_layer=True
        )
        if model.truth_heads is not None:
            model.truth_heads.load_state_dict(load_file(source / TRUTH_HEADS_FILE), strict=False)

        def examples(split: str, length: int, clips: ClipPlan) -> ExampleDataset:
            return ExampleDataset(self._simulator.make_sample, split, length, clips, dialogue, pixels)

        right = replace(recipe.clips, mistaken=0.0, wrong_words=(), drills=False, calm=0.0, num_others=0)
        validation = examples("validation", recipe.num_validation_samples, right)
        collator = Collator(pixels)
        trainer = StreamoTrainer(
            model=model,
            args=self._arguments(
                pass_dir,
                max_steps=recipe.max_steps,
                batch_size=recipe.batch_size,
                learning_rate=recipe.learning_rate,
                warmup_steps=recipe.warmup_steps,
                save_steps=recipe.save_every_steps,
                eval_steps=recipe.eval_every_steps,
            ),
            train_dataset=examples("train", recipe.max_steps * recipe.batch_size, recipe.clips),
            data_collator=collator,
            eval_dataset=validation,
            model_dir=source,
            evaluation=lambda: teacher_forced_accuracy(
                model, _batches(validation, recipe.batch_size), collator
            ),
            optimizers=(self._optimizer(model, recipe, {vlm.model: recipe.matrix_learning_rate}), None),
        )
        return _run(trainer, pass_dir)

    def _copy_newest(self, run_dir: Path, target: Path) -> None:
        self._by_one_process(lambda: _copy_model(newest_checkpoint(run_dir), target))

    def _by_one_process(self, write: Callable[[], None]) -> None:
        """Has the main process write what all of them read."""
        processes = PartialState(cpu=self._machine.use_cpu)
        processes.wait_for_everyone()
        if processes.is_main_process:
            write()
        processes.wait_for_everyone()

    def _dialogue(self, model_dir: Path) -> Dialogue:
        streamo = self._recipe.streamo
        return Dialogue.load(model_dir, streamo.system_prompt, streamo.max_instruction_tokens)

    def _truth_shape(self) -> TruthShape:
        first = self._simulator.make_sample(0, "train", 1)
        num_tokens = self._recipe.budget.num_tokens(*first.frames.shape[1:3])
        return TruthShape(first.truth.sizes, num_tokens)

    def _optimizer(
        self,
        model: WarmUpModel | TrainingModel,
        plan: WarmUp | ScratchRecipe,
        parts: Mapping[nn.Module, float],
    ) -> Muon:
        recipe = self._recipe
        return Muon.of(
            model,
            parts,
            others_lr=plan.learning_rate,
            weight_decay=recipe.weight_decay,
            beta2=recipe.adam_beta2,
        )

    @staticmethod
    def _load(model_dir: Path) -> tuple[Qwen2_5_VLForConditionalGeneration, PixelFormat]:
        vlm = Qwen2_5_VLForConditionalGeneration.from_pretrained(model_dir, dtype=torch.float32)
        return vlm, PixelFormat.load(model_dir)

    def _arguments(self, run_dir: Path, *, batch_size: int, **settings: Any) -> TrainingArguments:
        recipe, machine = self._recipe, self._machine
        share, remainder = divmod(batch_size, machine.num_processes)
        if remainder:
            raise ValueError(
                f"batches of {batch_size} cannot be shared out among {machine.num_processes} processes"
            )
        return TrainingArguments(
            output_dir=str(run_dir),
            per_device_train_batch_size=share,
            lr_scheduler_type="cosine",
            max_grad_norm=recipe.max_grad_norm,
            use_cpu=machine.use_cpu,
            train_sampling_strategy="sequential",  # already random; a resumed run goes on
            remove_unused_columns=False,
            dataloader_num_workers=machine.num_workers,
            dataloader_prefetch_factor=4 if machine.num_workers else None,
            dataloader_pin_memory=not machine.use_cpu,
            eval_strategy="steps",
            save_strategy="steps",
            save_total_limit=2,
            logging_steps=recipe.log_every_steps,
            report_to=["tensorboard"],
            disable_tqdm=not sys.stderr.isatty(),
            seed=recipe.seed,
            **settings,
        )


def _run(trainer: StreamoTrainer, run_dir: Path) -> bool:
    """Train from the newest checkpoint of the folder, if there is one; whether the last step was reached."""
    checkpoint = newest_checkpoint(run_dir, required=False)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    return trainer.state.global_step >= trainer.state.max_steps


def _batches(dataset: ExampleDataset, size: int) -> Iterator[list[Example]]:
    for first in range(0, len(dataset), size):
        yield [dataset[i] for i in range(first, min(first + size, len(dataset)))]


def _copy_model(source: Path, target: Path) -> None:
    """With the truth heads; the folder appears whole or not at all."""
    partial = target.with_name(f".{target.name}")
    export_checkpoint(source, partial, keeps_truth_heads=True)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
