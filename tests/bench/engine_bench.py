"""`make bench-engine`: all measurements of the engine in one run, as JSON, pictures and a report.

    python -m tests.bench.engine_bench [--quick] [--output docs/benchmarks]
    python -m tests.bench.engine_bench --report-only    (write the report again from engine.json)

Ten minutes on two quiet cores. `--quick` takes a minute or two and says nothing worth keeping.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from services.shared.settings import ModelSettings
from tests.bench import (
    age,
    engine_load,
    engine_plots,
    engine_report,
    held_out,
    limit,
    rebuild,
    round_cost,
    two_cores,
    window_price,
)
from tests.bench.environment import Environment
from tests.bench.hugging_face import HuggingFaceModel
from tests.bench.results import Results, from_json, to_json
from tests.bench.scripted import Script
from tests.bench.workload import Workload


@dataclass(frozen=True)
class Plan:
    """How much of everything is measured."""

    # Window length -> sessions that the engine runs at once, and dialogues in a batch of baselines (ii) and (i).
    # A prefill has work enough alone: in a batch it gains nothing at the shortest window, and less at longer ones.
    windows: dict[int, tuple[tuple[int, ...], int, int]]
    repeats: int
    ages: tuple[int, ...]
    age_repeats: int
    session_counts: tuple[int, ...]
    streams: int
    stream_rounds: int
    two_core_windows: tuple[int, ...]
    load_trial_s: float
    load_s: float
    load_streams: dict[str, tuple[int, int]]
    """Side -> where the search for its most streams begins, and its end."""


FULL = Plan(
    windows={30: ((1, 8, 32), 8, 8), 60: ((1, 8, 32), 8, 1), 120: ((1, 8, 32), 4, 1), 300: ((1,), 1, 1)},
    repeats=5,
    ages=(500, 2000, 5000, 10_000, 20_000),
    age_repeats=21,
    session_counts=(1, 5, 32),
    streams=24,
    stream_rounds=66,
    two_core_windows=(30, 120),
    load_trial_s=4.0,
    load_s=10.0,
    load_streams={"engine": (48, 128), "evict_half": (12, 32), "resend": (1, 8)},
)
QUICK = Plan(
    windows={30: ((1, 8), 2, 2), 60: ((1, 4), 1, 1)},
    repeats=2,
    ages=(100, 200, 400),
    age_repeats=3,
    session_counts=(1, 5),
    streams=2,
    stream_rounds=72,
    two_core_windows=(30, 60),
    load_trial_s=2.0,
    load_s=3.0,
    load_streams={"engine": (16, 32), "evict_half": (4, 8), "resend": (1, 2)},
)


def run(plan: Plan, model_dir: Path) -> Results:
    """Everything. Wall time is measured first, then CPU time of one thread, of sides in turn. What is not timed runs
    beside the latter, on the other core.
    """
    started_s = time.monotonic()
    environment = Environment.now()
    workload = Workload.load(model_dir)
    hf = HuggingFaceModel.of(workload.model)
    own_window = workload.model.config.window_rounds

    with _progress("two cores", len(plan.two_core_windows), "window") as bar:
        on_two_cores = []
        for window_rounds in plan.two_core_windows:
            on_two_cores.append(two_cores.measure(workload, hf, window_rounds, plan.repeats))
            bar.update()
    loads = _loads(plan, workload, own_window)

    cpu_s, timed_s = time.process_time(), time.monotonic()
    limits = []
    with _progress("the limit", len(plan.session_counts), "batch") as bar:
        for num_sessions in plan.session_counts:
            limits.append(limit.measure(workload, num_sessions, plan.repeats))
            bar.update()
    with ThreadPoolExecutor(1) as beside:
        quality = beside.submit(_quality, plan, model_dir, 1)
        windows = []
        with _progress("a round's cost", len(plan.windows), "window") as bar:
            for window_rounds, sizes in plan.windows.items():
                windows.append(round_cost.measure(workload, hf, window_rounds, *sizes, plan.repeats))
                bar.update()
        with _progress("age", 1, "session") as bar:
            aging = age.measure(workload, plan.ages, plan.age_repeats)
            bar.update()
        timed_share = (time.process_time() - cpu_s) / (time.monotonic() - timed_s)
        price, rebuilt = quality.result()
    return Results(
        environment=environment,
        duration_s=time.monotonic() - started_s,
        cpu_share=timed_share,
        round_tokens=workload.round_tokens,
        pinned_tokens=workload.num_pinned,
        checkpoint_window_rounds=own_window,
        flops={
            str(cost.window_rounds): limit.step_flops(workload, 1, cost.window_rounds) for cost in windows
        },
        windows=tuple(windows),
        two_cores=tuple(on_two_cores),
        limits=tuple(limits),
        aging=aging,
        loads=tuple(loads),
        price=price,
        rebuild=rebuilt,
        quality_commit=environment.commit,
    )


def with_quality(results: Results, plan: Plan, model_dir: Path) -> Results:
    """The same with what depends on the weights measured anew. Times do not."""
    price, rebuilt = _quality(plan, model_dir, 2)
    return replace(results, price=price, rebuild=rebuilt, quality_commit=Environment.now().commit)


def _quality(
    plan: Plan, model_dir: Path, num_processes: int
) -> tuple[window_price.WindowPrice, rebuild.Rebuild]:
    with _progress("held-out streams", plan.streams, "stream") as bar:
        runs = held_out.run_streams(model_dir, plan.streams, plan.stream_rounds, num_processes, bar.update)
    return window_price.summarise(runs, np.random.default_rng(0)), rebuild.summarise(runs)


def _loads(plan: Plan, workload: Workload, window_rounds: int) -> list[engine_load.Load]:
    loads, script = [], Script()
    for side, (first, at_most) in plan.load_streams.items():
        with _progress(f"load, {side}", 0, "trial") as bar:
            server = engine_load.make_server(
                workload, side, script, window_rounds, at_most, engine_load.BATCH_TOKENS
            )
            loads.append(
                engine_load.measure(
                    server,
                    side,
                    window_rounds,
                    script,
                    plan.load_trial_s,
                    plan.load_s,
                    first,
                    at_most,
                    lambda trial, bar=bar: bar.update(),
                )
            )
    return loads


def _progress(what: str, total: int, unit: str) -> tqdm:
    return tqdm(desc=f"{what:<18}", total=total or None, unit=unit, dynamic_ncols=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.engine_bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", type=Path, default=ModelSettings().path)
    parser.add_argument("--output", type=Path, default=Path("docs/benchmarks"))
    parser.add_argument("--quick", action="store_true", help="everything, but hardly any of it")
    parser.add_argument("--streams", type=int, help="held-out streams, instead of the plan's number")
    parser.add_argument(
        "--quality-only", action="store_true", help="held-out streams alone; times stay as in engine.json"
    )
    parser.add_argument("--report-only", action="store_true", help="draw and write from engine.json as it is")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path = arguments.output / "engine.json"
    plan = QUICK if arguments.quick else FULL
    if arguments.streams:
        plan = replace(plan, streams=arguments.streams)
    if arguments.report_only:
        results = from_json(path.read_text(encoding="utf-8"))
    elif arguments.quality_only:
        results = with_quality(from_json(path.read_text(encoding="utf-8")), plan, arguments.model)
    else:
        results = run(plan, arguments.model)
    if not arguments.report_only:
        arguments.output.mkdir(parents=True, exist_ok=True)
        path.write_text(to_json(results), encoding="utf-8")
    engine_plots.draw(results, arguments.output)
    (arguments.output / "engine.md").write_text(engine_report.write(results), encoding="utf-8")
    print(f"{arguments.output / 'engine.md'}: {results.duration_s / 60:.1f} minutes")


if __name__ == "__main__":
    main()
