"""The suite's scores as formulas over summed counts; each works on numbers and on arrays of resampled sums."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from models.evaluation.tally import ONSET_TOLERANCES_S
from models.vlm.state import State

Sums = Mapping[str, np.ndarray]
"""Count name -> sums, all of one shape; a count that never occurred may be missing."""

_HOUR_MS = 3_600_000


@dataclass(frozen=True)
class Score:
    """`formula` gives NaN where there is nothing to score. `tasks`: those it makes sense for; empty for all."""

    name: str
    label: str
    formula: Callable[[Sums], np.ndarray]
    unit: str = ""
    higher_is_better: bool | None = True
    tasks: frozenset[str] = frozenset()


def macro_f1(sums: Sums) -> np.ndarray:
    """Mean F1 over the states that occur in gold; exact per frame."""
    scores, present = [], []
    for state in State:
        right = _get(sums, f"states/{state.name}/{state.name}")
        gold = sum(_get(sums, f"states/{state.name}/{other.name}") for other in State)
        told = sum(_get(sums, f"states/{other.name}/{state.name}") for other in State)
        scores.append(np.where(gold > 0, 2 * right / np.maximum(gold + told, 1), 0.0))
        present.append(gold > 0)
    return _ratio(sum(scores), sum(np.asarray(one, dtype=np.float64) for one in present))


def _get(sums: Sums, name: str) -> np.ndarray:
    return np.asarray(sums.get(name, 0), dtype=np.float64)


def _ratio(part: np.ndarray | float, whole: np.ndarray | float) -> np.ndarray:
    part, whole = np.broadcast_arrays(np.asarray(part, np.float64), np.asarray(whole, np.float64))
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def _share(part: str, whole: str, scale: float = 1.0) -> Callable[[Sums], np.ndarray]:
    return lambda sums: _ratio(_get(sums, part) * scale, _get(sums, whole))


def _f1(right: np.ndarray, told: np.ndarray, gold: np.ndarray) -> np.ndarray:
    return _ratio(2 * right, told + gold)


def _false_alarms(sums: Sums) -> np.ndarray:
    return _ratio(
        (_get(sums, "alarms/open") + _get(sums, "alarms/told")) * _HOUR_MS, _get(sums, "alarms/quiet_ms")
    )


def _span_iou(*directions: str) -> Callable[[Sums], np.ndarray]:
    def formula(sums: Sums) -> np.ndarray:
        total = sum(_get(sums, f"spans/{one}_iou") for one in directions) / 1_000_000
        return _ratio(total, sum(_get(sums, f"spans/{one}_gold") for one in directions))

    return formula


def _timed_qa(sums: Sums) -> np.ndarray:
    right, told = _get(sums, "events/right"), _get(sums, "events/told")
    return _ratio(right, _get(sums, "events/gold") + told - right)


def _streampro(sums: Sums) -> np.ndarray:
    # P = worth / told and R = worth / gold, so that 2PR / (P + R) is this.
    worth = _get(sums, "streampro/worth") / 1000
    return _f1(worth, _get(sums, "events/told"), _get(sums, "events/gold"))


_GROUNDING, _QA = frozenset({"grounding"}), frozenset({"qa"})
_SPANNING = frozenset({"action", "event", "grounding"})

SCORES: tuple[Score, ...] = (
    Score("state_macro_f1", "state macro-F1", macro_f1),
    Score("event_recall", "event recall", _share("events/right", "events/gold")),
    Score("event_precision", "event precision", _share("events/right", "events/told")),
    *(
        score
        for tolerance_s in ONSET_TOLERANCES_S
        for score in (
            Score(
                f"onset_recall_{tolerance_s}s",
                f"onset recall ±{tolerance_s} s",
                _share(f"onsets/matched_{tolerance_s}s", "onsets/gold"),
            ),
            Score(
                f"onset_precision_{tolerance_s}s",
                f"onset precision ±{tolerance_s} s",
                _share(f"onsets/matched_{tolerance_s}s", "onsets/told"),
            ),
        )
    ),
    Score("false_alarms_per_quiet_hour", "false alarms a quiet hour", _false_alarms, "1/h", False),
    Score(
        "false_opens_per_quiet_hour",
        "of these OPEN",
        _share("alarms/open", "alarms/quiet_ms", _HOUR_MS),
        "1/h",
        False,
        _SPANNING,
    ),
    Score(
        "open_quiet_share",
        "quiet time with something open",
        _share("alarms/open_ms", "alarms/quiet_ms"),
        "",
        False,
        _SPANNING,
    ),
    Score("duplicate_share", "duplicate share", _share("events/duplicate", "events/told"), "", False),
    Score("time_diff_s", "TimeDiff", _share("time_diff/ms", "time_diff/turns", 0.001), "s", False),
    Score("streampro_f1", "StreamPro-F1", _streampro),
    Score(
        "open_share",
        "right CLOSEs that had an OPEN",
        _share("lead/opened", "lead/right"),
        "",
        True,
        _SPANNING,
    ),
    Score(
        "open_lead_s",
        "lead of OPEN over CLOSE",
        _share("lead/told_ms", "lead/opened", 0.001),
        "s",
        None,
        _SPANNING,
    ),
    Score(
        "gold_open_lead_s",
        "the same in gold",
        _share("lead/gold_ms", "lead/gold_opened", 0.001),
        "s",
        None,
        _SPANNING,
    ),
    Score("span_miou", "span mIoU", _span_iou("forward", "backward"), "", True, _GROUNDING),
    Score("span_miou_forward", "span mIoU forward", _span_iou("forward"), "", True, _GROUNDING),
    Score("span_miou_backward", "span mIoU backward", _span_iou("backward"), "", True, _GROUNDING),
    Score(
        "spurious_span_share", "spurious spans", _share("spans/spurious", "spans/told"), "", False, _GROUNDING
    ),
    Score("timed_qa_accuracy", "timed QA accuracy, false answers counted", _timed_qa, "", True, _QA),
    Score(
        "timed_qa_hits",
        "timed QA hits ±3 s, false answers free",
        _share("timed_qa/hits", "events/gold"),
        "",
        True,
        _QA,
    ),
    Score(
        "timed_qa_mean_share",
        "the same, mean of questions",
        _share("timed_qa/share", "timed_qa/questions", 1e-6),
        "",
        True,
        _QA,
    ),
)
