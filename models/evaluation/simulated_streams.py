"""Evaluation streams from simulated scenes: lively ones, long quiet ones, and the same ones hours later."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image

from models.data.instructions import TASKS, queries
from models.data.labels import Slots, gold_events, label, parse_text
from models.data.render import render_view
from models.data.scene import SPLITS, SceneScript, scene_rng
from models.data.simulated import NEGATIVE_SHARE, keep_times
from models.evaluation.stream import EvaluationStream
from models.vlm.frame_size import FrameBudget

_SCENE_HEIGHT, _SCENE_WIDTH = 84, 112
_LEAD_S = 12
# Pauses this many times as long as usual leave minutes in which nothing happens.
_QUIET = 25.0
_NUM_NOISES = 4


@dataclass(frozen=True)
class SimulatedPlan:
    """Which streams are drawn, of each task as many.

    In `lively_streams` of `lively_rounds` frames something happens all the time, and most ask for something that
    does; in `quiet_streams` of `quiet_minutes` hardly anything happens, and they ask for anything.
    `start_offsets_s`: media times at which streams begin; `grounding` runs every lively stream at each of them,
    the other tasks take them in turn. Seeds count from `first_seed`.
    """

    split: str = "validation"
    lively_streams: int = 24
    lively_rounds: int = 192
    quiet_streams: int = 20
    quiet_minutes: float = 18.0
    start_offsets_s: tuple[int, ...] = (0, 3_600, 360_000)
    first_seed: int = 0
    tasks: tuple[str, ...] = TASKS

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"split {self.split!r}: must be one of {', '.join(SPLITS)}")
        if unknown := sorted(set(self.tasks) - set(TASKS)):
            raise ValueError(f"tasks {unknown}: must be of {', '.join(TASKS)}")
        for name in ("lively_streams", "quiet_streams", "first_seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.lively_rounds < 1 or self.quiet_minutes <= 0:
            raise ValueError("lively_rounds must be at least 1 and quiet_minutes positive")
        if not self.start_offsets_s or min(self.start_offsets_s) < 0:
            raise ValueError(f"start_offsets_s must name times from 0 on, got {self.start_offsets_s}")


class SimulatedStreams:
    """The streams of a plan, in pictures of a model's budget. Deterministic in its arguments."""

    def __init__(self, plan: SimulatedPlan, budget: FrameBudget) -> None:
        self._plan = plan
        self._size = budget.fit(_SCENE_HEIGHT, _SCENE_WIDTH)

    @property
    def settings(self) -> dict[str, Any]:
        return {"source": "simulated", "frame_size": list(self._size), **asdict(self._plan)}

    @property
    def num_streams(self) -> int:
        plan = self._plan
        offsets = len(plan.start_offsets_s) - 1 if "grounding" in plan.tasks else 0
        lively = plan.lively_streams * (len(plan.tasks) + offsets)
        return lively + plan.quiet_streams * len(plan.tasks)

    def parse(self, task: str, text: str) -> tuple[Slots | None, ...]:
        return parse_text(task, text)

    def streams(self) -> Iterator[EvaluationStream]:
        plan = self._plan
        for number in range(plan.lively_streams):
            for task in plan.tasks:
                offsets = plan.start_offsets_s
                if task != "grounding":
                    offsets = (offsets[number % len(offsets)],)
                for offset_s in offsets:
                    yield self._lively(task, plan.first_seed + number, offset_s)
        for number in range(plan.quiet_streams):
            for task in plan.tasks:
                yield self._quiet(task, plan.first_seed + number)

    def _lively(self, task: str, seed: int, offset_s: int) -> EvaluationStream:
        rng = scene_rng(self._plan.split, seed, f"evaluation lively {task}")
        # A frame lasts half a second to a second.
        script = SceneScript.random(
            rng, _LEAD_S + self._plan.lively_rounds + 2, quiet=float(rng.uniform(0.6, 1.6))
        )
        begin_ms = _quiet_moment(rng, script)
        times_ms = keep_times(script, begin_ms, self._plan.lively_rounds)
        return self._stream("lively", task, seed, offset_s, rng, script, times_ms)

    def _quiet(self, task: str, seed: int) -> EvaluationStream:
        rng = scene_rng(self._plan.split, seed, f"evaluation quiet {task}")
        duration_ms = round(self._plan.quiet_minutes * 60_000)
        script = SceneScript.random(rng, _LEAD_S + duration_ms / 1000 + 2, quiet=_QUIET)
        begin_ms = _quiet_moment(rng, script)
        # At 1 to 2 frames a second there are at least as many frames as seconds.
        times_ms = keep_times(script, begin_ms, duration_ms // 1000)
        offsets = self._plan.start_offsets_s
        return self._stream("quiet", task, seed, offsets[seed % len(offsets)], rng, script, times_ms)

    def _stream(
        self,
        kind: str,
        task: str,
        seed: int,
        offset_s: int,
        rng: np.random.Generator,
        script: SceneScript,
        times_ms: list[int],
    ) -> EvaluationStream:
        candidates = list(queries(task))
        if kind == "lively" and rng.random() >= NEGATIVE_SHARE:
            candidates = [q for q in candidates if gold_events(script, times_ms, q)] or candidates
        # First what is asked, then of which colour: colours must not crowd out the rest.
        families = sorted({query.family for query in candidates}, key=repr)
        family = families[int(rng.integers(len(families)))]
        candidates = [query for query in candidates if query.family == family]
        query = candidates[int(rng.integers(len(candidates)))]
        instruction = str(rng.choice(query.phrasings))
        camera = _Camera.random(rng)
        shift_ms = offset_s * 1000 - times_ms[0]
        shifted = script.shifted(shift_ms)
        shifted_times_ms = [time_ms + shift_ms for time_ms in times_ms]
        return EvaluationStream(
            stream_id=f"{self._plan.split}-{kind}-{task}-{seed}-at-{offset_s}s",
            group=f"{kind}-{task}-{seed}",
            kind=kind,
            task=task,
            instruction=instruction,
            rounds=label(shifted, shifted_times_ms, query),
            start_offset_s=offset_s,
            frames=lambda: camera.pictures(shifted, shifted_times_ms, self._size),
        )


@dataclass(frozen=True, eq=False)
class _Camera:
    """Light and noise of one camera. Noise repeats every few frames, so that a still scene gives equal pictures."""

    gain: np.ndarray
    offset: float
    noise: int
    noise_seed: int

    @classmethod
    def random(cls, rng: np.random.Generator) -> _Camera:
        gain = rng.uniform(0.85, 1.15) * rng.uniform(0.96, 1.04, size=3)
        return cls(gain, float(rng.uniform(-12, 12)), int(rng.integers(0, 8)), int(rng.integers(2**31)))

    def pictures(
        self, script: SceneScript, times_ms: list[int], size: tuple[int, int]
    ) -> Iterator[np.ndarray]:
        height, width = size
        rng = np.random.default_rng(self.noise_seed)
        noises = [
            rng.integers(-self.noise, self.noise + 1, size=(height, width, 3)) for _ in range(_NUM_NOISES)
        ]
        seen, clean = None, np.zeros((height, width, 3))
        for index, time_ms in enumerate(times_ms):
            view = script.view(time_ms)
            if view != seen:
                seen = view
                large = Image.fromarray(render_view(view, script.look, 2 * height, 2 * width))
                clean = (
                    np.asarray(large.resize((width, height), Image.Resampling.BOX)) * self.gain + self.offset
                )
            yield np.clip(clean + noises[index % _NUM_NOISES], 0, 255).astype(np.uint8)


def _quiet_moment(rng: np.random.Generator, script: SceneScript) -> int:
    moments = [time_ms for time_ms in range(0, _LEAD_S * 1000, 50) if not script.busy_at(time_ms)]
    return int(rng.choice(moments)) if moments else 0
