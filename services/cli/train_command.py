"""`streamo train`: recipes, from an empty folder or from where a run stopped."""

import os
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from services.cli.finding_log import FindingLog
from services.shared.errors import InvalidInput

if TYPE_CHECKING:  # torch, which other commands need not wait for
    from models.training.fine_tune import Devices
    from models.training.recipes import FineTuneRecipe, ScratchRecipe
    from models.training.run import Machine
    from models.vlm.state import State


class Recipe(StrEnum):
    TINY = "tiny"
    SFT_3B = "sft_3b"
    SFT_7B = "sft_7b"


class Loss(StrEnum):
    FOCAL = "focal"
    CLASS_BALANCED = "class-balanced"
    CROSS_ENTROPY = "cross-entropy"


class Device(StrEnum):
    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


_LOSSES: dict[Loss, dict[str, Any]] = {
    Loss.FOCAL: {"gamma": 2.0, "balance": "frequency"},
    Loss.CLASS_BALANCED: {"gamma": 2.0, "balance": "class_balanced"},
    Loss.CROSS_ENTROPY: {"gamma": 0.0, "balance": None},
}
_TUNING = "Tuning (sft_3b, sft_7b)"
_SCRATCH = "From nothing (tiny)"


def train(
    recipe: Annotated[Recipe, typer.Option(help="What is trained, and how.")],
    output: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the run: checkpoints and logs.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's newest checkpoint.")] = False,
    workers: Annotated[int, typer.Option(min=0, help="Processes that make samples or decode videos.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Torch's threads on a CPU.")] = 1,
    device: Annotated[Device, typer.Option(help="auto: a GPU if there is one.")] = Device.AUTO,
    seed: Annotated[int | None, typer.Option(min=0, help="Else the recipe's.")] = None,
    loss: Annotated[
        Loss | None, typer.Option(help="On the state tokens, else the recipe's; focal is the paper's.")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="What `streamo model prepare` wrote.", rich_help_panel=_TUNING),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json", help="Samples in the raw or the stream format.", rich_help_panel=_TUNING
        ),
    ] = None,
    validation: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json", help="Samples to measure on as training goes.", rich_help_panel=_TUNING
        ),
    ] = None,
    video_root: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Video paths are below it. Else as they stand, or below their file's folder.",
            rich_help_panel=_TUNING,
        ),
    ] = None,
    fps: Annotated[
        float | None, typer.Option(help="Frames a second. Else the recipe's.", rich_help_panel=_TUNING)
    ] = None,
    epochs: Annotated[
        float | None, typer.Option(help="Times over the data. Else the recipe's.", rich_help_panel=_TUNING)
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Packed sequences a step, over all devices. Else the recipe's.",
            rich_help_panel=_TUNING,
        ),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Of a packed sequence: memory. Else the recipe's.", rich_help_panel=_TUNING),
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Else the recipe's.", rich_help_panel=_TUNING)
    ] = None,
    skip_broken: Annotated[
        bool,
        typer.Option("--skip-broken", help="Leave broken samples out and go on.", rich_help_panel=_TUNING),
    ] = False,
    max_steps: Annotated[
        int | None,
        typer.Option(min=1, help="One pass of so many. Else the recipe's.", rich_help_panel=_SCRATCH),
    ] = None,
    warmed: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Begin with the `warmed` folder of another run instead of warming a vision tower up.",
            rich_help_panel=_SCRATCH,
        ),
    ] = None,
) -> None:
    """Train a model: the embedded one from nothing, or a prepared checkpoint on samples of videos.

    A run that was ended goes on with --resume as if it had not been; SIGTERM saves first. `tensorboard --logdir DIR`
    shows its curves. Several GPUs: `torchrun --nproc-per-node 8 -m services.cli.main train ...`, which shards the model
    over them. docs/training.md goes from a folder of videos to a tuned checkpoint that is served.

    Examples:

        streamo train --recipe tiny --output runs/tiny

        streamo train --recipe sft_3b --model prepared --data train.json --video-root videos --output runs/cameras
    """
    from models.training.recipes import RECIPES, ScratchRecipe
    from models.training.run import Machine

    chosen = RECIPES[recipe.value]()
    chosen_loss = chosen.loss if loss is None else replace(chosen.loss, **_LOSSES[loss])
    try:
        if isinstance(chosen, ScratchRecipe):
            _refuse(recipe, model=model, data=data, validation=validation, video_root=video_root)
            _refuse(recipe, fps=fps, epochs=epochs, batch=batch, max_tokens=max_tokens)
            _refuse(recipe, learning_rate=learning_rate, skip_broken=skip_broken or None)
            changes = _given(seed=seed, max_steps=max_steps)
            if max_steps is not None:
                changes["later_passes"] = ()
            scratch = replace(chosen, loss=chosen_loss, **changes)
            machine = Machine(threads, workers, _num_processes(), _uses_cpu(device))
            _train_from_nothing(scratch, output, resume, warmed, machine)
        else:
            _refuse(recipe, max_steps=max_steps, warmed=warmed)
            if model is None or data is None:
                raise ValueError(f"{recipe.value} needs --model and --data")
            changes = _given(
                seed=seed, fps=fps, num_epochs=epochs, batch_packs=batch, learning_rate=learning_rate
            )
            tuning = replace(chosen, loss=chosen_loss, **changes, **_given(max_packed_tokens=max_tokens))
            files = FineTuneFiles(model, data, validation, video_root, output, skip_broken)
            _tune(tuning, files, resume, _devices(device, threads, workers))
        _leave_together()
    except (ValueError, OSError) as error:
        raise InvalidInput(str(error)) from error


