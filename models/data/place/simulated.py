"""Training samples from clips of the watched place, as a camera would have brought them."""

import io
from dataclasses import replace

import numpy as np
from PIL import Image

from models.data.place.clip import Clip, draw_clip, draw_others
from models.data.place.layout import PLACE_HEIGHT, PLACE_WIDTH
from models.data.place.picture import draw
from models.data.place.query import Query
from models.data.place.split import split_rng
from models.data.place.truth import TRUTH_SIZES, acts_of, answers_of, asked_of, coordinates_of, seen_of
from models.data.place.view import View
from models.data.sample import OtherInstruction, Sample, Truth
from models.vlm.frame_sampler import SamplerConfig

SOURCE = "simulated place"
_CALM = 8.0  # of the director: a minute may go by without anything
# How cameras bring a picture down to size; the plain mean of 2 x 2 pixels is by far the fastest.
_RESIZERS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)
_PLAIN_MEAN_SHARE = 0.6
_MAX_NOISE = 8


def make_sample(
    seed: int,
    split: str,
    num_frames: int = 24,
    budget_hw: tuple[int, int] = (PLACE_HEIGHT, PLACE_WIDTH),
    task: str | None = None,
    sampler: SamplerConfig | None = None,
    *,
    drills: bool = False,
    is_calm: bool = False,
    num_others: int = 0,
) -> Sample:
    """One labelled clip, deterministic in its arguments, drawn as by `draw_clip`. is_calm: with long pauses.
    num_others: of its `others`."""
    calm = _CALM if is_calm else None
    clip = draw_clip(seed, split, num_frames, task, sampler, calm=calm, drills=drills)
    others = draw_others(clip, split, num_others, split_rng(split, seed, "others"))
    sample = clip_sample(clip, budget_hw, split_rng(split, seed, "camera"))
    return replace(sample, others=tuple(_other_instruction(clip, *other) for other in others))


def clip_sample(
    clip: Clip, budget_hw: tuple[int, int], rng: np.random.Generator, *, is_clean: bool = False
) -> Sample:
    """The clip with its pictures; `is_clean` leaves the camera's faults out."""
    layout = clip.script.layout
    pictures = _clean_pictures(clip, budget_hw) if is_clean else _camera_pictures(rng, clip, budget_hw)
    return Sample(
        task=clip.task,
        instruction=clip.instruction,
        frames=pictures,
        rounds=clip.rounds,
        truth=Truth(
            seen=np.array([seen_of(view, layout) for view in clip.views], dtype=np.int64),
            coordinates=np.array([coordinates_of(view) for view in clip.views], dtype=np.float32),
            acts=acts_of(clip.script.told_acts, clip.views, clip.times_ms),
            asked=np.array(asked_of(clip.query), dtype=np.int64),
            answers=answers_of(clip.query, clip.views),
            sizes=TRUTH_SIZES,
        ),
        source=SOURCE,
        first_live=clip.first_live,
        since=clip.since,
        held_out=clip.held_out,
    )


def _other_instruction(clip: Clip, instruction: str, query: Query) -> OtherInstruction:
    states = [round_.state for round_ in clip.rounds_under(query)]
    return OtherInstruction(
        instruction,
        np.array(asked_of(query), dtype=np.int64),
        answers_of(query, clip.views),
        np.array(states, dtype=np.int64),
    )


def _clean_pictures(clip: Clip, budget_hw: tuple[int, int]) -> np.ndarray:
    frames = [draw(view, clip.script.layout, clip.script.look, *budget_hw) for view in clip.views]
    return np.stack([np.asarray(frame) for frame in frames])


def _camera_pictures(rng: np.random.Generator, clip: Clip, budget_hw: tuple[int, int]) -> np.ndarray:
    """Drawn twice as large and brought to the budget as by a camera: codec, resizing, light, noise."""
    height, width = budget_hw
    quality = int(rng.integers(35, 85)) if rng.random() < 0.3 else None
    resizer = None if rng.random() < _PLAIN_MEAN_SHARE else _RESIZERS[int(rng.integers(len(_RESIZERS)))]
    gain = rng.uniform(0.85, 1.15) * rng.uniform(0.96, 1.04, size=3)
    offset = rng.uniform(-12, 12)
    amplitude = int(rng.integers(0, _MAX_NOISE + 1))
    # One field of noise, of which each frame takes another part: as random as anyone can see, and quick.
    noise = rng.integers(-amplitude, amplitude + 1, size=(2 * height, 2 * width, 3), dtype=np.int16)
    corners = rng.integers(0, (height, width), size=(len(clip.views), 2))
    frames = np.empty((len(clip.views), height, width, 3), dtype=np.uint8)
    look, levels = clip.script.look, np.arange(256)
    last: View | None = None
    for index, (view, time_ms, (top, left)) in enumerate(
        zip(clip.views, clip.times_ms, corners, strict=True)
    ):
        if view != last:
            last, still = view, _still(clip, view, height, width, resizer, quality)
        table = np.clip(np.outer(gain * look.exposure(time_ms), levels) + offset, 0, 255).astype(np.uint8)
        noisy = (
            np.asarray(still.point(table.ravel().tolist())) + noise[top : top + height, left : left + width]
        )
        frames[index] = np.clip(noisy, 0, 255)
    return frames


def _still(
    clip: Clip, view: View, height: int, width: int, resizer: Image.Resampling | None, quality: int | None
) -> Image.Image:
    image = draw(view, clip.script.layout, clip.script.look, 2 * height, 2 * width)
    if quality is not None:
        buffer = io.BytesIO()
        image.save(buffer, "jpeg", quality=quality)
        image = Image.open(buffer)
    return image.reduce(2) if resizer is None else image.resize((width, height), resizer)
