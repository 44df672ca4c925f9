"""The ablations' report, and its picture."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from models.evaluation.scores import SCORES
from models.vlm.state import State

_SCORES = {score.name: score for score in SCORES}
_DRAWN = ("event_recall", "event_precision", "state_macro_f1", "false_alarms_per_quiet_hour")


def write(results: Mapping[str, Any]) -> str:
    """The whole of ablations.md."""
    return (
        "\n\n".join(
            part.strip() for part in (_head(results), _losses(results), *_tables(results), _reading())
        )
        + "\n"
    )


def draw(results: Mapping[str, Any], path: Path) -> None:
    """A panel for each of a few scores over all tasks: a dot for each seed, an arm a row."""
    arms = results["arms"]
    figure, panels = plt.subplots(
        1, len(_DRAWN), figsize=(3 * len(_DRAWN), 3), sharey=True, layout="constrained"
    )
    for panel, name in zip(panels, _DRAWN, strict=True):
        for row, arm in enumerate(arms):
            values = [value for value in arm["scores"]["all"].get(name, ()) if value is not None]
            panel.plot(values, [row] * len(values), "o", color="#0b6e4f" if row == 0 else "#b23a48")
        panel.set_title(_SCORES[name].label, fontsize=9)
        panel.set_xlim(left=0)
        panel.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(arms)), [arm["name"] for arm in arms])
    panels[0].invert_yaxis()
    figure.suptitle(f"Short runs of {results['plan']['steps']} steps; a dot is a seed", fontsize=10)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _head(results: Mapping[str, Any]) -> str:
    plan, at, streams = results["plan"], results["environment"], results["plan"]["streams"]
    minutes = [value for arm in results["arms"] for value in arm["minutes"].values()]
    conditions = _prose(f"""
        **Short runs**: {plan["steps"]} steps of {results["batch_size"]} clips each, {min(minutes):.1f} to
        {max(minutes):.1f} minutes of training a run. They tell arms apart where these differ much, and nothing about
        where long runs end. Every arm begins with the same weights, whose vision tower is warmed up, and draws its
        clips from the same {len(plan["seeds"])} seeds. What is not named is as in the recipe `tiny`, the learning rate
        included, which is not tuned for any arm. {at["num_cores"]} cores of {at["cpu"]}; torch {at["torch"]},
        transformers {at["transformers"]}, commit `{at["commit"]}`.
    """)
    scored = _prose(f"""
        Scored free-running through the serving engine, at the default window, on the `{streams["split"]}` split of the
        watched place: {streams["lively_streams"]} lively streams of {streams["lively_rounds"]} frames and
        {streams["quiet_streams"]} quiet ones of {streams["quiet_minutes"]:g} minutes a task (grounding: each lively one
        from three start times). The scores are defined in [evaluation.md](../evaluation.md).
    """)
    return f"""# Ablations: short runs

    make bench-ablations

Written by that command: do not edit. The numbers are in [ablations.json](ablations.json).

{conditions}

{scored}

![scores of all tasks](ablations.png)"""


def _losses(results: Mapping[str, Any]) -> str:
    rows = [
        [
            arm["name"],
            arm["about"],
            *(
                f"{count:,} ({weight:.2f})" if count else "0"
                for count, weight in zip(arm["state_counts"], arm["state_weights"], strict=True)
            ),
        ]
        for arm in results["arms"]
    ]
    note = _prose("""
        Rounds of each state that a run learns from, estimated on its first clips, and in brackets the weight that the
        loss gives them beside the focal factor. The frequency's are of all rounds; those of the batches vary about
        them. The larger the counts, the closer class-balanced weights come to 1.
    """)
    return (
        f"## Arms\n\n{_table(['arm', 'what it is', *(s.name.capitalize() for s in State)], rows)}\n\n{note}"
    )


def _tables(results: Mapping[str, Any]) -> list[str]:
    arms = results["arms"]
    tasks = list(arms[0]["scores"])
    sections = []
    for task in sorted(tasks, key=lambda task: task != "all"):
        rows = []
        for name in arms[0]["scores"][task]:
            row = [_SCORES[name].label + (f" ({_SCORES[name].unit})" if _SCORES[name].unit else "")]
            for arm in arms:
                row.append(
                    _cell(arm["scores"][task][name], arm.get("differences", {}).get(task, {}).get(name))
                )
            rows.append(row)
        sections.append(f"## {task}\n\n{_table(['score', *(arm['name'] for arm in arms)], rows)}")
    return sections


def _cell(values: Sequence[float | None], difference: Sequence[float | None] | None) -> str:
    shown = " / ".join("-" if value is None else f"{value:.3f}" for value in values)
    if difference is None or difference[1] is None or difference[2] is None:
        return shown
    differs = not difference[1] <= 0 <= difference[2]
    return f"{shown} {'**' if differs else ''}[{difference[1]:+.3f}, {difference[2]:+.3f}]{'**' if differs else ''}"


def _reading() -> str:
    return "## How to read it\n\n" + _prose("""
        A value for each seed. In brackets the 95 % interval of the difference to the reference, both seeds' counts
        together, over the same resampled streams; bold where it does not hold 0. It covers the choice of streams, not
        that of seeds: where the two seeds lie further apart than the arms, the arms are not told apart. Many intervals
        stand here, so that some are bold by chance. The arm without Standby cannot reach the others' state macro-F1 or
        any lead of an OPEN; what it is compared by is what it tells.
    """)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _prose(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), 120, break_long_words=False, break_on_hyphens=False)
