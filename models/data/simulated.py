"""Training samples from simulated scenes: the real frame sampler over rendered pictures, labelled.

`python -m models.data.simulated --preview out.png --seed N` draws a sample with its labels.
"""

import argparse
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from models.data.instructions import TASKS, Query, queries
from models.data.labels import gold_events, label
from models.data.render import render_view
from models.data.sample import Sample
from models.data.scene import COLOURS, NUM_SPOTS, SPLITS, Phase, SceneScript, View, scene_rng
from models.vlm.frame_sampler import FrameSampler, SamplerConfig

SOURCE = "simulated"
CANDIDATE_INTERVAL_MS = 100
MAX_OFFSET_S = 1_000_000
NEGATIVE_SHARE = 0.12
_ATTEMPTS = 4

_COLOUR_CLASSES = len(COLOURS) + 1
# What the auxiliary head reads off a frame; each can be told from that frame alone. Name -> classes.
TRUTH_COLUMNS: dict[str, int] = {
    "car_colour": _COLOUR_CLASSES,
    "car_phase": len(Phase),
    "walker_colour": _COLOUR_CLASSES,
    # 0 nobody, else 1 + row * 4 + column of a 3 x 4 grid.
    "walker_cell": 13,
    "carrying": 2,
    "left_standing": _COLOUR_CLASSES,
    "right_standing": _COLOUR_CLASSES,
    "num_persons": NUM_SPOTS + 2,
    "parcel": 2,
    "light": 2,
    "door_open": 2,
}
TRUTH_SIZES = tuple(TRUTH_COLUMNS.values())