def _refuse(recipe: Recipe, **options: object) -> None:
    for name, value in options.items():
        if value is not None:
            raise ValueError(f"--{name.replace('_', '-')} is not for the recipe {recipe.value}")


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _leave_together() -> None:
    """Of torchrun's processes none ends while another still talks to it: its threads would end it by an abort."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()


def _train_from_nothing(
    recipe: "ScratchRecipe", output: Path, resume: bool, warmed: Path | None, machine: "Machine"
) -> None:
    import torch

    from models.training.loss import class_weights
    from models.training.run import ScratchRun
    from models.training.state_counts import estimated_state_counts
    from models.vlm.state import State

    quiet_loading()
    if recipe.loss.balance == "class_balanced":
        counts = estimated_state_counts(recipe)
        recipe = replace(recipe, loss=replace(recipe.loss, class_counts=counts))
        weights = class_weights(torch.tensor(counts, dtype=torch.float64), "class_balanced").tolist()
        shown = {state: (counts[state], weights[state]) for state in State}
        _show_states(Console(stderr=True), shown)
    ScratchRun(recipe, output, machine).train(resume=resume, warmed=warmed)


@dataclass(frozen=True)
class FineTuneFiles:
    model: Path
    data: Path
    validation: Path | None
    video_root: Path | None
    output: Path
    skip_broken: bool


def _tune(recipe: "FineTuneRecipe", files: FineTuneFiles, resume: bool, devices: "Devices") -> None:
    from models.training.checkpoints import newest_checkpoint
    from models.training.fine_tune import FineTuneData, FineTuneRun

    quiet_loading()
    is_first = int(os.environ.get("RANK", "0")) == 0
    console = Console(stderr=True, quiet=not is_first)
    findings = FindingLog(console, shows_broken=files.skip_broken)
    progress = Progress(
        TextColumn("Reading samples"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )
    data = FineTuneData(files.data, files.validation, files.video_root, files.skip_broken)
    with progress:
        bar = progress.add_task("", total=None)
        run = FineTuneRun(
            recipe,
            files.model,
            data,
            files.output,
            devices,
            on_finding=findings.add,
            on_sample=lambda num_read, num_all: progress.update(bar, completed=num_read, total=num_all),
        )
        run.checkpoint(resume=resume)  # refused at once, not after all samples have been read
        run.read()
    findings.close()
    console.print(run.summary, markup=False, highlight=False, soft_wrap=True)
    _show_states(console, run.state_weights)
    console.print(f"{run.num_steps} steps of {recipe.batch_packs} packed sequences", highlight=False)
    is_over = run.train(resume=resume)
    if not is_first:  # what the first has written may not be seen from here yet
        return
    next_step = (
        f"streamo model export {files.output} --out DIR" if is_over else "the same command with --resume"
    )
    console.print(
        f"{'Done' if is_over else 'Ended early'}: {newest_checkpoint(files.output)}. Next: {next_step}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _show_states(console: Console, states: "dict[State, tuple[int, float]]") -> None:
    """What is learnt of each state, and what the loss makes of it."""
    table = Table("state", "rounds learnt", "weight", box=None)
    for state, (count, weight) in states.items():
        table.add_row(state.name.capitalize(), str(count), f"{weight:.3f}")
    console.print(table)


def _uses_cpu(device: Device) -> bool:
    import torch

    has_gpu = torch.cuda.is_available()
    if device is Device.CUDA and not has_gpu:
        raise ValueError("--device cuda: torch sees no GPU here")
    return device is Device.CPU or not has_gpu


def _num_processes() -> int:
    """As torchrun says it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def _devices(device: Device, threads: int, workers: int) -> "Devices":
    from models.training.fine_tune import Devices

    use_cpu = _uses_cpu(device)
    return Devices(
        use_cpu=use_cpu,
        # As torchrun says it. Accelerate shards over accelerators alone.
        shards="LOCAL_RANK" in os.environ and not use_cpu,
        num_processes=_num_processes(),
        num_workers=workers,
        num_threads=threads,
    )


def quiet_loading() -> None:
    """No bars of Hugging Face's for loading and saving weights."""
    from transformers.utils import logging

    logging.disable_progress_bar()
