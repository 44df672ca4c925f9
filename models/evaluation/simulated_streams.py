"""Evaluation streams from scenes of the first simulator."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
from PIL import Image

from models.data.instructions import Query, queries
from models.data.labels import Slots, gold_events, label, parse_text
from models.data.render import render_view
from models.data.scene import SceneScript, View, scene_rng
from models.data.simulated import NEGATIVE_SHARE, keep_times
from models.evaluation.camera import Camera
from models.evaluation.stream import EvaluationStream
from models.evaluation.stream_plan import StreamPlan
from models.vlm.frame_size import FrameBudget

_SCENE_HEIGHT, _SCENE_WIDTH = 84, 112
_LEAD_S = 12
# Pauses this many times as long as usual leave minutes in which nothing happens.
_QUIET = 25.0


class SimulatedStreams:
    """The streams of a plan, in pictures of a model's budget. Deterministic in its arguments.

    A later start is the same scene, in the same pictures.
    """

    def __init__(self, plan: StreamPlan, budget: FrameBudget) -> None:
        self._plan = plan
        self._size = budget.fit(_SCENE_HEIGHT, _SCENE_WIDTH)

    @property
    def settings(self) -> dict[str, Any]:
        return {"source": "simulated", "frame_size": list(self._size), **asdict(self._plan)}

    @property
    def num_streams(self) -> int:
        return self._plan.num_streams

    def parse(self, task: str, text: str) -> tuple[Slots | None, ...]:
        return parse_text(task, text)

    def streams(self) -> Iterator[EvaluationStream]:
        num_rounds, quiet_ms = self._plan.lively_rounds, self._plan.quiet_ms
        for task, seed, offset_s in self._plan.lively:
            rng = scene_rng(self._plan.split, seed, f"evaluation lively {task}")
            # A frame lasts half a second to a second.
            quiet = float(rng.uniform(0.6, 1.6))
            script = SceneScript.random(rng, _LEAD_S + num_rounds + 2, quiet=quiet)
            yield self._stream("lively", task, seed, offset_s, rng, script, num_rounds)
        for task, seed, offset_s in self._plan.quiet:
            rng = scene_rng(self._plan.split, seed, f"evaluation quiet {task}")
            script = SceneScript.random(rng, _LEAD_S + quiet_ms / 1000 + 2, quiet=_QUIET)
            # At 1 to 2 frames a second there are at least as many frames as seconds.
            yield self._stream("quiet", task, seed, offset_s, rng, script, max(1, quiet_ms // 1000))

    def _stream(
        self,
        kind: str,
        task: str,
        seed: int,
        offset_s: int,
        rng: np.random.Generator,
        script: SceneScript,
        num_frames: int,
    ) -> EvaluationStream:
        times_ms = keep_times(script, _quiet_moment(rng, script), num_frames)
        query = _draw_query(rng, kind, task, script, times_ms)
        instruction = str(rng.choice(query.phrasings))
        camera = Camera.random(rng)
        shift_ms = offset_s * 1000 - times_ms[0]
        shifted = script.shifted(shift_ms)
        shifted_ms = [time_ms + shift_ms for time_ms in times_ms]

        def draw(view: View, height: int, width: int) -> Image.Image:
            return Image.fromarray(render_view(view, shifted.look, height, width))

        return EvaluationStream(
            stream_id=f"{self._plan.split}-{kind}-{task}-{seed}-at-{offset_s}s",
            group=f"{kind}-{task}-{seed}",
            kind=kind,
            task=task,
            instruction=instruction,
            rounds=label(shifted, shifted_ms, query),
            start_offset_s=offset_s,
            frames=lambda: camera.pictures(
                ((shifted.view(time_ms), 1.0) for time_ms in shifted_ms), draw, self._size
            ),
        )


def _draw_query(
    rng: np.random.Generator, kind: str, task: str, script: SceneScript, times_ms: list[int]
) -> Query:
    candidates = list(queries(task))
    if kind == "lively" and rng.random() >= NEGATIVE_SHARE:
        candidates = [query for query in candidates if gold_events(script, times_ms, query)] or candidates
    # First what is asked, then of which colour: colours must not crowd out the rest.
    families = sorted({query.family for query in candidates}, key=repr)
    family = families[int(rng.integers(len(families)))]
    members = [query for query in candidates if query.family == family]
    return members[int(rng.integers(len(members)))]


def _quiet_moment(rng: np.random.Generator, script: SceneScript) -> int:
    moments = [time_ms for time_ms in range(0, _LEAD_S * 1000, 50) if not script.busy_at(time_ms)]
    return int(rng.choice(moments)) if moments else 0
