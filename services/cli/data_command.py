"""`streamo data ...`: samples to learn from."""

import json
from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from services.cli.curate_command import curate
from services.cli.data_simulate import simulate
from services.cli.finding_log import FindingLog
from services.shared.errors import InvalidInput

if TYPE_CHECKING:  # the formats need pydantic's and PyAV's import, which other commands need not wait for
    from models.data.check import DataStatistics

app = typer.Typer(
    no_args_is_help=True,
    help="Samples to learn from: convert them between formats, look at what a file holds, make them from videos.",
)

VIDEO_ROOT_HELP = "Video paths are below it. Else as they stand, or beside their file."


class Target(StrEnum):
    STREAM = "stream"
    IMAGE = "image"


@app.command()
def convert(
    raw: Annotated[Path, typer.Argument(metavar="RAW.json", help="Samples in the raw format: a JSON list.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.json", help="The file to write.")],
    to: Annotated[
        Target, typer.Option(help="stream: the video stays one file; image: a picture for each frame.")
    ],
    fps: Annotated[float, typer.Option(help="Frames a second.")] = 1.0,
    frames_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="For --to image: where the pictures are, or are made.")
    ] = None,
    video_root: Annotated[Path | None, typer.Option(metavar="DIR", help=VIDEO_ROOT_HELP)] = None,
    system_prompt: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its text is the system turn, in place of ours.")
    ] = None,
    default_question: Annotated[
        str, typer.Option(metavar="TEXT", help="Asked where a sample has no question, in place of ours.")
    ] = "",
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Leave broken samples out; else the first one ends it.")
    ] = False,
) -> None:
    """Turn raw samples (a video, questions and timed responses) into chats, a round for every frame.

    The rounds are those of the Streamo paper's converter; docs/data.md has its rules. What they leave out of a sample
    is listed, and OUT.json is written whole or not at all. Ends with code 1 where a broken sample ended it.

    Examples:

        streamo data convert raw.json stream.json --to stream --fps 1 --video-root videos

        streamo data convert raw.json image.json --to image --fps 2 --video-root videos --frames-dir frames
    """
    from models.data.convert import ConvertConfig, Converter
    from models.data.finding import BrokenSample
    from models.data.stream_format import DEFAULT_QUESTION, DEFAULT_SYSTEM_PROMPT

    console = Console(stderr=True)
    findings = FindingLog(console)
    try:
        prompt = DEFAULT_SYSTEM_PROMPT if system_prompt is None else system_prompt.read_text("utf-8")
        config = ConvertConfig(
            to.value, fps, frames_dir, video_root, prompt, default_question or DEFAULT_QUESTION
        )
        with _progress(console) as progress:
            task = progress.add_task("Converting", total=None)
            summary = Converter(config).convert_file(
                raw,
                out,
                skip_broken=skip_broken,
                on_finding=findings.add,
                on_sample=lambda: progress.advance(task),
            )
    except BrokenSample:
        findings.close()
        console.print("Nothing was written. Mend the sample, or leave broken ones out with --skip-broken.")
        raise typer.Exit(1) from None
    except (ValueError, OSError) as error:
        raise InvalidInput(str(error)) from error
    findings.close()
    counts = ", ".join(
        f"{summary.states[state]} {state.name.capitalize()}" for state in sorted(summary.states)
    )
    print(f"{out}: {summary.num_converted} samples, {summary.num_rounds} rounds ({counts}).")
    if summary.num_broken:
        print(f"{summary.num_broken} broken samples were left out.")


