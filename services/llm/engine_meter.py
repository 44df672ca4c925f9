"""Runs the engine's steps and tells what they did."""

from __future__ import annotations

from collections.abc import Callable

from models.engine.round import Decision, Reply
from services.llm.session import EnginePort
from services.shared.telemetry import Metrics, Telemetry


class EngineMeter:
    def __init__(self, engine: EnginePort, telemetry: Telemetry, monotonic_s: Callable[[], float]) -> None:
        self._engine = engine
        self._telemetry = telemetry
        self._monotonic_s = monotonic_s
        self._busy_s = 0.0
        telemetry.start_at_zero(Metrics.ROUNDS_EVICTED, Metrics.SOFTMAX_DISAGREEMENTS)
        telemetry.gauge(Metrics.KV_FREE_BLOCKS, lambda: engine.stats.free_blocks)
        telemetry.gauge(Metrics.KV_HELD_BLOCKS, lambda: engine.stats.held_blocks)
        telemetry.gauge(Metrics.PINNED_PREFIXES, lambda: engine.stats.pinned_prefixes)

    @property
    def busy_s(self) -> float:
        """Seconds spent in steps so far. Replays are left out: they come with a takeover and do not come again."""
        return self._busy_s

    def step(self) -> list[Decision | Reply]:
        """As the engine's; a step that raises counts for nothing."""
        before, started_s = self._engine.stats, self._monotonic_s()
        outputs = self._engine.step()
        ended_s, after = self._monotonic_s(), self._engine.stats
        telemetry = self._telemetry
        if after.steps == before.steps:
            return outputs
        telemetry.record(Metrics.STEP_MS, (ended_s - started_s) * 1000)
        num_tokens = 0
        for kind in ("extend", "decode", "replay"):
            fed = getattr(after, f"{kind}_tokens") - getattr(before, f"{kind}_tokens")
            num_tokens += fed
            if fed:
                telemetry.count(Metrics.TOKENS_FED, fed, kind=kind)
        telemetry.record(Metrics.BATCH_TOKENS, num_tokens)
        num_replayed = after.replay_tokens - before.replay_tokens
        self._busy_s += (ended_s - started_s) * (1 - num_replayed / max(num_tokens, 1))
        if evicted := after.evicted_rounds - before.evicted_rounds:
            telemetry.count(Metrics.ROUNDS_EVICTED, evicted)
        if disagreements := after.disagreements - before.disagreements:
            telemetry.count(Metrics.SOFTMAX_DISAGREEMENTS, disagreements)
        return outputs
