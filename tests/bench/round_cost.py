"""What a round costs once the window is full: the engine beside what one would write with Hugging Face alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

import numpy as np

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
    """A side and what it took, block of rounds by block."""

    side: str
    num_sessions: int
    num_rounds: int
    mean_rounds: float
    one_round: Callable[[], object]
    blocks: list[list[float]]

    def block(self) -> None:
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
    num_repeats: int,
) -> WindowCost:
    """All sides at one window length, interleaved; windows are full before anything is timed."""
    past = [workload.quiet_round(index) for index in range(window_rounds)]
    timed: list[_Timed] = []

    num_rounds = min(max(window_rounds // 2, 16), 60)
    for size in engine_sizes:
        sessions = QuietSessions(workload, window_rounds, size)
        rounds = max(num_rounds // size, 3)
        timed.append(_Timed("engine", size, rounds, window_rounds, sessions.one_round, []))
    for size in sorted({1, baseline_batch}):
        resend = ResendWindow(hf, workload.instruction, window_rounds, size)
        resend.fill(past)
        timed.append(_Timed("resend", size, 1, window_rounds, _quiet(resend, workload, window_rounds), []))
    cropped = CroppedCache(hf, workload.instruction, window_rounds)
    cropped.fill(past)
    quiet = _quiet(cropped, workload, window_rounds)
    timed.append(_Timed("cropped", 1, num_rounds, window_rounds, quiet, []))

    prefilled = PrefilledWindow(hf, workload.instruction, past, baseline_batch)
    growing: dict[str, _Timed] = {}
    for side, num_dropped in (("evict_half", window_rounds // 2), ("evict_quarter", window_rounds // 4)):
        mean_rounds = window_rounds - (num_dropped - 1) / 2
        evicting = EvictMany(hf, workload.instruction, window_rounds, num_dropped)
        evicting.fill(past)
        quiet = _quiet(evicting, workload, window_rounds)
        timed.append(_Timed(side, 1, num_dropped, mean_rounds, quiet, []))
        lengths = np.linspace(window_rounds - num_dropped + 1, window_rounds - 1, NUM_LENGTHS).astype(int)
        growing[side] = _growing(workload, prefilled, lengths, baseline_batch, side, mean_rounds)

    everything = [*timed, *growing.values()]
    for one in timed:  # the first calls allocate
        one.one_round()
    for batch in growing.values():
        batch.block()
        batch.blocks.clear()
    interleaved([one.block for one in everything], num_repeats)
    costs = [one.cost() for one in timed]
    for side, batch in growing.items():
        alone = next(one for one in timed if one.side == side)
        costs.append(_batched_eviction(alone, batch))
    return WindowCost(window_rounds, workload.window_tokens(window_rounds), tuple(costs))


def _quiet(chat: Chat, workload: Workload, first_round: int) -> Callable[[], None]:
    indices = count(first_round)

    def one_round() -> None:
        one = workload.quiet_round(next(indices))
        chat.decide(one)
        chat.end_round(one.forced_reply or ())

    return one_round


def _growing(
    workload: Workload,
    prefilled: PrefilledWindow,
    lengths: np.ndarray,
    batch_size: int,
    side: str,
    mean_rounds: float,
) -> _Timed:
    """A batch of baseline (ii) between two evictions: one round at each of some lengths of its window."""
    chats: list[EvictMany] = []
    indices = count()

    def one_round() -> None:
        chats.pop().decide(workload.quiet_round(next(indices)))

    timed = _Timed(side, batch_size, len(lengths), mean_rounds, one_round, [])
    block = timed.block

    def prepared_block() -> None:
        chats.extend(prefilled.chat(int(length)) for length in lengths)
        block()

    timed.block = prepared_block  # type: ignore[method-assign]
    return timed


def _batched_eviction(alone: _Timed, growing: _Timed) -> SideCost:
    """Baseline (ii) at its best in a batch: it prefills sessions one by one (a batch gains nothing there, see
    `resend`), and extends them together in between. The longest round of a block is the one that prefills.
    """
    means = []
    for whole, between in zip(alone.blocks, growing.blocks, strict=True):
        extends = (alone.num_rounds - 1) * float(np.mean(between)) / growing.num_sessions
        means.append((max(whole) + extends) / alone.num_rounds)
    return SideCost(
        alone.side,
        growing.num_sessions,
        alone.num_rounds,
        alone.mean_rounds,
        Spread.of(means),
        Spread.of([max(whole) for whole in alone.blocks]),
    )
