"""Samples as the numbers a model trains on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from torch.utils.data import Dataset

from models.data.sample import Round, Sample, Truth
from models.training.loss import IGNORED
from models.training.mistakes import with_mistakes, with_wrong_words
from models.training.other_dialogue import OtherDialogue
from models.training.packing import Stretch
from models.training.past_times import PastTimes
from models.vlm.dialogue import Dialogue
from models.vlm.pixels import PixelFormat
from models.vlm.positions import round_positions
from models.vlm.state import State


@dataclass(frozen=True)
class Example:
    """One dialogue. Labels stand at the token itself (unshifted), IGNORED where there is no loss."""

    task: str
    token_ids: np.ndarray  # int64 [T]
    labels: np.ndarray  # int64 [T]
    positions: np.ndarray  # int64 [3, T]
    frames: np.ndarray  # uint8 [rounds, H, W, 3]
    truth: Truth
    decisions: np.ndarray  # int64 [rounds], the position whose next token is the round's state
    stretches: tuple[Stretch, ...]
    num_pinned: int
    """Tokens up to the end of the instruction."""
    looks: dict[str, np.ndarray]
    """Where heads of a small model are shown to look: by name int64 [2, n], from one token to another."""
    past_times: PastTimes | None = None
    """None: not asked for."""
    others: tuple[OtherDialogue, ...] = ()
    """What could have been asked of it instead."""


def make_example(
    sample: Sample,
    dialogue: Dialogue,
    pixels: PixelFormat,
    first_learnt_round: int = 0,
    given: Sequence[Round] | None = None,
    window_rounds: int | None = None,
    *,
    asks_past_times: bool = False,
) -> Example:
    """The dialogue of a sample, with labels on every reply and on the token that ends it.

    `given`: the rounds that stand in the dialogue, where some are not those of the sample. Of a round whose state is
    another only the right state is learnt; of a reply in other words, which has to have as many tokens, the right word
    after each of them. `window_rounds`: of the session that serves the sample; where it has more
    rounds, the window slides on the way, as it does there.

    Context only are rounds before `first_learnt_round`, rounds before the instruction was given, and replies that
    name what the sample no longer shows. The end token is learnt after each state too, though the engine decodes
    only after Response.
    """
    height, width = sample.frames.shape[1:3]
    grid = pixels.budget.grid(height, width)
    num_tokens = pixels.budget.num_tokens(height, width)
    prefix = dialogue.pinned_prefix(sample.instruction)
    token_ids = list(prefix)
    labels = [IGNORED] * len(prefix)
    decisions, starts, steps = [], [], []
    of_replies: list[tuple[int, int]] = []
    first_learnt = max(first_learnt_round, sample.first_live)
    for index, (round_, said) in enumerate(zip(sample.rounds, given or sample.rounds, strict=True)):
        head = dialogue.round_head(round_.start_ms, round_.end_ms, num_tokens)
        reply = dialogue.reply(said.state, said.text)
        tail = dialogue.round_tail
        starts.append(len(token_ids))
        decisions.append(len(token_ids) + len(head) - 1)
        # What is not needed to decide, or to go on with a reply, is computed with the next round.
        steps.append(len(token_ids) + len(head) + (len(reply) if said.state is State.RESPONSE else 0))
        if said.state is State.RESPONSE:
            of_replies += [(decisions[-1] + 1 + nth, decisions[-1]) for nth in range(len(reply))]
        token_ids += head + reply + tail
        is_learnt = index >= first_learnt and (not sample.since or sample.since[index] >= 0)
        learnt = [IGNORED] * (len(reply) + 1)
        if is_learnt and said.state is not round_.state:
            learnt[0] = dialogue.state_token_ids[round_.state]
        elif is_learnt:
            learnt = [*dialogue.reply(round_.state, round_.text), tail[0]]
            if len(learnt) != len(reply) + 1:
                raise ValueError(f"round {index}: {said.text!r} has not as many tokens as {round_.text!r}")
        labels += [IGNORED] * len(head) + learnt + [IGNORED] * (len(tail) - 1)
    positions, _ = round_positions(token_ids, dialogue.image_token_id, grid, start=0)
    past_times = None
    visual = np.flatnonzero(np.asarray(token_ids) == dialogue.image_token_id)
    # From where a state is decided to the end of the instruction, to where the one before was, and to all of its frame;
    # from a reply's tokens to where its state was decided.
    looks = {
        "instruction": np.stack((decisions, np.full(len(decisions), len(prefix) - 1))),
        "before": np.stack((decisions[1:], decisions[:-1])).astype(np.int64),
        "reply": np.array(of_replies, dtype=np.int64).reshape(-1, 2).T,
        "frame": np.stack((np.repeat(decisions, num_tokens), visual)),
    }
    if asks_past_times:
        past_times = PastTimes.of(dialogue, given or sample.rounds, starts, decisions, window_rounds)
        looks |= past_times.looks
    return Example(
        task=sample.task,
        token_ids=np.asarray(token_ids, dtype=np.int64),
        labels=np.asarray(labels, dtype=np.int64),
        positions=positions,
        frames=sample.frames,
        truth=sample.truth,
        decisions=np.asarray(decisions, dtype=np.int64),
        num_pinned=len(prefix),
        stretches=_stretches(starts, [*steps[:-1], len(token_ids)], positions[0], window_rounds),
        looks=looks,
        past_times=past_times,
    )


def _stretches(
    starts: Sequence[int], steps: Sequence[int], positions: np.ndarray, window_rounds: int | None
) -> tuple[Stretch, ...]:
    """`starts`: where each round begins; `steps`: where what was computed with it ends."""
    num_rounds = len(starts)
    if window_rounds is None or num_rounds <= window_rounds:
        return (Stretch(0, steps[-1]),)
    slid = [
        Stretch(
            steps[index - 1],
            steps[index],
            num_pinned=starts[0],
            first_key=starts[index - window_rounds + 1],
            shift=int(positions[starts[index - window_rounds + 1]] - positions[starts[0]]),
        )
        for index in range(window_rounds, num_rounds)
    ]
    return Stretch(0, steps[window_rounds - 1]), *slid


class SampleMaker(Protocol):
    def __call__(
        self,
        seed: int,
        split: str,
        num_frames: int,
        *,
        drills: bool = False,
        is_calm: bool = False,
        num_others: int = 0,
    ) -> Sample:
        """`drills`: what samples ask for that want one thing in many happens more often, and more of them begin late.
        `is_calm`: hardly anything happens. `num_others`: other instructions that the sample has. Frames and rounds are
        the same with and without."""
        ...


@dataclass(frozen=True)
class ClipPlan:
    """How samples are cut to what a session sees; the longest of them is a window.

    `num_rounds`: lengths that samples take in turn. A share `joined_late` of the longest kind is a window that has
    slid: its first rounds, up to `max_dropped`, are gone, the next `overlap_rounds` are context without loss, since
    what they tell may have begun before.

    A question that was answered rounds ago is a matter of the window's length: with few rounds and no answer in
    sight, the session has just been opened over past rounds and owes one; in a full window it owes none. So a window
    that slid teaches the tasks `answers_once_asked` only from the `full_rounds`-th round on. Sessions that open late
    have at most as many past rounds.

    `wrong_words`: some replies have another of these in place of each; what is learnt stays right. `drills`: see
    `SampleMaker`. `calm`: share of samples in which hardly anything happens. `num_others`: other
    instructions that are put at the decisions of each sample.
    """

    num_rounds: tuple[int, ...] = (16, 24, 32)
    joined_late: float = 0.7
    max_dropped: int = 16
    overlap_rounds: int = 8
    full_rounds: int = 24
    answers_once_asked: tuple[str, ...] = ("qa", "grounding")
    mistaken: float = 0.0
    wrong_words: tuple[str, ...] = ()
    window_rounds: int | None = None
    asks_past_times: bool = False
    drills: bool = False
    calm: float = 0.0
    num_others: int = 0


class ExampleDataset(Dataset[Example]):
    """Examples made when asked for; example i depends on i alone, so order and sharding are the sampler's."""

    def __init__(
        self,
        make_sample: SampleMaker,
        split: str,
        length: int,
        plan: ClipPlan,
        dialogue: Dialogue,
        pixels: PixelFormat,
    ) -> None:
        self._make_sample = make_sample
        self._split = split
        self._length = length
        self._plan = plan
        self._dialogue = dialogue
        self._pixels = pixels

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < self._length:
            raise IndexError(index)
        plan = self._plan
        num_rounds = plan.num_rounds[index % len(plan.num_rounds)]
        rng = np.random.default_rng((index, 0x57AB))
        num_dropped = 0
        if num_rounds == max(plan.num_rounds) and rng.random() < plan.joined_late:
            num_dropped = int(rng.integers(1, plan.max_dropped + 1))
        is_calm = plan.calm > 0 and rng.random() < plan.calm
        sample = self._make_sample(
            index,
            self._split,
            num_rounds + num_dropped,
            drills=plan.drills,
            is_calm=is_calm,
            num_others=plan.num_others,
        )
        num_context = _num_context_rounds(plan, sample, num_dropped)
        share = rng.random() if rng.random() < plan.mistaken else 0.0
        sample, given = with_mistakes(drop_rounds(sample, num_dropped), share, rng)
        if plan.wrong_words:
            given = with_wrong_words(given, plan.wrong_words, rng)
        example = make_example(
            sample,
            self._dialogue,
            self._pixels,
            num_context,
            given,
            plan.window_rounds,
            asks_past_times=plan.asks_past_times,
        )
        # What is told in the first live round depends on what went before, and is another thing for each of them.
        first_learnt = max(num_context, sample.first_live + 1)
        others = tuple(
            OtherDialogue.draw(other, first_learnt, plan.full_rounds, self._dialogue, rng)
            for other in sample.others
        )
        return replace(example, others=others)


def _num_context_rounds(plan: ClipPlan, sample: Sample, num_dropped: int) -> int:
    # A session that opens after the first rounds of the window has seen no others.
    if not num_dropped or sample.first_live > num_dropped:
        return 0
    return plan.full_rounds if sample.task in plan.answers_once_asked else plan.overlap_rounds


def drop_rounds(sample: Sample, num_rounds: int) -> Sample:
    """The sample as a window that has lost its first rounds; times stay as they are.

    In `since`, negative numbers then stand for rounds that are gone.
    """
    return replace(
        sample,
        frames=sample.frames[num_rounds:],
        rounds=sample.rounds[num_rounds:],
        truth=sample.truth.since(num_rounds),
        first_live=max(0, sample.first_live - num_rounds),
        since=tuple(since - num_rounds for since in sample.since[num_rounds:]),
        others=tuple(other.since(num_rounds) for other in sample.others),
    )
