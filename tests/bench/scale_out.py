"""Runs the scale-out on a local stack: writes docs/benchmarks/scale-out.json and its picture."""

from __future__ import annotations

import json
import math
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from support.scale_out import MAX_SESSIONS, Moment, ScaleOut, Timeline

from tests.bench.environment import Environment

FOLDER = Path(__file__).parents[2] / "docs" / "benchmarks"
_COLOURS = ("#0b6e4f", "#d98e04", "#7a5195", "#b23a48")


def main() -> None:
    environment = Environment.now()
    with tempfile.TemporaryDirectory() as directory:
        timeline = ScaleOut(Path(directory)).run()
    write(environment, timeline)
    broken = {stream_id: found for stream_id, found in timeline.violations.items() if found}
    if broken:
        sys.exit(f"the promise was broken: {broken}")
    print(f"{timeline.events} events, and the promise holds: docs/benchmarks/scale-out.json")


def write(environment: Environment, timeline: Timeline) -> None:
    results = {"environment": asdict(environment), **asdict(timeline)}
    moments = ",\n  ".join(json.dumps(moment) for moment in results.pop("moments"))
    head = json.dumps(results, indent=1).removesuffix("\n}")
    (FOLDER / "scale-out.json").write_text(f'{head},\n "moments": [\n  {moments}\n ]\n}}\n')
    draw(timeline, FOLDER / "scale-out.png")


def draw(timeline: Timeline, path: Path) -> None:
    moments = timeline.moments
    at_s = [moment.at_s for moment in moments]
    figure, axes = plt.subplots(5, 1, figsize=(10, 9.5), sharex=True, layout="constrained")
    replicas, partitions, sessions, lag, utilisation = axes
    replicas.step(at_s, [moment.processes for moment in moments], where="post", color="#333333", linewidth=2)
    replicas.set_ylabel("replica processes")
    replicas.set_yticks([0, 1, 2, 3])
    _by_replica(partitions, moments, "partitions")
    partitions.set_ylabel("partitions owned")
    _by_replica(sessions, moments, "sessions")
    sessions.step(
        at_s, [moment.watches for moment in moments], ":", where="post", color="#333333", label="asked for"
    )
    waiting = [moment.total("waiting") for moment in moments]
    sessions.step(at_s, waiting, "--", where="post", color="#b23a48", label="waiting for room")
    sessions.axhline(MAX_SESSIONS, color="#999999", linewidth=0.8)
    sessions.annotate(
        "room in one replica", (at_s[-1], MAX_SESSIONS), ha="right", va="bottom", fontsize=8, color="#777777"
    )
    sessions.set_ylabel("sessions")
    _by_replica(lag, moments, "lag_s")
    lag.set_ylabel("lag, s")
    _by_replica(utilisation, moments, "utilisation")
    utilisation.set_ylabel("step utilisation")
    utilisation.set_ylim(0, 1)
    utilisation.set_xlabel("seconds")
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(axis="y", alpha=0.3)
        one.set_ylim(bottom=0)
        for phase in ScaleOut.PHASES:
            one.axvline(timeline.of_phase(phase)[0].at_s, color="#bbbbbb", linewidth=0.8)
    for number, phase in enumerate(ScaleOut.PHASES):
        # In turn on two lines: the first phases are short.
        replicas.annotate(
            phase, (timeline.of_phase(phase)[0].at_s, 1), xycoords=("data", "axes fraction"),
            xytext=(3, 2 + 11 * (number % 2)), textcoords="offset points", fontsize=9, va="bottom",
        )  # fmt: skip
    for one in (partitions, sessions):
        one.legend(frameon=False, fontsize=8, ncols=4, loc="lower right", bbox_to_anchor=(1, 0.98))
    figure.suptitle("A second LLM replica comes and goes with the load", x=0.01, ha="left")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _by_replica(axes: Axes, moments: list[Moment], gauge: str) -> None:
    names = sorted({name for moment in moments for name in moment.replicas})
    for name, colour in zip(names, _COLOURS, strict=False):
        axes.step(
            [moment.at_s for moment in moments],
            [moment.replicas.get(name, {}).get(gauge, math.nan) for moment in moments],
            where="post",
            color=colour,
            linewidth=2,
            label=f"replica {name}",
        )


if __name__ == "__main__":
    main()
