"""A stretch of a place under one instruction: what is asked, which frames are kept, what is right to say."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from models.data.place.act import TOLD_KINDS
from models.data.place.director import Director
from models.data.place.instruction import wordings
from models.data.place.label import Gold, gold_events, label
from models.data.place.layout import held_out as layout_held_out
from models.data.place.picture import draw
from models.data.place.query import TASKS, Query, shown_queries
from models.data.place.script import Script
from models.data.place.split import HELD_OUT_COMBINATIONS, split_rng
from models.data.place.view import View
from models.data.sample import Round
from models.vlm.frame_sampler import FrameSampler, SamplerConfig

CAMERA_FPS = 10
MAX_OFFSET_S = 1_000_000
# No span that is asked for is longer, so that a window of 32 rounds holds its beginning when its end is told.
MAX_SPAN_ROUNDS = 24
NEGATIVE_SHARE = 0.25
LATE_SHARE = 0.4
_THING_SHARE = 0.15
# What else a clip could be asked: mostly for one thing in many.
_OTHER_TASKS = (*("event",) * 3, *("grounding",) * 3, *("qa",) * 2, "action", "narration")
_TELLING_OTHERS_SHARE = 0.85
_HELD_OUT_INSTRUCTION_SHARE = 0.5
_LATE_WORDING_SHARE = 0.5
_ATTEMPTS = 6
_OTHER_ATTEMPTS = 8
_LEAD_S = 15
# Who asks late does so after this many frames: all that has gone by is still in a window of 32 rounds. Drills stay
# further away from a full window, in which a question has long been answered.
_LATE_FRAMES = (4, 24)
_DRILLED_LATE_FRAMES = (4, 16)
_GATE_SIZE = (96, 128)  # whole blocks of the frame sampler, so that its means are fast

# How cameras are sampled: mostly as served by default, else slower, or steadily.
SAMPLERS: tuple[tuple[float, SamplerConfig], ...] = (
    (0.6, SamplerConfig(min_fps=1.0, max_fps=2.0)),
    (0.15, SamplerConfig(min_fps=1.0, max_fps=1.0)),
    (0.15, SamplerConfig(min_fps=0.5, max_fps=2.0)),
    (0.1, SamplerConfig(min_fps=0.5, max_fps=1.0)),
)


@dataclass(frozen=True)
class Clip:
    """times_ms: of the kept frames. first_live: the first of them after the instruction was given."""

    task: str
    instruction: str
    query: Query
    script: Script
    times_ms: tuple[int, ...]
    first_live: int
    held_out: tuple[str, ...]

    @cached_property
    def views(self) -> tuple[View, ...]:
        return tuple(self.script.view(time_ms) for time_ms in self.times_ms)

    @cached_property
    def rounds(self) -> tuple[Round, ...]:
        return self.rounds_under(self.query)

    @cached_property
    def golds(self) -> tuple[Gold, ...]:
        return self.golds_under(self.query)

    def rounds_under(self, query: Query) -> tuple[Round, ...]:
        """What would be right to say if this had been asked, at the same moment."""
        return label(self.script.told_acts, self.views, self.times_ms, query, self.first_live)

    def golds_under(self, query: Query) -> tuple[Gold, ...]:
        return gold_events(self.script.told_acts, self.views, self.times_ms, query, self.first_live)

    @cached_property
    def since(self) -> tuple[int, ...]:
        """Per round the earliest round that its reply names."""
        earliest = list(range(len(self.times_ms)))
        if self.task == "grounding":
            for gold in self.golds:
                index = self.times_ms.index(gold.frame_ms)
                earliest[index] = min(earliest[index], gold.since)
        return tuple(earliest)


def draw_clip(
    seed: int,
    split: str,
    num_frames: int,
    task: str | None = None,
    sampler: SamplerConfig | None = None,
    *,
    calm: float | None = None,
    start_ms: int | None = None,
    drills: bool = False,
) -> Clip:
    """One clip, deterministic in its arguments; the same seed in two splits gives unrelated ones.

    It begins where nothing that is told has only just begun, in a place that may already hold people, a car, a
    parcel. task, sampler, calm (see `Director`) and start_ms (media time of the first frame): None draws them.
    drills: what clips ask for that want one thing in many happens more often, more of them begin late, and who asks
    late has not waited for long.
    """
    if num_frames < 1:
        raise ValueError(f"num_frames {num_frames}: must be at least 1")
    if task is not None and task not in TASKS:
        raise ValueError(f"task {task!r}: must be one of {', '.join(TASKS)}")
    rng = split_rng(split, seed, "clip")
    chosen = task if task is not None else TASKS[int(rng.integers(len(TASKS)))]
    sampling = sampler if sampler is not None else _draw_sampler(rng)
    negative = chosen not in ("narration", "qa") and rng.random() < NEGATIVE_SHARE
    asked_late = num_frames > 2 * _LATE_FRAMES[0] and rng.random() < LATE_SHARE
    begin_ms = start_ms if start_ms is not None else _draw_offset_ms(rng, drills=drills)
    for _ in range(_ATTEMPTS):
        lively = calm if calm is not None else _draw_calm(rng, drills=drills)
        wanted = _draw_wanted(rng, chosen, split) if drills and not negative else None
        script = _draw_script(rng, split, num_frames / sampling.min_fps, lively, begin_ms, wanted)
        times_ms = tuple(keep_times(script, begin_ms, num_frames, sampling))
        first_live = int(rng.integers(*_late_frames(num_frames, drills=drills))) if asked_late else 0
        views = [script.view(time_ms) for time_ms in times_ms]
        query = _draw_query(rng, chosen, split, script, views, times_ms, first_live, negative, wanted)
        if query is not None:
            break
    else:
        query = _any_query(rng, chosen, split)
    instruction, instruction_held_out = _draw_instruction(rng, query, split, first_live > 0)
    clip = Clip(chosen, instruction, query, script, times_ms, first_live, ())
    combined = query.held_out or any(
        (gold.slots.kind, gold.slots.colour) in HELD_OUT_COMBINATIONS for gold in clip.golds
    )
    marks = {
        "layout": layout_held_out(script.layout),
        "combination": combined,
        "instruction": instruction_held_out,
    }
    held_out = tuple(name for name, is_held_out in marks.items() if is_held_out)
    return Clip(chosen, instruction, query, script, times_ms, first_live, held_out)


def draw_others(
    clip: Clip, split: str, num_others: int, rng: np.random.Generator
) -> tuple[tuple[str, Query], ...]:
    """What else the clip could be asked, with the words; most of it tells something there."""
    others = []
    for _ in range(num_others):
        task = _OTHER_TASKS[int(rng.integers(len(_OTHER_TASKS)))]
        attempts = _OTHER_ATTEMPTS if rng.random() < _TELLING_OTHERS_SHARE else 1
        for _ in range(attempts):
            query = _draw_of_family(rng, shown_queries(task, split))
            # Every question has a first answer.
            if len(clip.golds_under(query)) > (1 if query.question else 0):
                break
        instruction, _ = _draw_instruction(rng, query, split, clip.first_live > 0)
        others.append((instruction, query))
    return tuple(others)


def keep_times(script: Script, begin_ms: int, num_frames: int, sampler: SamplerConfig) -> list[int]:
    """Media times of the frames that the frame sampler keeps of a camera on this place."""
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
                seen, picture = view, np.array(draw(view, script.layout, script.look, *_GATE_SIZE))
            if gate.keep(time_ms, picture):
                kept.append(time_ms)
        time_ms += 1000 // CAMERA_FPS
    return kept


def _draw_sampler(rng: np.random.Generator) -> SamplerConfig:
    shares = [share for share, _ in SAMPLERS]
    return SAMPLERS[int(rng.choice(len(SAMPLERS), p=shares))][1]


def _draw_calm(rng: np.random.Generator, *, drills: bool) -> float:
    """Mostly lively, so that a clip holds something to learn; some with the long pauses of real places."""
    draw = rng.random()
    share, livelier, calmer = (0.85, 0.4, 1.2) if drills else (0.65, 0.6, 1.6)
    if draw < share:
        return float(rng.uniform(livelier, calmer))
    return float(rng.uniform(1.6, 5.0)) if draw < 0.92 else float("inf")


def _draw_offset_ms(rng: np.random.Generator, *, drills: bool) -> int:
    """Media time as a camera may have after seconds or days; in drills three in five have four, five or six digits
    before the point, each as often."""
    draw = rng.random()
    if draw < 0.08:
        return 0
    if drills and draw >= 0.4:
        return round(10 ** rng.uniform(3, math.log10(MAX_OFFSET_S)) * 1000)
    if draw < 0.8:
        return int(rng.integers(600_000))
    return round(float(np.exp(rng.uniform(np.log(600), np.log(MAX_OFFSET_S)))) * 1000)


def _draw_script(
    rng: np.random.Generator,
    split: str,
    duration_s: float,
    calm: float,
    begin_ms: int,
    wanted: Query | None = None,
) -> Script:
    """Shifted so that `begin_ms` is a good moment to begin."""
    script = Director(rng, split, calm, wanted).script(_LEAD_S + duration_s + 2)
    begins = [time_ms for time_ms in range(0, _LEAD_S * 1000, 100) if _can_begin(script, time_ms)]
    moment_ms = begins[int(rng.integers(len(begins)))] if begins else 0
    return script.shifted(begin_ms - moment_ms)


def _can_begin(script: Script, time_ms: int) -> bool:
    """Nothing has only just begun: what is under way has visibly been so before."""
    return all(
        not act.start_ms <= time_ms < min(act.end_ms, act.telling_ms + 600) for act in script.told_acts
    )


def _draw_query(
    rng: np.random.Generator,
    task: str,
    split: str,
    script: Script,
    views: Sequence[View],
    times_ms: Sequence[int],
    first_live: int,
    negative: bool,
    wanted: Query | None = None,
) -> Query | None:
    """What is wanted, if it fits. Else first what is asked, evenly, then of whom: colours must not crowd out the rest.
    None if nothing fits."""
    acts = script.told_acts
    everything = Query("event", TOLD_KINDS)
    told = [gold.slots for gold in gold_events(acts, views, times_ms, everything, first_live)]
    if task == "grounding" and first_live:
        told += [gold.slots for gold in gold_events(acts, views, times_ms, everything)]

    def tells(query: Query) -> bool:
        if query.state or query.question:
            golds = gold_events(acts, views, times_ms, query, first_live)
            return len(golds) >= (2 if query.question else 1)
        return any(
            slots.kind in query.kinds
            and query.colour in ("", slots.colour)
            and query.place in ("", slots.place)
            for slots in told
        )

    allowed = shown_queries(task, split)
    if negative and rng.random() < _THING_SHARE:
        things = [query for query in allowed if query.thing]
        if things:
            return things[int(rng.integers(len(things)))]
    fitting: Sequence[Query] = [
        query for query in allowed if bool(query.thing) <= negative and tells(query) != negative
    ]
    if task == "qa" and (not fitting or rng.random() < 0.25):
        fitting = allowed
    if task == "narration" and not fitting:
        fitting = allowed
    if (
        wanted is not None
        and wanted in fitting
        and _within_window(gold_events(acts, views, times_ms, wanted, first_live), times_ms)
    ):
        return wanted
    while fitting:
        query = _draw_of_family(rng, fitting)
        if _within_window(gold_events(acts, views, times_ms, query, first_live), times_ms):
            return query
        fitting = [other for other in fitting if other != query]
    return None


def _draw_wanted(rng: np.random.Generator, task: str, split: str) -> Query | None:
    """What a clip to drill is to ask for; None for a task that asks for all there is, or for how things are."""
    if task not in ("event", "grounding"):
        return None
    allowed = shown_queries(task, split)
    return _draw_of_family(rng, [query for query in allowed if not query.thing])


def _draw_of_family(rng: np.random.Generator, fitting: Sequence[Query]) -> Query:
    families = sorted({query.family for query in fitting})
    family = families[int(rng.integers(len(families)))]
    members = [query for query in fitting if query.family == family]
    plain = [query for query in members if not query.colour and not query.place]
    closer = [query for query in members if query.colour or query.place]
    pool = plain if plain and (not closer or rng.random() < 0.5) else closer
    return pool[int(rng.integers(len(pool)))]


def _any_query(rng: np.random.Generator, task: str, split: str) -> Query:
    """Where nothing fits; of spans one that never comes, since others might be longer than a window."""
    allowed = shown_queries(task, split)
    return _draw_of_family(rng, [query for query in allowed if query.thing or task != "grounding"])


def _late_frames(num_frames: int, *, drills: bool) -> tuple[int, int]:
    least, most = _DRILLED_LATE_FRAMES if drills else _LATE_FRAMES
    return least, min(num_frames * 3 // 4, most) + 1


def _within_window(golds: Sequence[Gold], times_ms: Sequence[int]) -> bool:
    return all(times_ms.index(gold.frame_ms) - gold.since <= MAX_SPAN_ROUNDS for gold in golds)


def _draw_instruction(rng: np.random.Generator, query: Query, split: str, is_late: bool) -> tuple[str, bool]:
    """The words, and whether they are held out of training."""
    texts = wordings(query)
    if split == "test" and texts.held_out and rng.random() < _HELD_OUT_INSTRUCTION_SHARE:
        return texts.held_out[int(rng.integers(len(texts.held_out)))], True
    if is_late and texts.late and rng.random() < _LATE_WORDING_SHARE:
        return texts.late[int(rng.integers(len(texts.late)))], False
    return texts.seen[int(rng.integers(len(texts.seen)))], False
