"""`streamo eval run|report|compare`: the suite on held-out streams."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from services.cli import benchmark_commands
from services.cli.eval_progress import mistakes_told, progress
from services.cli.options import TaskName

if TYPE_CHECKING:  # torch, which other commands need not wait for
    from models.evaluation.report import ScoredRun

app = typer.Typer(
    no_args_is_help=True,
    help="Score a checkpoint through the serving engine, compare two runs, score benchmarks' result files.",
)
app.command("ovo-bench")(benchmark_commands.ovo_bench)
app.command("streaming-bench")(benchmark_commands.streaming_bench)


class Split(StrEnum):
    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


class Pinned(StrEnum):
    MOVE = "move"
    KEEP = "keep"


class Dtype(StrEnum):
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


_SHOWN = (
    "state_macro_f1",
    "event_recall",
    "event_precision",
    "false_alarms_per_quiet_hour",
    "duplicate_share",
    "span_miou",
    "timed_qa_accuracy",
)
NoPlots = Annotated[bool, typer.Option("--no-plots", help="Tables only; needs no matplotlib.")]


@app.command()
def run(
    model: Annotated[Path, typer.Option(metavar="DIR", help="A checkpoint in the standard format.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Gets the run and its report.")],
    split: Annotated[Split, typer.Option(help="Choose on validation, report on test.")] = Split.VALIDATION,
    task: Annotated[
        list[TaskName] | None, typer.Option(help="Only these tasks; repeat it. Else all.")
    ] = None,
    lively: Annotated[int, typer.Option(min=0, help="Lively streams a task.")] = 24,
    lively_rounds: Annotated[int, typer.Option(min=1, help="Frames of each.")] = 192,
    quiet: Annotated[int, typer.Option(min=0, help="Quiet streams a task.")] = 26,
    quiet_minutes: Annotated[float, typer.Option(min=0.5, help="How long each.")] = 18.0,
    first_seed: Annotated[int, typer.Option(min=0, help="Of the streams.")] = 0,
    window_rounds: Annotated[
        int | None, typer.Option(min=1, help="Else as the checkpoint was trained.")
    ] = None,
    max_window_tokens: Annotated[int | None, typer.Option(min=1, help="Of the engine.")] = None,
    pinned_positions: Annotated[Pinned, typer.Option(help="Of the engine.")] = Pinned.MOVE,
    sensitivity: Annotated[
        float, typer.Option(help="Added to the logits of Standby and Response: positive speaks sooner.")
    ] = 0.0,
    dtype: Annotated[Dtype, typer.Option(help="Of weights and cache.")] = Dtype.FLOAT32,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")] = "cpu",
    at_once: Annotated[int, typer.Option(min=1, help="Sessions in the engine at a time.")] = 32,
    no_plots: NoPlots = False,
) -> None:
    """Run a checkpoint over held-out streams of the simulated place, frame by frame, and report its scores.

    Nothing is forced: every round is decided by the serving engine on what the model said before. A run that was
    ended goes on where it was when the same command is given again. docs/evaluation.md says what each score means.

    Examples:

        streamo eval run --model models/checkpoints/streamo-tiny --split test --out runs/eval/tiny

        streamo eval run --model MODEL --out runs/eval/sooner --sensitivity 0.5
    """
    from models.data.place.query import TASKS
    from models.evaluation.place_streams import PlaceStreams
    from models.evaluation.report import ScoredRun
    from models.evaluation.stream_plan import StreamPlan
    from models.evaluation.suite import ServedModel, ServingSettings, run_suite

    console = Console(stderr=True)
    with mistakes_told():
        serving = ServingSettings(
            window_rounds=window_rounds,
            max_window_tokens=max_window_tokens,
            pinned_positions=pinned_positions.value,
            sensitivity=sensitivity,
            dtype=dtype.value,
        )
        served = ServedModel(model, serving, device=device, max_at_once=at_once)
        plan = StreamPlan(
            split=split.value,
            lively_streams=lively,
            lively_rounds=lively_rounds,
            quiet_streams=quiet,
            quiet_minutes=quiet_minutes,
            first_seed=first_seed,
            tasks=tuple(one.value for one in task) if task else TASKS,
        )
        source = PlaceStreams(plan, served.budget)
        with progress(console, "streams", source.num_streams) as (on_stream, on_round):
            done = run_suite(out, model, served, serving, source, on_stream=on_stream, on_round=on_round)
        scored = ScoredRun(done, source.parse)
        _report(console, out, scored, no_plots)


@app.command()
def report(
    run_dir: Annotated[Path, typer.Argument(metavar="DIR", help="What `streamo eval run` wrote.")],
    no_plots: NoPlots = False,
) -> None:
    """Write the report of a run anew, also of one that is not at its end."""
    with mistakes_told():
        _report(Console(stderr=True), run_dir, _scored(run_dir), no_plots)


@app.command()
def compare(
    before: Annotated[Path, typer.Argument(metavar="A", help="A run of `streamo eval run`.")],
    after: Annotated[Path, typer.Argument(metavar="B", help="Another over the same streams.")],
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Gets comparison.md and .json.")] = None,
) -> None:
    """Put two checkpoints, or two engine settings, side by side, with intervals of the difference.

    Both runs have to be over the same streams; these are resampled together, so that what is hard for both does not
    hide what differs.

    Examples:

        streamo eval compare runs/eval/tiny runs/eval/tiny-window-16 --out runs/eval/window
    """
    from models.evaluation.report import Comparison, verdict, write_comparison

    console = Console()
    with mistakes_told():
        comparison = Comparison(_scored(before), _scored(after))
        table = Table("task", "score", "A", "B", "B - A", "")
        for task, score, one, other, difference in comparison.rows():
            if score.name in _SHOWN:
                table.add_row(
                    task,
                    score.label,
                    f"{one.value:.3f}",
                    f"{other.value:.3f}",
                    f"{difference.value:+.3f} \\[{difference.low:+.3f}, {difference.high:+.3f}]",
                    verdict(score, difference),
                )
        console.print(table)
        if out is not None:
            write_comparison(out, comparison)
            console.print(f"All scores: {out / 'comparison.md'}")


def _scored(directory: Path) -> "ScoredRun":
    from models.evaluation.report import ScoredRun
    from models.evaluation.suite import load_run, parse_of

    run = load_run(directory)
    return ScoredRun(run, parse_of(run.settings))


def _report(console: Console, directory: Path, scored: "ScoredRun", no_plots: bool) -> None:
    from models.evaluation.plots import draw_plots
    from models.evaluation.report import write_report

    if not scored.run.records:
        raise ValueError(f"{directory} holds no stream yet")
    plots = {} if no_plots else draw_plots(directory, scored)
    write_report(directory, scored, plots)
    table = Table("score", *scored.tasks)
    estimates = scored.estimates()
    for name in _SHOWN:
        table.add_row(
            name,
            *(
                f"{estimates[task][name].value:.3f}" if name in estimates[task] else ""
                for task in scored.tasks
            ),
        )
    Console().print(table)
    console.print(f"Report: {directory / 'report.md'}")
