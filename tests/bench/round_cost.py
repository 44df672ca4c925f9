"""What a round costs once the window is full: the engine beside what one would write with Hugging Face alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count

import numpy as np

from models.engine.round import RoundInput
from tests.bench.hugging_face import (
    Chat,
    CroppedCache,
    EvictMany,
    HuggingFaceModel,
    PrefilledWindow,
    ResendWindow,
)
from tests.bench.stopwatch import Spread, interleaved, seconds_of
from tests.bench.workload import QuietSessions, Workload

# Lengths between two evictions at which a batch of baseline (ii) is timed: its cost is near linear in length.
NUM_LENGTHS = 4
# Consecutive rounds of a block, where every round of a side costs the same.
MOST_ROUNDS = 16


@dataclass(frozen=True)
class SideCost:
    """Seconds that a round of one session takes.

    `num_sessions` share each forward; its time is divided by them. `worst_s`: the longest of `num_rounds`
    consecutive rounds. `mean_rounds`: how many rounds the window holds, on average, when a state is decided.
    """

    side: str
    num_sessions: int
    num_rounds: int
    mean_rounds: float
    mean_s: Spread
    worst_s: Spread


@dataclass(frozen=True)
class WindowCost:
    """All sides at one window length: engine, resend, evict_quarter, evict_half, cropped; alone and in a batch."""

    window_rounds: int
    context_tokens: int
    sides: tuple[SideCost, ...]

    def alone(self, side: str) -> SideCost:
        return next(cost for cost in self.sides if cost.side == side and cost.num_sessions == 1)

    def best(self, side: str) -> SideCost:
        """At the batch size at which a round is cheapest."""
        sizes = [cost for cost in self.sides if cost.side == side]
        return min(sizes, key=lambda cost: cost.mean_s.median)


@dataclass
class _Timed:
    """A side and what it took, block of rounds by block. `prepare` is called before each block, and not timed."""

    side: str
    num_sessions: int
    num_rounds: int
    mean_rounds: float
    one_round: Callable[[], object]
    prepare: Callable[[], object] = lambda: None
    blocks: list[list[float]] = field(default_factory=list)

    def block(self) -> None:
        self.prepare()
        self.blocks.append([seconds_of(self.one_round) for _ in range(self.num_rounds)])

    def cost(self) -> SideCost:
        means = [float(np.mean(block)) / self.num_sessions for block in self.blocks]
        worst = [max(block) / self.num_sessions for block in self.blocks]
        return SideCost(
            self.side,
            self.num_sessions,
            self.num_rounds,
            self.mean_rounds,
            Spread.of(means),
            Spread.of(worst),
        )


def measure(
    workload: Workload,
    hf: HuggingFaceModel,
    window_rounds: int,
    engine_sizes: tuple[int, ...],
    baseline_batch: int,
    resend_batch: int,
    num_repeats: int,
) -> WindowCost:
    """All sides at one window length, interleaved; windows are full before anything is timed.

    `baseline_batch`: dialogues that baseline (ii) extends together beside one alone; `resend_batch`: that (i) prefills.
    """
    past = [workload.quiet_round(index) for index in range(window_rounds)]
    timed: list[_Timed] = []

    num_rounds = min(max(window_rounds // 2, 16), MOST_ROUNDS)
    for size in engine_sizes:
        sessions = QuietSessions(workload, window_rounds, size)
        rounds = max(num_rounds // size, 3)
        timed.append(_Timed("engine", size, rounds, window_rounds, sessions.one_round))
    for size in sorted({1, resend_batch}):
        resend = ResendWindow(hf, workload.instruction, window_rounds, size)
        resend.fill(past)
        timed.append(_Timed("resend", size, 1, window_rounds, quiet_rounds(resend, workload, window_rounds)))
    cropped = CroppedCache(hf, workload.instruction, window_rounds)
    cropped.fill(past)
    quiet = quiet_rounds(cropped, workload, window_rounds)
    timed.append(_Timed("cropped", 1, num_rounds, window_rounds, quiet))

    cycles: list[_Cycle] = []
    prefilled = PrefilledWindow(hf, workload.instruction, past)
    for side, num_dropped in (("evict_half", window_rounds // 2), ("evict_quarter", window_rounds // 4)):
        lengths = np.linspace(window_rounds - num_dropped + 1, window_rounds - 1, NUM_LENGTHS).astype(int)
        growing = tuple(
            _growing(workload, prefilled, lengths, size, side) for size in sorted({1, baseline_batch})
        )
        evicting = EvictMany(hf, workload.instruction, window_rounds, num_dropped)
        cycles.append(_Cycle(num_dropped, window_rounds, _full(evicting, past, workload, side), growing))

    everything = [*timed, *(part for cycle in cycles for part in (cycle.prefill, *cycle.growing))]
    for one in everything:
        if (
            one.num_rounds > 1
        ):  # the first calls allocate; of single long rounds the median leaves that one out
            one.block()
            one.blocks.clear()
    interleaved([one.block for one in everything], num_repeats)
    costs = [one.cost() for one in timed]
    costs += [cost for cycle in cycles for cost in cycle.costs()]
    return WindowCost(window_rounds, workload.window_tokens(window_rounds), tuple(costs))


def quiet_rounds(chat: Chat, workload: Workload, first_round: int) -> Callable[[], None]:
    """Has the chat go through one more silent round at each call."""
    indices = count(first_round)

    def one_round() -> None:
        one = workload.quiet_round(next(indices))
        chat.decide(one)
        chat.end_round(one.forced_reply or ())

    return one_round


def _full(chat: EvictMany, past: Sequence[RoundInput], workload: Workload, side: str) -> _Timed:
    """A round that finds the window full, drops many and prefills the rest."""
    num_held = len(past) - chat.num_dropped + 1
    newest = workload.quiet_round(len(past))
    return _Timed(side, 1, 1, num_held, lambda: chat.decide(newest), lambda: chat.fill(past))


def _growing(
    workload: Workload, prefilled: PrefilledWindow, lengths: np.ndarray, batch_size: int, side: str
) -> _Timed:
    """Baseline (ii) between two evictions: one round at each of some lengths of its window."""
    chats: list[EvictMany] = []
    indices = count()
    return _Timed(
        side,
        batch_size,
        len(lengths),
        float(np.mean(lengths)),
        lambda: chats.pop().decide(workload.quiet_round(next(indices))),
        lambda: chats.extend(prefilled.chat(int(length), batch_size) for length in lengths),
    )


@dataclass(frozen=True)
class _Cycle:
    """Baseline (ii) from one eviction to the next: `num_dropped` rounds, the first of which prefills.

    Sessions are prefilled one by one also where they are extended together: a batch gains nothing there, see `resend`.
    """

    num_dropped: int
    window_rounds: int
    prefill: _Timed
    growing: tuple[_Timed, ...]

    def costs(self) -> list[SideCost]:
        """One for each number of sessions that are extended together."""
        mean_rounds = self.window_rounds - (self.num_dropped - 1) / 2
        prefills = [block[0] for block in self.prefill.blocks]
        found = []
        for growing in self.growing:
            extends = [float(np.mean(block)) / growing.num_sessions for block in growing.blocks]
            means = [
                (prefill + (self.num_dropped - 1) * extend) / self.num_dropped
                for prefill, extend in zip(prefills, extends, strict=True)
            ]
            found.append(
                SideCost(
                    self.prefill.side,
                    growing.num_sessions,
                    self.num_dropped,
                    mean_rounds,
                    Spread.of(means),
                    Spread.of(prefills),
                )
            )
        return found