@app.command()
def check(
    file: Annotated[
        Path, typer.Argument(metavar="FILE.json", help="Samples in the raw, stream or image format.")
    ],
    video_root: Annotated[Path | None, typer.Option(metavar="DIR", help=VIDEO_ROOT_HELP)] = None,
    fps: Annotated[float, typer.Option(help="Frames a second of a raw sample's rounds.")] = 1.0,
    no_videos: Annotated[
        bool, typer.Option("--no-videos", help="Open and look for no video or picture.")
    ] = False,
    decode: Annotated[
        bool, typer.Option("--decode", help="Read every video to its end: finds those that break off.")
    ] = False,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw it too.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The statistics as JSON.")] = False,
) -> None:
    """Look at what a file of samples holds, and whether every sample can be used.

    Shows states, tasks, durations, questions a sample, and the weights that the loss would give the states. Ends with
    code 1 where a sample is broken.

    Examples:

        streamo data check stream.json

        streamo data check raw.json --video-root videos --decode --plot raw.png
    """
    from models.data.check import DataCheck

    console = Console(stderr=True)
    findings = FindingLog(console)
    try:
        with _progress(console) as progress:
            task = progress.add_task("Checking", total=None)
            statistics = DataCheck(video_root, fps, not no_videos, decode).run(
                file, findings.add, lambda: progress.advance(task)
            )
        findings.close()
    except ModuleNotFoundError as error:
        raise InvalidInput(
            f"opening videos needs {error.name}: pip install 'streamo[training]', or give --no-videos"
        ) from error
    except (ValueError, OSError) as error:
        raise InvalidInput(str(error)) from error
    if plot is not None:
        _plot(statistics, plot)
    if as_json:
        print(json.dumps(statistics.to_element(), indent=2))
    else:
        _show(statistics)
    if statistics.num_broken:
        raise typer.Exit(1)


app.command()(curate)
app.command()(simulate)


def _plot(statistics: "DataStatistics", path: Path) -> None:
    from models.data.check_plots import plot_statistics

    try:
        plot_statistics(statistics, path)
    except ModuleNotFoundError as error:
        raise InvalidInput(
            f"--plot needs {error.name}: pip install 'streamo[training]', or leave --plot out"
        ) from error
    except (ValueError, OSError) as error:
        raise InvalidInput(f"--plot: {error}") from error


def _show(statistics: "DataStatistics") -> None:
    from models.data.check import class_balanced_weights, frequency_weights
    from models.vlm.state import State

    console = Console()
    hours = sum(statistics.durations_s) / 3600
    console.print(
        f"[bold]{statistics.num_samples} samples[/bold] in the {statistics.format or 'raw'} format over "
        f"{len(statistics.videos)} videos" + (f", {hours:.2f} hours" if hours else "")
    )
    counts = statistics.state_counts
    if sum(counts):
        states = Table("state", "rounds", "share", "frequency weight", "class-balanced weight", box=None)
        for state, balanced, frequent in zip(
            State, class_balanced_weights(counts), frequency_weights(counts), strict=True
        ):
            share = counts[state] / sum(counts)
            states.add_row(
                state.name.capitalize(),
                str(counts[state]),
                f"{share:.1%}",
                f"{frequent:.3f}",
                f"{balanced:.3f}",
            )
        console.print(states)
    tasks = Table("task", "samples", *(state.name.capitalize() for state in State), box=None)
    for task, num_samples in statistics.tasks.most_common():
        of_task = statistics.task_states.get(task, Counter())
        tasks.add_row(Text(task), str(num_samples), *(str(of_task[state]) for state in State))
    console.print(tasks)
    spread = Table("", "least", "median", "most", box=None)
    for name, values in (
        ("duration, s", statistics.durations_s),
        ("questions a sample", sorted(statistics.questions_per_sample.elements())),
        ("responses a sample", sorted(statistics.responses_per_sample.elements())),
        ("characters a response", statistics.response_chars),
    ):
        if values:
            ordered = sorted(values)
            spread.add_row(name, *(f"{v:g}" for v in (ordered[0], ordered[len(ordered) // 2], ordered[-1])))
    console.print(spread)
    for title, reasons in (("broken", statistics.broken_reasons), ("notes", statistics.notes)):
        if reasons:
            table = Table(title, "samples" if title == "broken" else "times", box=None)
            for reason, times in reasons.most_common():
                table.add_row(Text(reason), str(times))
            console.print(table)


def _progress(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )
