"""`streamo data curate`: videos to samples, by a teacher that is not simply believed."""

import os
import random
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from services.shared.errors import InvalidInput

if TYPE_CHECKING:
    from models.data.curation.config import CurationConfig
    from models.data.curation.curation import Curation, CurationOutcome
    from models.data.curation.curation import Progress as Step

EXAMPLE = Path(__file__).with_name("curation_example.toml")


def curate(
    config: Annotated[Path | None, typer.Argument(metavar="CONFIG.toml", help="See --example.")] = None,
    example: Annotated[
        bool, typer.Option("--example", help="Print a config with every setting explained, and do nothing.")
    ] = False,
    finish: Annotated[
        bool, typer.Option("--finish", help="Write what is done, though the teacher still owes replies.")
    ] = False,
) -> None:
    """Make samples from videos of your own: a served vision-language model annotates them.

    Videos are cut into clips; the teacher says what happens in each; what independent looks do not find again is
    struck out; near-duplicates stay on one side of the split. The output folder then holds train.json,
    validation.json and test.json in the raw format, the clips, claims.jsonl with every claim and why it was rejected,
    and manifest.json with sources, licences, cost and counts.

    It may be ended at any time, even killed: the same command goes on, and no reply is paid twice. Ends with code 1
    where replies are still owed.

    Examples:

        streamo data curate --example > curate.toml

        TEACHER_KEY=... streamo data curate curate.toml

        streamo data convert curated/train.json train.json --to stream --fps 1 --video-root curated
    """
    if example:
        print(EXAMPLE.read_text("utf-8"), end="")
        return
    if config is None:
        raise InvalidInput("CONFIG.toml is missing; begin with: streamo data curate --example > curate.toml")
    from models.data.curation.config import CurationConfig

    try:
        settings = CurationConfig.load(config)
        outcome = _run(settings, finish)
    except (ValueError, OSError) as error:
        raise InvalidInput(str(error)) from error
    if outcome.manifest is not None:
        _show(outcome.manifest, settings.output)
    if outcome.undone:
        _show_undone(outcome)
        raise typer.Exit(1)


def _run(config: "CurationConfig", finish: bool) -> "CurationOutcome":
    from models.data.curation.curation import Curation
    from models.data.curation.endpoint import Endpoint
    from models.data.curation.teacher import Teacher

    variable = config.teacher.key_variable
    if variable and not os.environ.get(variable):
        raise ValueError(
            f"teacher.key_variable: the environment has no {variable}; set it, or leave the setting out"
        )
    endpoint = Endpoint(
        config.teacher.base_url, os.environ.get(variable, "") if variable else "", config.teacher.deadline_s
    )
    with _StageBars() as bars:
        curation = Curation(
            config,
            # Pauses need to differ from run to run, or everybody who was turned away comes back together.
            lambda replies, ledger: Teacher(config.teacher, endpoint, replies, ledger, random.Random()),
            bars.show,
        )
        with curation:
            bars.curation = curation
            return curation.run(write_incomplete=finish)


class _StageBars:
    """A bar for each stage, with what has been paid so far."""

    def __init__(self) -> None:
        self.curation: Curation | None = None
        self._progress = Progress(
            TextColumn("{task.description:<28}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[paid]}"),
            console=Console(stderr=True),
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> "_StageBars":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, step: "Step") -> None:
        if step.stage not in self._tasks:
            self._tasks[step.stage] = self._progress.add_task(step.stage, total=step.num_total, paid="")
        paid = "" if self.curation is None else f"{self.curation.ledger.total_tokens:,} tokens"
        self._progress.update(self._tasks[step.stage], completed=step.num_done, paid=paid)


def _show(manifest: dict[str, Any], output: Path) -> None:
    console = Console()
    tasks = sorted({task for split in manifest["splits"].values() for task in split["tasks"]})
    splits = Table("split", "samples", "clips", "groups", *tasks, box=None)
    for name, split in manifest["splits"].items():
        counts = [str(split["tasks"].get(task, 0)) for task in tasks]
        splits.add_row(name, str(split["samples"]), str(split["clips"]), str(split["groups"]), *counts)
    console.print(splits)
    rejected = Table("rejected", "why", "times", box=None)
    for task, reasons in manifest["rejected"]["claims"].items():
        for reason, times in reasons.items():
            rejected.add_row(task, reason, str(times))
    for task, reasons in manifest["rejected"]["lists"].items():
        for reason, times in reasons.items():
            rejected.add_row(f"{task} (whole list)", reason, str(times))
    for reason, times in manifest["rejected"]["videos"].items():
        rejected.add_row("video", Text(reason), str(times))
    console.print(rejected)
    cost = manifest["cost"]
    tokens = f"{cost['prompt_tokens']:,} prompt and {cost['completion_tokens']:,} completion tokens"
    estimated = cost["replies_with_estimated_tokens"]
    console.print(
        f"{cost['replies']} replies: {tokens}" + (f" ({estimated} by estimate)" if estimated else "")
    )
    if empty := [name for name, split in manifest["splits"].items() if not split["samples"]]:
        console.print(
            f"No samples in {', '.join(empty)}: few groups of videos, or small shares in the config."
        )
    console.print(f"\n{output / 'manifest.json'} tells the rest.", markup=False, soft_wrap=True)
    console.print(
        f"Next: streamo data check {output / 'train.json'} --video-root {output}",
        markup=False,
        soft_wrap=True,
    )


def _show_undone(outcome: "CurationOutcome") -> None:
    console = Console(stderr=True)
    if outcome.stopped:
        console.print(f"Stopped: {outcome.stopped}", markup=False, soft_wrap=True)
    else:
        for reason, times in sorted(outcome.undone.items(), key=lambda entry: -entry[1])[:5]:
            console.print(f"{times} undone: {reason}", markup=False, soft_wrap=True)
    console.print(
        "The same command goes on from here; --finish writes what is done."
        if outcome.manifest is None
        else "What is undone was left out; the same command goes on from here."
    )
