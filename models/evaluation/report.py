"""A run of the suite as tables: markdown for people, JSON for machines."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from models.data.place.query import TASKS
from models.evaluation.bootstrap import LEVEL, Difference, Estimate, Resampling
from models.evaluation.scores import SCORES, Score
from models.evaluation.suite import SuiteRun
from models.evaluation.tally import Parse, tally
from models.vlm.state import State

MIN_QUIET_HOURS = 5.0
ALL = "all"
_HOUR_MS = 3_600_000
_PART_SCORES = ("state_macro_f1", "event_recall", "event_precision", "span_miou", "timed_qa_accuracy")


@dataclass(frozen=True)
class ScoredRun:
    """A run with its counts and the resampling that its intervals come from."""

    run: SuiteRun
    parse: Parse

    @cached_property
    def tallies(self) -> list[Mapping[str, int]]:
        return [tally(record, self.parse) for record in self.run.records]

    @cached_property
    def resampling(self) -> Resampling:
        return Resampling(self.run.records)

    @cached_property
    def tasks(self) -> list[str]:
        present = {record.task for record in self.run.records}
        return [task for task in TASKS if task in present]

    def chosen(self, task: str, offset_s: int | None = None, kind: str | None = None) -> list[int]:
        """Indices of the records of a task (or of all), at one start offset or of one kind if that is given."""
        return [
            index
            for index, record in enumerate(self.run.records)
            if task in (ALL, record.task)
            and offset_s in (None, record.start_offset_s)
            and kind in (None, record.kind)
        ]

    def total(self, name: str, chosen: Sequence[int]) -> int:
        return sum(self.tallies[index].get(name, 0) for index in chosen)

    def estimate(self, score: Score, chosen: Sequence[int]) -> Estimate:
        return self.resampling.estimate(score, self.tallies, chosen)

    def confusion(self, task: str) -> list[list[int]]:
        """Rounds by gold (rows) and told (columns), in the order of `State`."""
        chosen = self.chosen(task)
        return [[self.total(f"states/{gold.name}/{told.name}", chosen) for told in State] for gold in State]

    def estimates(self) -> dict[str, dict[str, Estimate]]:
        """Task, or "all", -> score name -> estimate; scores that make no sense for a task are left out."""
        found = {
            task: {
                score.name: self.estimate(score, self.chosen(task))
                for score in SCORES
                if not score.tasks or task in score.tasks
            }
            for task in self.tasks
        }
        found[ALL] = {s.name: self.estimate(s, self.chosen(ALL)) for s in SCORES if not s.tasks}
        return found

    def parts(self) -> dict[str, dict[str, dict[str, Estimate]]]:
        """Task -> part of its streams (a kind, a tag, a start offset) -> score name -> estimate, of the main scores."""
        found: dict[str, dict[str, dict[str, Estimate]]] = {}
        for task in self.tasks:
            mine = [self.run.records[index] for index in self.chosen(task)]
            parts = {kind: self.chosen(task, kind=kind) for kind in sorted({one.kind for one in mine})}
            for tag in sorted({tag for one in mine for tag in one.tags}):
                parts[tag] = [i for i in self.chosen(task) if tag in self.run.records[i].tags]
            for offset_s in sorted({one.start_offset_s for one in mine}):
                parts[f"from {offset_s / 3600:g} h"] = self.chosen(task, offset_s)
            found[task] = {
                name: {
                    score.name: self.estimate(score, chosen)
                    for score in SCORES
                    if score.name in _PART_SCORES and (not score.tasks or task in score.tasks)
                }
                for name, chosen in parts.items()
            }
        return found

    def streams(self) -> dict[str, dict[str, float]]:
        """Task, or "all", -> how much was run."""
        table = {}
        for task in (*self.tasks, ALL):
            chosen = self.chosen(task)
            table[task] = {
                "streams": len(chosen),
                "groups": len({self.run.records[index].group for index in chosen}),
                "rounds": self.total("rounds", chosen),
                "hours": self.total("stream_ms", chosen) / _HOUR_MS,
                "quiet_hours": self.total("alarms/quiet_ms", chosen) / _HOUR_MS,
                "gold_events": self.total("events/gold", chosen),
                "told_events": self.total("events/told", chosen),
                "truncated_replies": self.total("truncated", chosen),
            }
        return table


@dataclass
class _Page:
    lines: list[str] = field(default_factory=list)

    def add(self, *lines: str) -> None:
        self.lines.extend((*lines, ""))

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        self.lines.append("| " + " | ".join(header) + " |")
        self.lines.append("|---" + "|---:" * (len(header) - 1) + "|")
        self.lines.extend("| " + " | ".join(row) + " |" for row in rows)
        self.lines.append("")


def write_report(directory: Path, scored: ScoredRun, plots: Mapping[str, str]) -> None:
    """`report.md` and `report.json`. `plots`: file name -> what it shows, in the order to show them."""
    run = scored.run
    estimates, parts, streams = scored.estimates(), scored.parts(), scored.streams()
    confusions = {task: scored.confusion(task) for task in (*scored.tasks, ALL)}
    page = _Page()
    page.add(f"# Evaluation: {run.settings['model']}")
    page.add(
        "Free-running through the serving engine, frame by frame, on the model's own outputs. In brackets the "
        f"{LEVEL:.0%} interval over streams. What each score means: docs/evaluation.md."
    )
    page.table(("setting", "value"), [(name, f"`{value}`") for name, value in _flat(run.settings)])
    page.add("## Scores")
    columns = (*scored.tasks, ALL)
    page.table(
        ("score", *columns),
        [
            (
                f"{score.label}{f' ({score.unit})' if score.unit else ''}",
                *(_shown(estimates[column].get(score.name)) for column in columns),
            )
            for score in SCORES
        ],
    )
    for plot, caption in plots.items():
        page.add(f"![{caption}]({plot})", "", caption)
    page.add("## By kind of stream, tag and start offset")
    for task, of_task in parts.items():
        names = [score.name for score in SCORES if any(score.name in one for one in of_task.values())]
        labels = [score.label for score in SCORES if score.name in names]
        rows = [(part, *(_shown(one.get(name)) for name in names)) for part, one in of_task.items()]
        page.table((task, *labels), rows)
    page.add("## States", "", "Rounds by gold (rows) and told (columns).")
    for task, confusion in confusions.items():
        page.table(
            (task, *(state.name.title() for state in State)),
            [
                (gold.name.title(), *(f"{count:,}" for count in row))
                for gold, row in zip(State, confusion, strict=True)
            ],
        )
    page.add("## Streams")
    names = list(streams[ALL])
    page.table(
        ("task", *(name.replace("_", " ") for name in names)),
        [(task, *(_number(one[name]) for name in names)) for task, one in streams.items()],
    )
    page.add(
        "Pictures that are equal byte for byte were encoded once; every round was decided by the engine."
    )
    short = [task for task in scored.tasks if streams[task]["quiet_hours"] < MIN_QUIET_HOURS]
    if short:
        page.add(
            f"**Fewer than {MIN_QUIET_HOURS:g} quiet hours** of {', '.join(short)}: false alarms an hour are "
            "rough there."
        )
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "report.md").write_text("\n".join(page.lines), encoding="utf-8")
    _write_json(
        directory / "report.json",
        {
            "settings": run.settings,
            "scores": {
                task: {name: asdict(one) for name, one in of.items()} for task, of in estimates.items()
            },
            "parts": {
                task: {part: {name: asdict(one) for name, one in of.items()} for part, of in of_task.items()}
                for task, of_task in parts.items()
            },
            "confusion": confusions,
            "streams": streams,
        },
    )


@dataclass(frozen=True)
class Comparison:
    """Two runs over the same streams. ValueError, naming what differs, where they are not the same."""

    before: ScoredRun
    after: ScoredRun

    def __post_init__(self) -> None:
        readings = [side.run.settings["source"].get("min_word_f1") for side in (self.before, self.after)]
        if readings[0] != readings[1]:
            raise ValueError(
                f"the two runs do not call the same texts right: min_word_f1 is {readings[0]} in one and "
                f"{readings[1]} in the other; run both with the same"
            )
        sides = [
            {one.stream_id: (one.instruction, one.num_past_rounds, one.gold) for one in side.run.records}
            for side in (self.before, self.after)
        ]
        if sides[0] != sides[1]:
            differing = sorted(
                key for key in {*sides[0], *sides[1]} if sides[0].get(key) != sides[1].get(key)
            )
            raise ValueError(
                f"the two runs are not over the same streams: {len(differing)} differ, {differing[0]} first; "
                "run both to the end over the same streams, by the same version"
            )

    def rows(self) -> list[tuple[str, Score, Estimate, Estimate, Difference]]:
        """(task, score, before, after, difference) for every score there is."""
        found = []
        for task in (*self.before.tasks, ALL):
            chosen = self.before.chosen(task)
            for score in SCORES:
                if (task == ALL and score.tasks) or (score.tasks and task not in score.tasks):
                    continue
                difference = self.before.resampling.difference(
                    score, self.before.tallies, self.after.tallies, chosen
                )
                one, other = self.before.estimate(score, chosen), self.after.estimate(score, chosen)
                found.append((task, score, one, other, difference))
        return found

    def to_json(self) -> dict[str, Any]:
        return {
            "before": self.before.run.settings,
            "after": self.after.run.settings,
            "scores": [
                {
                    "task": task,
                    "score": score.name,
                    "before": asdict(one),
                    "after": asdict(other),
                    "difference": asdict(difference),
                }
                for task, score, one, other, difference in self.rows()
            ],
        }


def write_comparison(directory: Path, comparison: Comparison) -> None:
    """`comparison.md` and `comparison.json`."""
    page = _Page()
    page.add(f"# {comparison.before.run.name} and {comparison.after.run.name}")
    page.add(
        f"The same streams, resampled together: {LEVEL:.0%} intervals of the difference are paired. A difference "
        "whose interval does not hold 0 is marked, with the side that is better where one is."
    )
    sides = [dict(_flat(side.run.settings)) for side in (comparison.before, comparison.after)]
    page.table(
        ("setting", comparison.before.run.name, comparison.after.run.name),
        [
            (name, f"`{sides[0].get(name)}`", f"`{sides[1].get(name)}`")
            for name in sides[0]
            if sides[0].get(name) != sides[1].get(name)
        ],
    )
    by_task: dict[str, list[tuple[str, ...]]] = {}
    for task, score, one, other, difference in comparison.rows():
        by_task.setdefault(task, []).append(
            (
                score.label,
                shown_value(one.value),
                shown_value(other.value),
                shown_with_interval(difference),
                verdict(score, difference),
            )
        )
    for task, rows in by_task.items():
        page.add(f"## {task}")
        page.table(("score", "A", "B", "B - A", ""), rows)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "comparison.md").write_text("\n".join(page.lines), encoding="utf-8")
    _write_json(directory / "comparison.json", comparison.to_json())


def verdict(score: Score, difference: Difference) -> str:
    """ "A better", "B better", "differs" or "" where the interval holds 0."""
    if math.isnan(difference.low) or difference.low <= 0 <= difference.high:
        return ""
    if score.higher_is_better is None:
        return "differs"
    return "B better" if (difference.value > 0) == score.higher_is_better else "A better"


def shown_value(value: float) -> str:
    """ "-" where there is nothing to score."""
    if math.isnan(value):
        return "-"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def shown_with_interval(one: Estimate | Difference) -> str:
    """ "-" where there, or on one of two sides, is nothing to score; without an interval where there is none."""
    if math.isnan(one.low):
        return shown_value(one.value)
    return f"{shown_value(one.value)} [{shown_value(one.low)}, {shown_value(one.high)}]"


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            rows.extend(_flat(value, f"{prefix}{name}."))
        else:
            rows.append((f"{prefix}{name}", value))
    return rows


def _shown(estimate: Estimate | None) -> str:
    if estimate is None or math.isnan(estimate.value):
        return ""
    return shown_with_interval(estimate)


def _number(value: float) -> str:
    return f"{value:,.2f}" if isinstance(value, float) else f"{value:,}"


def _write_json(path: Path, values: dict[str, Any]) -> None:
    # NaN is no JSON: where there is nothing to score, null.
    path.write_text(json.dumps(_without_nan(values), indent=1) + "\n", encoding="utf-8")


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value
