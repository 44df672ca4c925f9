"""`streamo eval run|clips|report|compare`: the suite on held-out streams, or on labelled clips of one's own."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from services.cli import benchmark_commands
from services.cli.eval_progress import mistakes_told, progress
from services.cli.finding_log import FindingLog
from services.cli.options import Device, TaskName

if TYPE_CHECKING:  # torch, which other commands need not wait for
    from models.evaluation.report import ScoredRun
    from models.evaluation.stream import StreamSource
    from models.evaluation.suite import ServedModel, ServingSettings

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
Model = Annotated[Path, typer.Option(metavar="DIR", help="A checkpoint in the standard format.")]
Out = Annotated[Path, typer.Option(metavar="DIR", help="Gets the run and its report.")]
NoPlots = Annotated[bool, typer.Option("--no-plots", help="Tables only; needs no matplotlib.")]
WindowRounds = Annotated[int | None, typer.Option(min=1, help="Else as the checkpoint was trained.")]
MaxWindowTokens = Annotated[int | None, typer.Option(min=1, help="Of the engine.")]
PinnedPositions = Annotated[Pinned, typer.Option(help="Of the engine.")]
Sensitivity = Annotated[
    float, typer.Option(help="Added to the logits of Standby and Response: positive speaks sooner.")
]
WeightsDtype = Annotated[Dtype, typer.Option(help="Of weights and cache.")]
AtOnce = Annotated[int, typer.Option(min=1, help="Sessions in the engine at a time.")]


@app.command()
def run(
    model: Model,
    out: Out,
    split: Annotated[Split, typer.Option(help="Choose on validation, report on test.")] = Split.VALIDATION,
    task: Annotated[
        list[TaskName] | None, typer.Option(help="Only these tasks; repeat it. Else all.")
    ] = None,
    lively: Annotated[int, typer.Option(min=0, help="Lively streams a task.")] = 24,
    lively_rounds: Annotated[int, typer.Option(min=1, help="Frames of each.")] = 192,
    quiet: Annotated[int, typer.Option(min=0, help="Quiet streams a task.")] = 26,
    quiet_minutes: Annotated[float, typer.Option(min=0.5, help="How long each.")] = 18.0,
    first_seed: Annotated[int, typer.Option(min=0, help="Of the streams.")] = 0,
    window_rounds: WindowRounds = None,
    max_window_tokens: MaxWindowTokens = None,
    pinned_positions: PinnedPositions = Pinned.MOVE,
    sensitivity: Sensitivity = 0.0,
    dtype: WeightsDtype = Dtype.FLOAT32,
    device: Device = "cpu",
    at_once: AtOnce = 32,
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
    from models.evaluation.stream_plan import StreamPlan
    from models.evaluation.suite import ServedModel

    with mistakes_told():
        serving = _serving(window_rounds, max_window_tokens, pinned_positions, sensitivity, dtype)
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
        _run(out, model, served, serving, PlaceStreams(plan, served.budget), no_plots)


@app.command()
def clips(
    model: Model,
    data: Annotated[
        Path, typer.Option(metavar="FILE.json", help="Labelled clips in the raw or the stream format.")
    ],
    out: Out,
    video_root: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Video paths are below it. Else as they stand, or below their file's folder."
        ),
    ] = None,
    fps: Annotated[float, typer.Option(help="Frames a second.")] = 1.0,
    min_word_f1: Annotated[
        float,
        typer.Option(
            help="How alike the words of two texts must be to say the same, as the F1 of their words. 1: the same "
            "words; case, punctuation and articles never count.",
        ),
    ] = 1.0,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Leave broken samples out and go on.")
    ] = False,
    window_rounds: WindowRounds = None,
    max_window_tokens: MaxWindowTokens = None,
    pinned_positions: PinnedPositions = Pinned.MOVE,
    sensitivity: Sensitivity = 0.0,
    dtype: WeightsDtype = Dtype.FLOAT32,
    device: Device = "cpu",
    at_once: AtOnce = 32,
    no_plots: NoPlots = False,
) -> None:
    """Run a checkpoint over labelled clips of your own, frame by frame, and report its scores.

    The same engine, scores and report as `streamo eval run`, and `streamo eval compare` puts two checkpoints side by
    side. Let clips be of cameras and days that training has not seen.

    Examples:

        streamo eval clips --model models/cameras --data cameras/test/raw.json --out runs/eval/cameras
    """
    from models.data.sessions import SessionFile
    from models.evaluation.caption import CaptionReader
    from models.evaluation.clip_streams import ClipStreams
    from models.evaluation.suite import ServedModel

    findings = FindingLog(Console(stderr=True), shows_broken=skip_broken)
    with mistakes_told():
        serving = _serving(window_rounds, max_window_tokens, pinned_positions, sensitivity, dtype)
        reader, file = CaptionReader(min_word_f1), SessionFile(data, video_root, fps)
        served = ServedModel(model, serving, device=device, max_at_once=at_once)
        source = ClipStreams(
            file, served.budget, served.dialogue, reader, skip_broken=skip_broken, on_finding=findings.add
        )
        _run(out, model, served, serving, source, no_plots)
        findings.close()


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
    from models.evaluation.report import (
        Comparison,
        shown_value,
        shown_with_interval,
        verdict,
        write_comparison,
    )

    console = Console()
    with mistakes_told():
        comparison = Comparison(_scored(before), _scored(after))
        table = Table("task", "score", "A", "B", "B - A", "")
        for task, score, one, other, difference in comparison.rows():
            if score.name in _SHOWN:
                table.add_row(
                    task,
                    score.label,
                    shown_value(one.value),
                    shown_value(other.value),
                    escape(shown_with_interval(difference)),
                    verdict(score, difference),
                )
        console.print(table)
        if out is not None:
            write_comparison(out, comparison)
            console.print(f"All scores: {out / 'comparison.md'}", markup=False)


def _serving(
    window_rounds: int | None,
    max_window_tokens: int | None,
    pinned_positions: Pinned,
    sensitivity: float,
    dtype: Dtype,
) -> "ServingSettings":
    from models.evaluation.suite import ServingSettings

    return ServingSettings(
        window_rounds=window_rounds,
        max_window_tokens=max_window_tokens,
        pinned_positions=pinned_positions.value,
        sensitivity=sensitivity,
        dtype=dtype.value,
    )


def _run(
    out: Path,
    model: Path,
    served: "ServedModel",
    serving: "ServingSettings",
    source: "StreamSource",
    no_plots: bool,
) -> None:
    from models.evaluation.report import ScoredRun
    from models.evaluation.suite import run_suite

    console = Console(stderr=True)
    with progress(console, "streams", source.num_streams) as (on_stream, on_round):
        done = run_suite(out, model, served, serving, source, on_stream=on_stream, on_round=on_round)
    _report(console, out, ScoredRun(done, source.parse), no_plots)


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
    console.print(f"Report: {directory / 'report.md'}", markup=False)
