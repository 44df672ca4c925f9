"""All results of a run, and their way to JSON and back."""

from __future__ import annotations

import json
import types
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

from tests.bench.age import Aging
from tests.bench.engine_load import Load
from tests.bench.environment import Environment
from tests.bench.limit import Flops, Limit
from tests.bench.rebuild import Rebuild
from tests.bench.round_cost import WindowCost
from tests.bench.two_cores import TwoCores
from tests.bench.window_price import WindowPrice


@dataclass(frozen=True)
class Results:
    environment: Environment
    duration_s: float
    cpu_share: float
    """CPU time over wall time while rounds were timed: 1 on a quiet machine."""
    round_tokens: int
    pinned_tokens: int
    checkpoint_window_rounds: int
    flops: dict[str, Flops]
    """Of one quiet round alone, by window length."""
    windows: tuple[WindowCost, ...]
    two_cores: tuple[TwoCores, ...]
    limits: tuple[Limit, ...]
    aging: Aging
    loads: tuple[Load, ...]
    price: WindowPrice
    rebuild: Rebuild
    quality_commit: str
    """Of the checkpoint that `price` and `rebuild` are of, which may have been measured later than the times."""

    def window(self, window_rounds: int) -> WindowCost:
        """The one of this length, else the longest one measured that is shorter."""
        return max(
            (cost for cost in self.windows if cost.window_rounds <= window_rounds),
            key=lambda cost: cost.window_rounds,
        )


def to_json(results: Results) -> str:
    return json.dumps(_rounded(asdict(results)), indent=1) + "\n"


def from_json(text: str) -> Results:
    results: Results = _build(Results, json.loads(text))
    return results


def _rounded(value: Any) -> Any:
    """Six figures are more than any of this is good for."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(part) for part in value]
    return value


def _build(kind: Any, value: Any) -> Any:
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return kind(**{field.name: _build(hints[field.name], value[field.name]) for field in fields(kind)})
    if isinstance(kind, types.UnionType):
        return None if value is None else _build(get_args(kind)[0], value)
    if get_origin(kind) is tuple:
        return tuple(_build(get_args(kind)[0], part) for part in value)
    if get_origin(kind) is dict:
        return {key: _build(get_args(kind)[1], part) for key, part in value.items()}
    return value
