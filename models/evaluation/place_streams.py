"""Evaluation streams from the watched place: questions before, during and after, and what training never shows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from PIL import Image

from models.data.finding import BrokenSample
from models.data.place.clip import Clip, draw_clip
from models.data.place.data_set import SIMULATOR_VERSION
from models.data.place.layout import PLACE_HEIGHT, PLACE_WIDTH
from models.data.place.picture import draw
from models.data.place.query import TASKS
from models.data.place.split import split_rng
from models.data.place.view import View
from models.data.place.wording import Slots, parse_text
from models.evaluation.camera import Camera
from models.evaluation.stream import EvaluationStream
from models.evaluation.stream_plan import StreamPlan
from models.vlm.frame_sampler import SamplerConfig
from models.vlm.frame_size import FrameBudget

SOURCE = "place"
# How calm, as `Director` means it: ordinary life, and minutes in which nothing happens.
_LIVELY, _QUIET = 1.0, 60.0


class PlaceStreams:
    """The streams of a plan, in pictures of a model's budget. Deterministic in its arguments.

    A later start is the same happening; clouds and wind go by the clock, so that pictures differ a little.
    """

    def __init__(self, plan: StreamPlan, budget: FrameBudget) -> None:
        self._plan = plan
        self._size = budget.fit(PLACE_HEIGHT, PLACE_WIDTH)

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "source": SOURCE,
            "simulator_version": SIMULATOR_VERSION,
            "frame_size": list(self._size),
            **asdict(self._plan),
        }

    @property
    def num_streams(self) -> int:
        return self._plan.num_streams

    def parse(self, task: str, text: str) -> tuple[Slots | None, ...]:
        return parse_text(task, text)

    def leave_out(self, broken: BrokenSample) -> None:
        raise broken

    def streams(self) -> Iterator[EvaluationStream]:
        for task, seed, offset_s in self._plan.lively:
            clip = draw_clip(
                _clip_seed(task, seed),
                self._plan.split,
                self._plan.lively_rounds,
                task,
                calm=_LIVELY,
                start_ms=offset_s * 1000,
            )
            yield self._stream("lively", seed, offset_s, clip)
        # At 1 to 2 frames a second there are at least as many frames as seconds.
        num_quiet, sampler = max(1, self._plan.quiet_ms // 1000), SamplerConfig()
        for task, seed, offset_s in self._plan.quiet:
            clip = draw_clip(
                _clip_seed(task, seed, is_quiet=True),
                self._plan.split,
                num_quiet,
                task,
                sampler,
                calm=_QUIET,
                start_ms=offset_s * 1000,
            )
            yield self._stream("quiet", seed, offset_s, clip)

    def _stream(self, kind: str, seed: int, offset_s: int, clip: Clip) -> EvaluationStream:
        script = clip.script
        camera = Camera.random(split_rng(self._plan.split, seed, f"evaluation {kind} {clip.task}"))

        def draw_view(view: View, height: int, width: int) -> Image.Image:
            return draw(view, script.layout, script.look, height, width)

        return EvaluationStream(
            stream_id=f"{self._plan.split}-{kind}-{clip.task}-{seed}-at-{offset_s}s",
            group=f"{kind}-{clip.task}-{seed}",
            kind=kind,
            task=clip.task,
            instruction=clip.instruction,
            rounds=clip.rounds,
            start_offset_s=offset_s,
            num_past_rounds=clip.first_live,
            tags=tuple(f"held-out {name}" for name in clip.held_out),
            frames=lambda: camera.pictures(
                ((script.view(time_ms), script.look.exposure(time_ms)) for time_ms in clip.times_ms),
                draw_view,
                self._size,
            ),
        )


def _clip_seed(task: str, seed: int, *, is_quiet: bool = False) -> int:
    """No two streams of a plan show the same scene, but for their start."""
    return (seed * 2 + is_quiet) * len(TASKS) + TASKS.index(task)
