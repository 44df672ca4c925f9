"""Changes to `control`, one at a time for each stream, answered once this gateway has read them."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar
from weakref import WeakValueDictionary

from services.gateway.history import History
from services.shared.control_log import AddedStream, Change, ControlReader, ControlView, ControlWriter
from services.shared.errors import NotFound
from streamo.v1.control_pb2 import ControlRecord

T = TypeVar("T")

_NUM_THREADS = 8


class ControlDesk:
    """For one event loop. All may raise Unavailable or TimedOut; a write that did so may still take place."""

    def __init__(
        self, reader: ControlReader, writer: ControlWriter, history: History, timeout_s: float
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._history = history
        self._timeout_s = timeout_s
        self._threads = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="control")
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def lock(self, stream_id: str) -> asyncio.Lock:
        """Held from looking until written, so that two changes of one stream see each other."""
        return self._locks.setdefault(stream_id, asyncio.Lock())

    async def view(self) -> ControlView:
        """What the log says now: changes answered by any gateway before this call are in it."""
        end = await self._history.control_end()
        return await self._run(lambda: self._reader.wait_for(end, self._timeout_s))

    @property
    def newest_view(self) -> ControlView:
        """What this gateway has read, without asking Kafka whether there is more."""
        return self._reader.view

    async def write(self, key: bytes, record: ControlRecord | None) -> int:
        """Returns the record's offset, once this gateway has read it. None takes the key away."""
        return await self.write_all([(key, record)])

    async def write_all(self, changes: Sequence[Change]) -> int:
        """As `write`, one right after the other; the last one's offset."""

        def write() -> int:
            offset = self._writer.write_all(changes)
            self._reader.wait_for(offset + 1, self._timeout_s)
            return offset

        return await self._run(write)

    def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)

    async def _run(self, job: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, job)


def known_stream(view: ControlView, stream_id: str) -> AddedStream:
    """Raises NotFound."""
    added = view.streams.get(stream_id)
    if added is None:
        raise NotFound(f"there is no stream {stream_id}: add it first")
    return added
