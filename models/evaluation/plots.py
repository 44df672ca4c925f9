"""A run of the suite as pictures. matplotlib is imported where a picture is drawn, and nowhere else."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from models.evaluation.bootstrap import Estimate
from models.evaluation.matching import match_times
from models.evaluation.report import ALL, ScoredRun
from models.evaluation.scores import SCORES
from models.evaluation.tally import ONSET_TOLERANCES_S
from models.vlm.state import State

_BLUE, _ORANGE, _GREEN, _GREY = "#2f6fb5", "#d98e04", "#2a9d57", "#8a8f98"
# How far from a gold onset a told one is drawn.
_NEAR_MS = 5_499
_DPI = 130


class PlotsUnavailable(RuntimeError):
    """matplotlib is not installed."""


def draw_plots(directory: Path, scored: ScoredRun) -> dict[str, str]:
    """PNG files in `directory`; file name -> what it shows. PlotsUnavailable without matplotlib."""
    figure_class = _figure_class()
    directory.mkdir(parents=True, exist_ok=True)
    plots = {
        "events.png": (_events, "Recall and precision of events, and false alarms a quiet hour, by task"),
        "confusion.png": (_confusion, "States told for each state of gold, in percent of gold's rounds"),
        "timing.png": (_timing, "When it spoke beside gold, and onsets within 1, 2 and 3 s"),
        "offsets.png": (_offsets, "State macro-F1, and span mIoU of grounding, by start offset"),
    }
    for name, (draw, _) in plots.items():
        figure = figure_class(layout="constrained")
        draw(figure, scored)
        figure.savefig(directory / name, dpi=_DPI)
    return {name: caption for name, (_, caption) in plots.items()}


def _figure_class() -> Any:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise PlotsUnavailable(
            "plots need matplotlib: install streamo[training], or leave the plots out with --no-plots"
        ) from error
    return Figure


def _score(scored: ScoredRun, task: str, name: str, offset_s: int | None = None) -> Estimate:
    (score,) = (score for score in SCORES if score.name == name)
    return scored.estimate(score, scored.chosen(task, offset_s))


def _bars(axis: Any, places: np.ndarray, estimates: list[Estimate], width: float, **style: Any) -> None:
    values = np.array([one.value for one in estimates])
    reach = np.array([[one.value - one.low, one.high - one.value] for one in estimates]).T
    axis.bar(places, np.nan_to_num(values), width, **style)
    known = ~np.isnan(values)
    axis.errorbar(
        places[known],
        values[known],
        yerr=np.maximum(0, reach[:, known]),
        fmt="none",
        ecolor="black",
        elinewidth=1,
        capsize=3,
    )
    for place, value in zip(places[~known], values[~known], strict=True):
        assert math.isnan(value)
        axis.text(place, 0, "none", rotation=90, ha="center", va="bottom", fontsize=8, color=_GREY)


def _events(figure: Any, scored: ScoredRun) -> None:
    figure.set_size_inches(11, 4)
    shares, alarms = figure.subplots(1, 2, width_ratios=(3, 2))
    tasks, places = scored.tasks, np.arange(len(scored.tasks))
    for shift, name, colour, label in (
        (-0.2, "event_recall", _BLUE, "recall"),
        (0.2, "event_precision", _ORANGE, "precision"),
    ):
        estimates = [_score(scored, task, name) for task in tasks]
        _bars(shares, places + shift, estimates, 0.38, color=colour, label=label)
    shares.set(title="Events told right", xticks=places, ylim=(0, 1.05))
    shares.set_xticklabels(tasks)
    shares.axhline(0.9, color=_GREY, linewidth=0.8, linestyle=":")
    shares.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2, frameon=False)
    estimates = [_score(scored, task, "false_alarms_per_quiet_hour") for task in tasks]
    _bars(alarms, places, estimates, 0.6, color=_GREY)
    alarms.set(title="False alarms a quiet hour", xticks=places)
    alarms.set_xticklabels(tasks, rotation=30)
    alarms.axhline(2, color=_GREY, linewidth=0.8, linestyle=":")


def _confusion(figure: Any, scored: ScoredRun) -> None:
    columns = [ALL, *scored.tasks]
    figure.set_size_inches(2.6 * len(columns), 3.1)
    names = [state.name.title() for state in State]
    for axis, task in zip(np.atleast_1d(figure.subplots(1, len(columns), sharey=True)), columns, strict=True):
        counts = np.array(scored.confusion(task), dtype=float)
        whole = counts.sum(axis=1, keepdims=True)
        percent = np.divide(100 * counts, whole, out=np.zeros_like(counts), where=whole > 0)
        axis.imshow(percent, vmin=0, vmax=100, cmap="Blues")
        for row, column in np.ndindex(*counts.shape):
            text = f"{percent[row, column]:.1f}" if whole[row, 0] else "none"
            colour = "white" if percent[row, column] > 55 else "black"
            axis.text(column, row, text, ha="center", va="center", color=colour)
        axis.set(title=task, xticks=range(3), yticks=range(3), xlabel="told")
        axis.set_xticklabels(names, fontsize=8)
        axis.set_yticklabels(names, fontsize=8)
    figure.axes[0].set_ylabel("gold")


def _timing(figure: Any, scored: ScoredRun) -> None:
    figure.set_size_inches(11, 4)
    histogram, onsets = figure.subplots(1, 2, width_ratios=(3, 2))
    edges_s = np.arange(-5.5, 6)
    counts = np.array([np.histogram(_delays_s(scored, task), bins=edges_s)[0] for task in scored.tasks])
    golds = [max(1, scored.total("onsets/gold", scored.chosen(task))) for task in scored.tasks]
    percent = 100 * counts / np.array(golds)[:, None]
    histogram.imshow(
        percent, vmin=0, vmax=100, cmap="Blues", aspect="auto", extent=(-5.5, 5.5, len(golds) - 0.5, -0.5)
    )
    for row, column in zip(*counts.nonzero(), strict=True):
        shade = "white" if percent[row, column] > 55 else "black"
        histogram.text(column - 5, row, f"{counts[row, column]}", ha="center", va="center", color=shade)
    histogram.set(
        title="Told minus gold: pairs within 5 s",
        xlabel="s, rounded",
        xticks=range(-5, 6),
        yticks=range(len(golds)),
    )
    histogram.set_yticklabels(
        [f"{task}\n{gold} gold" for task, gold in zip(scored.tasks, golds, strict=True)], fontsize=8
    )
    colours = (_BLUE, _ORANGE, _GREEN, "#b0413e", "#7a5ea8")
    for task, colour in zip(scored.tasks, colours, strict=False):
        for kind, line in (("recall", "-"), ("precision", "--")):
            values = [
                _score(scored, task, f"onset_{kind}_{tolerance_s}s").value
                for tolerance_s in ONSET_TOLERANCES_S
            ]
            onsets.plot(ONSET_TOLERANCES_S, values, line, marker="o", color=colour, markersize=4)
        onsets.plot([], [], color=colour, label=task)
    onsets.plot([], [], "-", color="black", label="recall")
    onsets.plot([], [], "--", color="black", label="precision")
    onsets.set(title="Onsets", xlabel="tolerance, s", xticks=ONSET_TOLERANCES_S, ylim=(0, 1.05))
    onsets.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))


def _delays_s(scored: ScoredRun, task: str) -> list[float]:
    delays: list[float] = []
    for index in scored.chosen(task):
        record = scored.run.records[index]
        sides = [
            [one.end_ms for one in rounds[record.num_past_rounds :] if one.state is State.RESPONSE]
            for rounds in (record.told, record.gold)
        ]
        pairs = match_times(sides[0], sides[1], _NEAR_MS)
        delays.extend((sides[0][told] - sides[1][gold]) / 1000 for told, gold in pairs)
    return delays


def _offsets(figure: Any, scored: ScoredRun) -> None:
    figure.set_size_inches(11, 3.6)
    states, spans = figure.subplots(1, 2, width_ratios=(3, 2))
    offsets_s = sorted({record.start_offset_s for record in scored.run.records})
    places, width = np.arange(len(scored.tasks)), 0.8 / len(offsets_s)
    shades = [_BLUE, _GREEN, _ORANGE, _GREY]
    for number, offset_s in enumerate(offsets_s):
        at = places + (number - (len(offsets_s) - 1) / 2) * width
        estimates = [_score(scored, task, "state_macro_f1", offset_s) for task in scored.tasks]
        style = {"color": shades[number % len(shades)], "label": f"{offset_s / 3600:g} h"}
        _bars(states, at, estimates, width * 0.95, **style)
    states.set(title="State macro-F1 by start offset", xticks=places, ylim=(0, 1.05))
    states.set_xticklabels(scored.tasks)
    states.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=4, frameon=False)
    ours = np.arange(len(offsets_s))
    _bars(spans, ours, [_score(scored, "grounding", "span_miou", one) for one in offsets_s], 0.6, color=_BLUE)
    spans.set(title="Span mIoU of grounding", xticks=ours, ylim=(0, 1.05))
    spans.set_xticklabels([f"{one / 3600:g} h" for one in offsets_s])