def truth_of(view: View) -> tuple[int, ...]:
    """One class per column of TRUTH_COLUMNS."""
    walker = view.walker if view.walker is not None and view.walker.countable else None
    cell = 0
    if walker is not None:
        column = int(np.clip(walker.x // 28, 0, 3))
        row = 0 if walker.y < 58 else 1 if walker.y < 74 else 2
        cell = 1 + row * 4 + column
    car = "" if view.car_phase == Phase.ABSENT else view.car
    return (
        _colour_class(car),
        list(Phase).index(view.car_phase),
        _colour_class(walker.colour if walker is not None else ""),
        cell,
        int(walker is not None and walker.carrying),
        *(_colour_class(colour) for colour in view.standing),
        len(view.persons),
        int(view.parcel),
        int(view.light),
        int(view.door_open),
    )


def make_sample(
    seed: int,
    split: str,
    num_frames: int = 24,
    budget_hw: tuple[int, int] = (84, 112),
    task: str | None = None,
    sampler: SamplerConfig | None = None,
) -> Sample:
    """One labelled clip, deterministic in its arguments; the same seed in two splits gives unrelated clips.

    The clip begins in a quiet moment of a scene that may already hold people, a car, a parcel. `task` None
    draws one of the five evenly.
    """
    if num_frames < 1:
        raise ValueError(f"num_frames {num_frames}: must be at least 1")
    rng = scene_rng(split, seed, "sample")
    chosen = task if task is not None else str(rng.choice(TASKS))
    candidates = queries(chosen)
    negative = chosen not in ("narration", "qa") and rng.random() < NEGATIVE_SHARE
    for _ in range(_ATTEMPTS):
        script, begin_ms = _draw_scene(rng, num_frames)
        times_ms = keep_times(script, begin_ms, num_frames, sampler)
        fitting = [q for q in candidates if _tells(script, times_ms, q) != negative]
        if fitting:
            break
    query = _draw_query(rng, fitting or candidates)
    instruction = str(rng.choice(query.phrasings))
    rounds = label(script, times_ms, query)
    views = [script.view(time_ms) for time_ms in times_ms]
    return Sample(
        task=chosen,
        instruction=instruction,
        frames=_pictures(rng, views, script.look, budget_hw),
        rounds=rounds,
        truth=np.array([truth_of(view) for view in views], dtype=np.int64),
        truth_sizes=TRUTH_SIZES,
        source=SOURCE,
    )


def keep_times(
    script: SceneScript, begin_ms: int, num_frames: int, sampler: SamplerConfig | None = None
) -> list[int]:
    """Media times of the frames that the frame sampler keeps of a 10 fps camera on this scene."""
    gate = FrameSampler(sampler)
    kept: list[int] = []
    time_ms = begin_ms
    seen: View | None = None
    picture: np.ndarray | None = None
    while len(kept) < num_frames:
        # What comes too soon is never kept, so it need not be drawn.
        if gate.due(time_ms):
            view = script.view(time_ms)
            if picture is None or view != seen:
                seen, picture = view, render_view(view, script.look, 84, 112)
            if gate.keep(time_ms, picture):
                kept.append(time_ms)
        time_ms += CANDIDATE_INTERVAL_MS
    return kept


def _draw_scene(rng: np.random.Generator, num_frames: int) -> tuple[SceneScript, int]:
    """A scene and a quiet moment to begin at, at media times as a camera may have after days."""
    lead_s = 12
    # Mostly lively, so that a clip holds something to learn; some with the long pauses of real places.
    quiet = float(rng.uniform(0.4, 1.2) if rng.random() < 0.75 else rng.uniform(1.2, 2.5))
    script = SceneScript.random(rng, lead_s + num_frames * 1.0 + 2, quiet=quiet)
    begins = [t for t in range(0, lead_s * 1000, 50) if not script.busy_at(t)]
    begin_ms = int(rng.choice(begins)) + int(rng.integers(50)) if begins else 0
    if script.busy_at(begin_ms):
        begin_ms -= begin_ms % 50
    draw = rng.random()
    if draw < 0.08:
        media_ms = 0
    elif draw < 0.8:
        media_ms = int(rng.integers(600_000))
    else:
        media_ms = round(float(np.exp(rng.uniform(np.log(600), np.log(MAX_OFFSET_S)))) * 1000)
    return script.shifted(media_ms - begin_ms), media_ms


def _tells(script: SceneScript, times_ms: Sequence[int], query: Query) -> bool:
    return bool(gold_events(script, times_ms, query))


def _draw_query(rng: np.random.Generator, candidates: Sequence[Query]) -> Query:
    """First what is asked, evenly, then whether of one colour: colours must not crowd out the rest."""
    families = sorted({query.family for query in candidates}, key=repr)
    family = families[int(rng.integers(len(families)))]
    members = [query for query in candidates if query.family == family]
    plain = [query for query in members if not query.colour]
    coloured = [query for query in members if query.colour]
    pool = plain if plain and (not coloured or rng.random() < 0.55) else coloured
    return pool[int(rng.integers(len(pool)))]


def _colour_class(colour: str) -> int:
    return 1 + COLOURS.index(colour) if colour else 0


_RESIZERS = (
    Image.Resampling.BOX,
    Image.Resampling.BILINEAR,
    Image.Resampling.BICUBIC,
    Image.Resampling.LANCZOS,
)


def _pictures(
    rng: np.random.Generator, views: Sequence[View], look: int, budget_hw: tuple[int, int]
) -> np.ndarray:
    """Rendered twice as large and brought to the budget as by a camera: codec, resizing, light, noise."""
    height, width = budget_hw
    quality = int(rng.integers(35, 85)) if rng.random() < 0.3 else None
    resizer = _RESIZERS[int(rng.integers(len(_RESIZERS)))]
    gain = rng.uniform(0.85, 1.15) * rng.uniform(0.96, 1.04, size=3)
    offset = rng.uniform(-12, 12)
    noise = int(rng.integers(0, 8))
    frames = np.empty((len(views), height, width, 3), dtype=np.float32)
    last: View | None = None
    for index, view in enumerate(views):
        if view == last:
            frames[index] = frames[index - 1]
            continue
        last = view
        image = Image.fromarray(render_view(view, look, 2 * height, 2 * width))
        if quality is not None:
            buffer = io.BytesIO()
            image.save(buffer, "jpeg", quality=quality)
            image = Image.open(buffer)
        frames[index] = np.asarray(image.resize((width, height), resizer))
    frames *= gain.astype(np.float32)
    frames += np.float32(offset)
    if noise:
        frames += rng.integers(-noise, noise + 1, size=frames.shape, dtype=np.int8)
    np.clip(frames, 0, 255, out=frames)
    return frames.astype(np.uint8)


def _colour_of(name: str) -> tuple[int, int, int]:
    return {"SILENCE": (90, 90, 90), "STANDBY": (190, 120, 0), "RESPONSE": (0, 130, 40)}[name]


def contact_sheet(sample: Sample, columns: int = 6, zoom: int = 2) -> Image.Image:
    """The frames of a sample with their time tags, states and texts, for people to look at."""
    count, height, width = sample.frames.shape[:3]
    cell_w, cell_h, head = width * zoom + 6, height * zoom + 34, 22
    rows = -(-count // columns)
    sheet = Image.new("RGB", (cell_w * columns, head + cell_h * rows), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    draw.text((4, 4), f"{sample.task}: {sample.instruction}", fill=(0, 0, 0))
    for index, (frame, turn) in enumerate(zip(sample.frames, sample.rounds, strict=True)):
        x, y = index % columns * cell_w, head + index // columns * cell_h
        picture = Image.fromarray(frame).resize((width * zoom, height * zoom), Image.Resampling.NEAREST)
        sheet.paste(picture, (x, y))
        tag = f"{turn.start_ms / 1000:g}s-{turn.end_ms / 1000:g}s {turn.state.name}"
        draw.text((x + 2, y + height * zoom), tag, fill=_colour_of(turn.state.name))
        draw.text((x + 2, y + height * zoom + 13), turn.text, fill=(0, 0, 0))
    return sheet


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Look at a simulated training sample.")
    parser.add_argument("--preview", required=True, help="PNG file to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", choices=SPLITS, default="train")
    parser.add_argument("--task", choices=TASKS, default=None)
    parser.add_argument("--frames", type=int, default=24)
    options = parser.parse_args(argv)
    sample = make_sample(options.seed, options.split, options.frames, task=options.task)
    contact_sheet(sample).save(options.preview)


if __name__ == "__main__":
    main()
