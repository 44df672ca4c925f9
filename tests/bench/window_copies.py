"""Filling many sessions with one past for the price of one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from models.engine.engine import Engine
from models.engine.kv_cache import KVCache
from models.engine.model_runner import Choice
from models.engine.round import RoundInput
from models.engine.scheduler import Row
from models.engine.slot_table import SlotTable


class WindowCopies:
    """Stands in for an engine's model runner while sessions are filled with a past that `source` has been fed: what
    they would compute is copied from it.
    """

    def __init__(self, cache: KVCache, source: SlotTable) -> None:
        self._cache = cache
        self._source = source

    def run(self, rows: Sequence[Row]) -> list[Choice]:
        for row in rows:
            start = row.session.table.end
            slots = row.session.table.extend(row.pieces)
            self._cache.copy(self._source.slots[start : start + len(slots)], slots)
        return []


def open_full(
    engine: Engine, session_ids: Iterable[str], instruction: str, past: Sequence[RoundInput]
) -> None:
    """Open these sessions over a past of at most a window. The first is computed, the others are copies of it."""
    first: str | None = None
    for session_id in session_ids:
        if first is None:
            first = session_id
            _fill(engine, session_id, instruction, past)
            continue
        with copying(engine, first):
            _fill(engine, session_id, instruction, past)


@contextmanager
def copying(engine: Engine, source_id: str) -> Iterator[None]:
    """What is computed meanwhile is copied from this session, which must not have gone on since it was filled."""
    runner = engine._runner
    copies = WindowCopies(engine._memory.cache, engine._sessions[source_id].table)
    engine._runner = copies  # type: ignore[assignment]
    try:
        yield
    finally:
        engine._runner = runner


def _fill(engine: Engine, session_id: str, instruction: str, past: Sequence[RoundInput]) -> None:
    engine.open(session_id, instruction, past)
    while engine.has_work:
        engine.step()
