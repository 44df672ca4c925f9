"""`streamo eval ovo-bench` and `streamo eval streaming-bench`."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from services.cli.eval_progress import mistakes_told, progress
from services.cli.options import Device

if TYPE_CHECKING:  # torch, which other commands need not wait for
    from models.evaluation.benchmarks.ovo_bench import OvoWording
    from models.evaluation.benchmarks.ovo_score import OvoScore
    from models.evaluation.benchmarks.probe import Answer, Probe
    from models.evaluation.benchmarks.streaming_bench import StreamingWording
    from models.evaluation.benchmarks.streaming_score import StreamingScore


# What only scores of result files heed, by parameter, as users call it.
_OF_SCORING = {"more_results": "RESULTS.json", "name": "--name"}


class ModeName(StrEnum):
    OFFICIAL = "official"
    PUSH = "push"


Model = Annotated[Path | None, typer.Option(metavar="DIR", help="A checkpoint in the standard format.")]
Repository = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Your copy of the benchmark's repository: its prompts.")
]
Videos = Annotated[Path | None, typer.Option(metavar="DIR", help="Your copy of its videos.")]
Out = Annotated[Path | None, typer.Option(metavar="FILE", help="The result file to write.")]
ModeOption = Annotated[
    ModeName,
    typer.Option(help="official: an answer is forced when asked. push: it speaks when it chooses to."),
]
Fps = Annotated[float, typer.Option(min=0.1, max=30, help="Frames a second.")]
AtOnce = Annotated[int, typer.Option(min=1, help="Questions in the engine at a time.")]
WindowRounds = Annotated[int | None, typer.Option(min=1, help="Else as the checkpoint was trained.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")]
Score = Annotated[
    list[Path] | None,
    typer.Option("--score", metavar="RESULTS.json", help="Only score result files; repeat it."),
]


def ovo_bench(
    given: typer.Context,
    more_results: Annotated[
        list[Path] | None, typer.Argument(metavar="[RESULTS.json]...", help="More files for --score.")
    ] = None,
    score: Score = None,
    as_json: AsJson = False,
    model: Model = None,
    annotations: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Else data/ovo_bench_new.json of the repository.")
    ] = None,
    repository: Repository = None,
    videos: Videos = None,
    out: Out = None,
    mode: ModeOption = ModeName.OFFICIAL,
    task: Annotated[list[str] | None, typer.Option(help="Only these, as EPM or REC; repeat it.")] = None,
    fps: Fps = 1.0,
    window_rounds: WindowRounds = None,
    device: Device = "cpu",
    at_once: AtOnce = 4,
) -> None:
    """Run a checkpoint over your copy of OVO-Bench, or score result files.

    The scores are those of the official scorer, beside a strict reading of the same answers and what the best
    constant answer gets. The two modes are told apart in the file and never share a table.

    A run that was ended goes on where it was when the same command is given again.

    Examples:

        streamo eval ovo-bench --score results/MODEL/*.json

        streamo eval ovo-bench --model MODEL --repository OVO-Bench --videos src_videos --out push.json --mode push
    """
    from models.evaluation.benchmarks.ovo_bench import (
        OvoWording,
        questions,
        read_annotations,
        result_file,
    )
    from models.evaluation.benchmarks.ovo_score import read_results, score_results
    from models.evaluation.benchmarks.probe import Answer, Mode

    with mistakes_told():
        _refuse_ignored(given)
        if score:
            paths = [*score, *(more_results or ())]
        else:
            _needed(model=model, repository=repository, videos=videos, out=out)
            assert model and repository and videos and out
            paths = [out]
            asked_in = annotations or repository / "data" / "ovo_bench_new.json"
            items, texts = read_annotations(asked_in, tuple(task or ())), OvoWording.read(repository)
            probes = list(questions(items, texts, videos, Mode(mode.value)))
            settings = _run_settings(model, "ovo-bench", asked_in, texts, mode, fps, window_rounds)
            told = {
                key: [Answer(at_s, text) for at_s, text in answers]
                for key, answers in _answered(
                    out, settings, probes, model, mode, fps, window_rounds, device, at_once
                ).items()
            }
            _write(out, result_file(items, told, Mode(mode.value), settings))
        scores = {name: score_results(results) for name, results in read_results(paths).items()}
        if as_json:
            print(json.dumps({name or "unlabelled": asdict(one) for name, one in scores.items()}, indent=1))
            return
        for name, one in scores.items():
            _print_ovo(name, one)


def streaming_bench(
    given: typer.Context,
    more_results: Annotated[
        list[Path] | None, typer.Argument(metavar="[RESULTS.json]...", help="More files for --score.")
    ] = None,
    score: Score = None,
    name: Annotated[
        str, typer.Option(help="For --score: the model's name in the files. Else ours, one for each mode.")
    ] = "",
    as_json: AsJson = False,
    model: Model = None,
    questions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="For example src/data/questions_real.json.")
    ] = None,
    repository: Repository = None,
    videos: Videos = None,
    out: Out = None,
    mode: ModeOption = ModeName.OFFICIAL,
    context: Annotated[int, typer.Option(min=0, help="Seconds shown before a question; 0: all of it.")] = 60,
    fps: Fps = 1.0,
    window_rounds: WindowRounds = None,
    device: Device = "cpu",
    at_once: AtOnce = 4,
) -> None:
    """Run a checkpoint over your copy of StreamingBench (real-time, sequential, proactive), or score result files.

    Pictures only: questions that need the sound (its omni-source part) are asked without it.

    Examples:

        streamo eval streaming-bench --model MODEL --repository StreamingBench --videos videos
        --questions StreamingBench/src/data/questions_real.json --out official.json

        streamo eval streaming-bench --score official.json
    """
    from models.evaluation.benchmarks.probe import Mode, ask, serve_for
    from models.evaluation.benchmarks.streaming_bench import (
        StreamingWording,
        ask_all,
        read_questions,
        with_responses,
    )
    from models.evaluation.benchmarks.streaming_score import (
        label,
        labels_in,
        read_question_file,
        score_answered,
    )
    from models.evaluation.journal import Journal
    from models.evaluation.suite import ServingSettings

    with mistakes_told():
        _refuse_ignored(given)
        if score:
            paths = [*score, *(more_results or ())]
        else:
            _needed(model=model, repository=repository, videos=videos, out=out, questions=questions)
            assert model and repository and videos and out and questions
            paths = [out]
            data, asked = read_questions(questions, videos)
            _check_videos(one.video for one in asked)
            texts = StreamingWording.read(repository)
            settings = _run_settings(model, "streaming-bench", questions, texts, mode, fps, window_rounds)
            settings = {**settings, "context_s": context, "questions": questions.name}
            serving = ServingSettings(window_rounds=window_rounds)
            served = serve_for(model, Mode(mode.value), serving, device=device, max_at_once=at_once)
            console = Console(stderr=True)
            with (
                Journal(_journal(out), settings) as journal,
                progress(console, "questions", len(asked)) as (on_question, on_round),
            ):
                left = [one for one in asked if one.key not in journal]
                for _ in range(len(asked) - len(left)):
                    on_question()

                def put(probes: "Sequence[Probe]") -> "Iterator[tuple[Probe, list[Answer]]]":
                    return ask(served, probes, Mode(mode.value), fps, on_round=on_round)

                for question, response in ask_all(left, texts, Mode(mode.value), context, put):
                    journal.add(question.key, response)
                    on_question()
                responses = {one.key: journal[one.key] for one in asked}
            _write(out, with_responses(data, responses, label(mode.value)))
        scores = {}
        for path in paths:
            answered = read_question_file(path)
            for one in [name] if name else labels_in(answered) or [label(mode.value)]:
                scores[f"{path}, {one}"] = score_answered(answered, one)
        if as_json:
            print(json.dumps({title: asdict(shares) for title, shares in scores.items()}, indent=1))
            return
        for title, shares in scores.items():
            _print_streaming(title, shares)


def _answered(
    out: Path,
    settings: dict[str, Any],
    probes: "Sequence[Probe]",
    model: Path,
    mode: ModeName,
    fps: float,
    window_rounds: int | None,
    device: str,
    at_once: int,
) -> dict[str, list[tuple[float, str]]]:
    """(second, text) of what was said to each probe, those of an earlier, ended run included."""
    from models.evaluation.benchmarks.probe import Mode, ask, serve_for
    from models.evaluation.journal import Journal
    from models.evaluation.suite import ServingSettings

    _check_videos(probe.video for probe in probes)
    serving = ServingSettings(window_rounds=window_rounds)
    served = serve_for(model, Mode(mode.value), serving, device=device, max_at_once=at_once)
    console = Console(stderr=True)
    with (
        Journal(_journal(out), settings) as journal,
        progress(console, "questions", len(probes)) as (on_probe, on_round),
    ):
        left = [probe for probe in probes if probe.key not in journal]
        for _ in range(len(probes) - len(left)):
            on_probe()
        for probe, answers in ask(served, left, Mode(mode.value), fps, on_round=on_round):
            journal.add(probe.key, [(one.at_s, one.text) for one in answers])
            on_probe()
        return {probe.key: journal[probe.key] for probe in probes}


def _run_settings(
    model: Path,
    benchmark: str,
    questions: Path,
    texts: "OvoWording | StreamingWording",
    mode: ModeName,
    fps: float,
    window_rounds: int | None,
) -> dict[str, Any]:
    """What answers depend on: a journal under other settings is not gone on with."""
    from models.evaluation.suite import model_settings

    return {
        "benchmark": benchmark,
        "questions_sha256": hashlib.sha256(questions.read_bytes()).hexdigest(),
        "wording_sha256": hashlib.sha256(json.dumps(asdict(texts)).encode()).hexdigest(),
        "mode": mode.value,
        **model_settings(model),
        "fps": fps,
        "window_rounds": window_rounds,
    }


def _journal(out: Path) -> Path:
    return out.with_name(f"{out.name}.journal")


def _refuse_ignored(given: typer.Context) -> None:
    """ValueError for what was given and plays no part: results and their name without --score, of a run with it."""
    is_scoring = bool(given.params["score"])
    ignored = [
        _OF_SCORING.get(name, f"--{name.replace('_', '-')}")
        for name in given.params
        if name not in ("score", "as_json")
        and (name in _OF_SCORING) != is_scoring
        and getattr(given.get_parameter_source(name), "name", "DEFAULT") != "DEFAULT"
    ]
    if ignored:
        reason = (
            "of a run: leave out with --score" if is_scoring else "of result files: give them with --score"
        )
        raise ValueError(f"{', '.join(ignored)}: {reason}")


def _needed(**options: Path | None) -> None:
    missing = [f"--{name}" for name, value in options.items() if value is None]
    if missing:
        raise ValueError(f"{', '.join(missing)} is missing; or score result files with --score")


def _check_videos(videos: Iterator[Path]) -> None:
    missing = sorted({str(path) for path in videos if not path.is_file()})
    if missing:
        raise ValueError(
            f"{len(missing)} videos are missing, {missing[0]} first; a run is over all of them or none"
        )


def _write(path: Path, values: Any) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)


def _print_ovo(mode: str, score: "OvoScore") -> None:
    console = Console()
    table = Table(
        "",
        "official",
        "strict",
        "floor",
        "by",
        "strict floor",
        "answers",
        title=escape(f"OVO-Bench, {_named(mode)}"),
    )
    for group, tasks in score.tasks.items():
        for task, one in tasks.items():
            table.add_row(
                Text(task),
                *(f"{value:.2f}" for value in (one.official, one.strict, one.floor)),
                one.floor_answer,
                f"{one.strict_floor:.2f}",
                str(one.num_probes),
            )
        if group in score.groups:
            _add_mean(table, group, score.groups[group])
            table.add_section()
    if score.total is not None:
        _add_mean(table, "total", score.total)
    console.print(table)
    for remark in score.remarks:
        console.print(f"- {remark}", markup=False)


def _named(mode: str) -> str:
    return f"mode {mode}" if mode else "files of others, whose mode is not known"


def _add_mean(table: Table, name: str, mean: dict[str, float]) -> None:
    values = [f"{mean[key]:.2f}" for key in ("official", "strict", "floor")]
    table.add_row(name, *values, "", f"{mean['strict_floor']:.2f}", "", style="bold")


def _print_streaming(title: str, score: "StreamingScore") -> None:
    console = Console()
    if score.choices:
        table = Table("", "official", "strict", "floor", "by", "questions", "silent", title=escape(title))
        for task, one in score.choices.items():
            official = "" if one.official is None else f"{one.official:.2f}"
            floor = f"{one.floor:.2f}"
            counts = (str(one.num_questions), str(one.num_silent))
            table.add_row(Text(task), official, f"{one.strict:.2f}", floor, one.floor_answer, *counts)
        console.print(table)
    if score.proactive:
        table = Table("", "in time", "right", "questions", "silent", title=escape(title))
        for task, told in score.proactive.items():
            counts = (str(told.num_questions), str(told.num_silent))
            table.add_row(Text(task), f"{told.in_time:.2f}", f"{told.right:.2f}", *counts)
        console.print(table)
