"""`make bench-ablations`: what each part of the recipe is worth, in short runs from one warmed tower.

    python -m tests.bench.ablations --minutes 15 [--warmed runs/tiny/warmed] [--output docs/benchmarks]
    python -m tests.bench.ablations --report-only    (write the report again from ablations.json)

Five arms under two seeds each, trained for as many steps, then scored by the evaluation suite: free-running through the
serving engine on a few streams of the validation split. Each seed has a process of its own, of one thread. Ended
anywhere, the same command goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import multiprocessing
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from models.evaluation.bootstrap import Resampling
from models.evaluation.place_streams import PlaceStreams
from models.evaluation.report import ScoredRun
from models.evaluation.scores import SCORES
from models.evaluation.stream_plan import StreamPlan
from models.evaluation.suite import ServedModel, ServingSettings, SuiteRun, parse_of, run_suite
from models.training.checkpoints import export_checkpoint, newest_checkpoint
from models.training.loss import class_weights
from models.training.recipes import ScratchRecipe, tiny
from models.training.run import Machine, ScratchRun, Simulator
from models.training.state_counts import estimated_state_counts
from models.training.truth_heads import TRUTH_HEADS_FILE
from tests.bench import ablation_report
from tests.bench.ablation_arms import ARMS, Arm, ArmSamples
from tests.bench.environment import Environment

PLAN_FILE = "plan.json"
SHOWN = (
    "state_macro_f1",
    "event_recall",
    "event_precision",
    "false_alarms_per_quiet_hour",
    "duplicate_share",
    "span_miou",
    "timed_qa_accuracy",
    "open_lead_s",
)
_CALIBRATION_STEPS = 8
_ENDED_EARLY = 3
_POLL_S = 0.5
STREAMS = StreamPlan(lively_streams=6, lively_rounds=128, quiet_streams=2, quiet_minutes=6.0)


@dataclass(frozen=True)
class Plan:
    """What a folder of ablations holds; equal plans give equal runs."""

    steps: int
    seeds: tuple[int, ...] = (0, 1)
    streams: StreamPlan = STREAMS


class EndedEarly(Exception):
    """A run was asked to end, and saved what it had."""


class Ablations:
    """A folder: `warmed/` what every arm begins with, `ARM-SEED/run` and `ARM-SEED/evaluation` of each."""

    def __init__(
        self,
        folder: Path,
        recipe: ScratchRecipe,
        simulator: Simulator | None = None,
        arms: Sequence[Arm] = ARMS,
    ) -> None:
        """`recipe`: the common one; its number of steps is the plan's."""
        self._folder = folder
        self._recipe = recipe.passes[0]
        self._simulator = simulator if simulator is not None else Simulator()
        self._arms = arms

    def warm(self, source: Path | None) -> None:
        """Have `warmed/`: a copy of `source`, or made by the recipe's warm-up. Does nothing where it is there.

        ValueError if `source` is no `warmed` folder of a run; EndedEarly.
        """
        warmed = self._folder / "warmed"
        if warmed.exists():
            return
        if source is not None and not (source / TRUTH_HEADS_FILE).is_file():
            raise ValueError(f"{source}: no tower was warmed up there; it lacks {TRUTH_HEADS_FILE}")
        if source is None:
            shared = self._folder / "warm_up_run"
            recipe = replace(self._recipe, max_steps=1, num_validation_samples=1)
            run = ScratchRun(recipe, shared, Machine(), self._simulator)
            run.train(resume=(shared / "init").exists())
            source = shared / "warmed"
            if not source.exists():
                raise EndedEarly
        partial = self._folder / ".warmed"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(source, partial)
        partial.rename(warmed)

    def plan(self, steps: int | None, minutes: float, seeds: Sequence[int], streams: StreamPlan) -> Plan:
        """The folder's plan, which is made where there is none: `steps`, or as many as take so many minutes here.

        ValueError where the folder's differs.
        """
        path = self._folder / PLAN_FILE
        recipe_hash = hashlib.sha256(repr(self._recipe).encode()).hexdigest()[:16]
        if not path.exists():
            chosen = steps if steps is not None else self._steps_in(minutes)
            plan = Plan(chosen, tuple(seeds), streams)
            # As JSON gives it back: lists for tuples.
            path.write_text(json.dumps({"recipe": recipe_hash, **asdict(plan)}, indent=1), encoding="utf-8")
        held = json.loads(path.read_text(encoding="utf-8"))
        # Minutes are a matter of the machine's mood: what was planned with them stays.
        asked = Plan(steps if steps is not None else held["steps"], tuple(seeds), streams)
        wanted = json.loads(json.dumps({"recipe": recipe_hash, **asdict(asked)}))
        if differing := sorted(name for name in wanted if wanted[name] != held.get(name)):
            raise ValueError(
                f"{self._folder} holds other ablations ({', '.join(differing)} differ); name another"
            )
        return asked

    def run(self, plan: Plan, on_run: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """Train and score whatever is not there yet, a process for each seed; everything as JSON. Blocks.

        SIGTERM ends all of them, and each saves what it has: EndedEarly. RuntimeError where one failed.
        """
        counts = self._state_counts(plan)
        self._run_seeds(plan, counts, on_run)
        arms = []
        for arm in self._arms:
            recipe = self._arm_recipe(arm, plan, counts)
            weights = class_weights(
                torch.tensor(counts[arm.is_respond_only], dtype=torch.float64), recipe.loss.balance
            )
            runs = {}
            for seed in plan.seeds:
                minutes, suite = self._run(arm, recipe, plan, seed)
                runs[seed] = {"minutes": minutes, "suite": suite}
            arms.append(
                {
                    "name": arm.name,
                    "about": arm.about,
                    "state_counts": list(counts[arm.is_respond_only]),
                    "state_weights": weights.tolist(),
                    "minutes": {str(seed): one["minutes"] for seed, one in runs.items()},
                    "scores": _scores([one["suite"] for one in runs.values()]),
                    "suites": [one["suite"] for one in runs.values()],
                }
            )
        reference = arms[0].pop("suites")
        for arm_result in arms[1:]:
            arm_result["differences"] = _differences(reference, arm_result.pop("suites"))
        return {
            "environment": asdict(Environment.now()),
            "plan": asdict(plan),
            "batch_size": self._recipe.batch_size,
            "arms": arms,
        }

    def _run_seeds(
        self, plan: Plan, counts: dict[bool, tuple[int, int, int]], on_run: Callable[[], None]
    ) -> None:
        context = multiprocessing.get_context("spawn")
        num_done = context.Value("i", 0)
        processes = [
            context.Process(target=self._run_seed, args=(plan, counts, seed, num_done)) for seed in plan.seeds
        ]

        def end(signum: int, frame: FrameType | None) -> None:
            for process in processes:
                if process.is_alive():
                    process.terminate()

        previous = signal.signal(signal.SIGTERM, end)
        try:
            for process in processes:
                process.start()
            num_told = 0
            while num_told < num_done.value or any(process.is_alive() for process in processes):
                time.sleep(_POLL_S)
                for _ in range(num_told, num_done.value):
                    num_told += 1
                    on_run()
        finally:
            signal.signal(signal.SIGTERM, previous)
        codes = [process.exitcode for process in processes]
        if any(code not in (0, _ENDED_EARLY, -signal.SIGTERM) for code in codes):
            raise RuntimeError(f"a seed's process failed: exit codes {codes}")
        if any(codes):
            raise EndedEarly

    def _run_seed(
        self, plan: Plan, counts: dict[bool, tuple[int, int, int]], seed: int, num_done: Any
    ) -> None:
        torch.set_num_threads(1)
        try:
            for arm in self._arms:
                self._run(arm, self._arm_recipe(arm, plan, counts), plan, seed)
                with num_done.get_lock():
                    num_done.value += 1
        except EndedEarly:
            sys.exit(_ENDED_EARLY)

    def _run(self, arm: Arm, recipe: ScratchRecipe, plan: Plan, seed: int) -> tuple[float, SuiteRun]:
        """Minutes and scores, had back where they are there already."""
        run_dir = self._folder / f"{arm.name}-{seed}"
        minutes = self._train(arm, recipe, run_dir / "run", seed)
        return minutes, self._evaluate(run_dir, plan)

    def _arm_recipe(self, arm: Arm, plan: Plan, counts: dict[bool, tuple[int, int, int]]) -> ScratchRecipe:
        recipe = arm.change(self._short(plan.steps))
        if recipe.loss.balance == "class_balanced":
            recipe = replace(recipe, loss=replace(recipe.loss, class_counts=counts[arm.is_respond_only]))
        return recipe

    def _short(self, steps: int) -> ScratchRecipe:
        """The recipe with so many steps, a beginning that is in proportion, and measured at its end alone."""
        recipe = self._recipe
        warmup_steps = max(1, min(recipe.warmup_steps, steps // 10))
        return replace(
            recipe,
            max_steps=steps,
            warmup_steps=warmup_steps,
            eval_every_steps=steps + 1,
            log_every_steps=max(1, min(recipe.log_every_steps, steps // 10)),
        )

    def _state_counts(self, plan: Plan) -> dict[bool, tuple[int, int, int]]:
        """By whether Standby is left out: Silence, Standby, Response in what the arms learn."""
        silence, standby, response = estimated_state_counts(self._short(plan.steps), self._simulator)
        return {False: (silence, standby, response), True: (silence + standby, 0, response)}

    def _steps_in(self, minutes: float) -> int:
        """Steps that take so long on this machine, as it is now, by a few of them."""
        folder = self._folder / ".calibration"
        shutil.rmtree(folder, ignore_errors=True)
        recipe = replace(self._short(_CALIBRATION_STEPS), log_every_steps=1, num_validation_samples=1)
        ScratchRun(recipe, folder, Machine(), self._simulator).train(warmed=self._folder / "warmed")
        state = json.loads((newest_checkpoint(folder) / "trainer_state.json").read_text(encoding="utf-8"))
        at = [entry["minutes"] for entry in state["log_history"] if "minutes" in entry]
        if len(at) < _CALIBRATION_STEPS:
            raise EndedEarly
        shutil.rmtree(folder)
        # Without the first steps, in which workers start.
        return max(1, int(minutes * (len(at) - 2) / (at[-1] - at[1])))

    def _train(self, arm: Arm, recipe: ScratchRecipe, run_dir: Path, seed: int) -> float:
        """The minutes that the run took, of its last part if it was ended in between. EndedEarly."""
        last = run_dir / f"checkpoint-{recipe.max_steps}" / "trainer_state.json"
        if not last.exists():
            samples = ArmSamples(self._simulator.make_sample, seed, arm.is_respond_only)
            simulator = replace(self._simulator, make_sample=samples)
            run = ScratchRun(replace(recipe, seed=recipe.seed + seed), run_dir, Machine(), simulator)
            resumes = (run_dir / "init").exists()
            run.train(resume=resumes, warmed=None if resumes else self._folder / "warmed")
        if not last.exists():
            raise EndedEarly
        history = json.loads(last.read_text(encoding="utf-8"))["log_history"]
        return float(max((entry["minutes"] for entry in history if "minutes" in entry), default=math.nan))

    def _evaluate(self, run_dir: Path, plan: Plan) -> SuiteRun:
        model_dir = run_dir / "model"
        if not (model_dir / "streamo.json").exists():  # written last
            export_checkpoint(newest_checkpoint(run_dir / "run"), model_dir)
        serving = ServingSettings()
        served = ServedModel(model_dir, serving)
        source = PlaceStreams(plan.streams, served.budget)
        return run_suite(run_dir / "evaluation", model_dir, served, serving, source)


def _scored(suite: SuiteRun) -> ScoredRun:
    return ScoredRun(suite, parse_of(suite.settings))


def _scores(suites: Sequence[SuiteRun]) -> dict[str, Any]:
    """Task, or "all", -> score -> its value under each seed; a score without anything to score is None."""
    found: dict[str, Any] = {}
    for suite in suites:
        for task, estimates in _scored(suite).estimates().items():
            for name in SHOWN:
                if name in estimates:
                    found.setdefault(task, {}).setdefault(name, []).append(_number(estimates[name].value))
    return found


def _differences(before: Sequence[SuiteRun], after: Sequence[SuiteRun]) -> dict[str, Any]:
    """Task, or "all", -> score -> [value, low, high] of after minus before, the counts of all seeds together."""
    scored = _scored(before[0])
    resampling = Resampling(scored.run.records)
    sides = [_summed([_scored(suite).tallies for suite in suites]) for suites in (before, after)]
    found: dict[str, Any] = {}
    for task in (*scored.tasks, "all"):
        for score in SCORES:
            if score.name in SHOWN and (task in score.tasks or not score.tasks):
                one = resampling.difference(score, *sides, scored.chosen(task))
                found.setdefault(task, {})[score.name] = [_number(v) for v in (one.value, one.low, one.high)]
    return found


def _summed(tallies: Sequence[Sequence[Mapping[str, int]]]) -> list[Mapping[str, int]]:
    """The counts of each stream over several runs."""
    return [sum((Counter(one) for one in of_stream), Counter()) for of_stream in zip(*tallies, strict=True)]


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 5)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.ablations",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--steps", type=int, help="of every run; else as many as take --minutes")
    parser.add_argument(
        "--minutes", type=float, default=15.0, help="of a run, as fast as this machine is at the start"
    )
    parser.add_argument("--seeds", type=int, default=2, help="runs of each arm")
    parser.add_argument(
        "--warmed", type=Path, help="the `warmed` folder of a run; else the recipe's warm-up is run"
    )
    parser.add_argument(
        "--lively", type=int, default=STREAMS.lively_streams, help="lively streams of each task"
    )
    parser.add_argument("--quiet", type=int, default=STREAMS.quiet_streams, help="quiet ones")
    parser.add_argument("--work", type=Path, default=Path("runs/ablations"), help="folder of the runs")
    parser.add_argument("--output", type=Path, default=Path("docs/benchmarks"))
    parser.add_argument(
        "--report-only", action="store_true", help="draw and write from ablations.json as it is"
    )
    asked = parser.parse_args()
    path = asked.output / "ablations.json"
    if not asked.report_only:
        torch.set_num_threads(1)
        asked.work.mkdir(parents=True, exist_ok=True)
        ablations = Ablations(asked.work, tiny())
        try:
            ablations.warm(asked.warmed)
            streams = replace(STREAMS, lively_streams=asked.lively, quiet_streams=asked.quiet)
            plan = ablations.plan(asked.steps, asked.minutes, range(asked.seeds), streams)
            with tqdm(total=len(ARMS) * asked.seeds, desc="ablations", unit="run", dynamic_ncols=True) as bar:
                results = ablations.run(plan, bar.update)
        except EndedEarly:
            parser.exit(1, "Ended early; the same command goes on.\n")
        except ValueError as error:
            parser.exit(1, f"Error: {error}\n")
        asked.output.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    results = json.loads(path.read_text(encoding="utf-8"))
    ablation_report.draw(results, asked.output / "ablations.png")
    (asked.output / "ablations.md").write_text(ablation_report.write(results), encoding="utf-8")
    print(asked.output / "ablations.md")


if __name__ == "__main__":
    main()
