"""The pictures of the engine's report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from tests.bench.limit import KINDS, OTHER
from tests.bench.results import Results
from tests.bench.round_cost import SideCost
from tests.bench.stopwatch import Spread

COLOURS = {
    "engine": "#0b6e4f",
    "resend": "#b23a48",
    "evict_half": "#d98e04",
    "evict_quarter": "#7a5195",
    "cropped": "#6c757d",
}
NAMES = {
    "engine": "this engine",
    "resend": "(i) resend the window",
    "evict_half": "(ii) evict half, prefill the rest",
    "evict_quarter": "(ii) evict a quarter, prefill the rest",
    "cropped": "plain incremental decoding",
}
SIDES = ("resend", "evict_quarter", "evict_half", "engine")


def draw(results: Results, folder: Path) -> None:
    """Write engine-*.png into the folder."""
    for name, size, picture in (
        ("cost", (10, 4.2), _cost),
        ("flat", (10, 3.8), _flat),
        ("time", (8, 2.8), _time),
        ("load", (7, 3.8), _load),
        ("window", (8, 2.8), _window),
    ):
        figure = plt.figure(figsize=size, layout="constrained")
        picture(results, figure)
        figure.savefig(folder / f"engine-{name}.png", dpi=130)
        plt.close(figure)


def _cost(results: Results, figure: plt.Figure) -> None:
    left, right = figure.subplots(1, 2, sharey=True)
    _by_window(results, left, lambda cost: cost.mean_s)
    left.set_title("mean round", loc="left")
    left.set_ylabel("milliseconds")
    _by_window(results, right, lambda cost: cost.worst_s)
    right.set_title("worst round", loc="left")
    figure.suptitle("One session, window full: what a quiet round costs", x=0.01, ha="left")
    handles, labels = right.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)


def _by_window(results: Results, axes: Axes, value: Callable[[SideCost], Spread]) -> None:
    lengths = [cost.window_rounds for cost in results.windows]
    for side in SIDES:
        spreads = [value(cost.alone(side)) for cost in results.windows]
        middle = [1e3 * spread.median for spread in spreads]
        axes.plot(lengths, middle, "o-", color=COLOURS[side], label=NAMES[side], linewidth=2)
        axes.fill_between(
            lengths,
            [1e3 * spread.low for spread in spreads],
            [1e3 * spread.high for spread in spreads],
            color=COLOURS[side],
            alpha=0.15,
            linewidth=0,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(lengths, [str(length) for length in lengths])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("rounds in the window")
    _tidy(axes)


def _flat(results: Results, figure: plt.Figure) -> None:
    left, right = figure.subplots(1, 2)
    samples = results.aging.samples
    ages = [sample.age_rounds for sample in samples]
    left.axhspan(0.95, 1.05, color="#0b6e4f", alpha=0.08, linewidth=0)
    left.axhline(1.0, color="#999999", linewidth=0.8)
    left.errorbar(
        ages,
        [sample.ratio.median for sample in samples],
        yerr=[
            [sample.ratio.median - sample.ratio.low for sample in samples],
            [sample.ratio.high - sample.ratio.median for sample in samples],
        ],
        fmt="o-",
        color=COLOURS["engine"],
        capsize=3,
    )
    left.set_xscale("log")
    left.set_xticks(ages, [f"{age:,}" for age in ages], fontsize=8)
    left.minorticks_off()
    left.set_ylim(0.8, 1.2)
    left.set_xlabel("age of the session, rounds")
    left.set_title("cost of a round, against a young session", loc="left", fontsize=10)
    left.text(ages[0], 1.053, "±5 %", color=COLOURS["engine"], fontsize=8)
    _tidy(left)

    contexts = [cost.context_tokens for cost in results.windows]
    alone = [1e3 * cost.alone("engine").mean_s.median for cost in results.windows]
    right.plot(contexts, alone, "o-", color=COLOURS["engine"], linewidth=2, label="measured")
    flops = [results.flops[str(cost.window_rounds)].total for cost in results.windows]
    right.plot(
        contexts,
        [alone[0] * flop / flops[0] for flop in flops],
        "--",
        color="#555555",
        label="if all of it grew with the FLOPs",
    )
    right.set_xlabel("tokens attended to")
    right.set_ylabel("milliseconds a round")
    right.set_ylim(bottom=0)
    right.set_title("cost of a round, by length of the window", loc="left", fontsize=10)
    right.legend(frameon=False, fontsize=9)
    _tidy(right)


def _time(results: Results, figure: plt.Figure) -> None:
    axes = figure.subplots()
    kinds = [*KINDS, OTHER, "python"]
    shades = ("#0b6e4f", "#3d9970", "#8ecdb0", "#d9c27a", "#c9c9c9", "#b23a48")
    labels = []
    for row, one in enumerate(results.limits):
        start = 0.0
        per_round_ms = 1e3 * one.step_s.median / one.num_sessions
        for kind, shade in zip(kinds, shades, strict=True):
            width = one.shares[kind] * per_round_ms
            axes.barh(row, width, left=start, color=shade, label=kind if row == 0 else None, height=0.6)
            start += width
        limit_ms = 1e3 * one.products_s.median / one.num_sessions
        axes.plot([limit_ms] * 2, [row - 0.4, row + 0.4], color="black", linewidth=2)
        labels.append(f"{one.num_sessions} session{'s' if one.num_sessions > 1 else ''}")
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds a round and session; black: its matrix products alone, same shapes")
    axes.set_title("Where the time of a round goes", loc="left")
    figure.legend(loc="outside lower center", ncols=6, frameon=False, fontsize=8)
    _tidy(axes)


def _load(results: Results, figure: plt.Figure) -> None:
    axes = figure.subplots()
    for load in results.loads:
        trials = sorted(load.trials, key=lambda trial: trial.num_streams)
        axes.plot(
            [trial.num_streams for trial in trials],
            [trial.p99_ms for trial in trials],
            "o",
            color=COLOURS[load.side],
            label=NAMES[load.side],
            alpha=0.8,
        )
        if load.held is not None:
            axes.annotate(
                f"holds {load.held.num_streams}",
                (load.held.num_streams, load.held.p99_ms),
                textcoords="offset points",
                xytext=(0, -15),
                ha="center",
                color=COLOURS[load.side],
            )
    axes.axhline(results.loads[0].limit_ms, color="black", linewidth=0.8)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_minor_formatter("")
    axes.margins(0.08, 0.12)
    axes.text(axes.get_xlim()[0], 0.86 * results.loads[0].limit_ms, " limit", va="top", fontsize=9)
    axes.set_xlabel("streams at one frame a second")
    axes.set_ylabel("frame to state, p99, ms")
    axes.set_title("How many streams one core decides in time", loc="left")
    axes.legend(frameon=False, fontsize=9, loc="best")
    _tidy(axes)


def _window(results: Results, figure: plt.Figure) -> None:
    axes = figure.subplots()
    names = {"move": "(b) prefix turned", "keep": "(c) positions kept"}
    rows = [
        (f"{what}, {names[way]}", gaps[way])
        for what, gaps in (
            ("states", results.price.state_f1_gap),
            ("events", results.price.event_f1_gap),
        )
        for way in names
    ]
    for row, (_, gap) in enumerate(rows):
        axes.plot([100 * gap.low, 100 * gap.high], [row, row], color=COLOURS["engine"], linewidth=3)
        axes.plot(100 * gap.value, row, "o", color="black", markersize=7)
    axes.axvspan(-1, 1, color="#0b6e4f", alpha=0.08, linewidth=0)
    axes.axvline(0, color="#999999", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [label for label, _ in rows])
    axes.invert_yaxis()
    axes.set_xlabel("F1, points above (a) prefilling the window every round; bars: 95 %")
    axes.set_title("What it costs in quality not to prefill anew", loc="left")
    _tidy(axes)


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
