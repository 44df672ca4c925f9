"""Many sessions on both cores: the engine's batches beside plain incremental decoding, one session after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from tests.bench.hugging_face import CroppedCache, HuggingFaceModel
from tests.bench.round_cost import quiet_rounds
from tests.bench.stopwatch import Spread, interleaved
from tests.bench.workload import QuietSessions, Workload

NUM_THREADS = 2
NUM_SESSIONS = 32
# Of each side, a block: the engine has one step in two for every session.
ENGINE_STEPS = 2
PLAIN_ROUNDS = 16


@dataclass(frozen=True)
class TwoCores:
    """Wall seconds of one round of one session, torch having two threads. `ratio`: plain over engine, of neighbouring
    blocks. Plain decoding has the better of one and two threads.
    """

    window_rounds: int
    num_sessions: int
    engine_s: Spread
    plain_s: Spread
    plain_threads: int
    ratio: Spread


def measure(workload: Workload, hf: HuggingFaceModel, window_rounds: int, num_repeats: int) -> TwoCores:
    """Windows are full. The machine must have nothing else to do."""
    sessions = QuietSessions(workload, window_rounds, NUM_SESSIONS)
    chat = CroppedCache(hf, workload.instruction, window_rounds)
    chat.fill(workload.quiet_round(index) for index in range(window_rounds))
    plain_round = quiet_rounds(chat, workload, window_rounds)
    engine_s: list[float] = []
    plain_s: dict[int, list[float]] = {threads: [] for threads in range(1, NUM_THREADS + 1)}
    works = [_timed(sessions.one_round, ENGINE_STEPS, NUM_THREADS, engine_s)]
    works += [_timed(plain_round, PLAIN_ROUNDS, threads, into) for threads, into in plain_s.items()]
    for work in works:  # the first calls allocate
        work()
    for times in (engine_s, *plain_s.values()):
        times.clear()
    interleaved(works, num_repeats)
    engine_s = [seconds / NUM_SESSIONS for seconds in engine_s]
    best = min(plain_s, key=lambda threads: Spread.of(plain_s[threads]).median)
    ratios = [theirs / ours for theirs, ours in zip(plain_s[best], engine_s, strict=True)]
    return TwoCores(
        window_rounds, NUM_SESSIONS, Spread.of(engine_s), Spread.of(plain_s[best]), best, Spread.of(ratios)
    )


def _timed(
    work: Callable[[], object], num_calls: int, num_threads: int, into: list[float]
) -> Callable[[], None]:
    def block() -> None:
        with _threads(num_threads):
            start_s = time.perf_counter()
            for _ in range(num_calls):
                work()
            into.append((time.perf_counter() - start_s) / num_calls)

    return block


@contextmanager
def _threads(num_threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
