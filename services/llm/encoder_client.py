"""Asynchronous calls to the encoder, from a loop in a thread of its own, so that the replica's loop never waits."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future

import numpy as np
import torch
from opentelemetry import propagate
from opentelemetry.context import Context

from services.shared.errors import Unavailable

log = logging.getLogger(__name__)

# pixels uint8 [height, width, 3] and a trace carrier to visual tokens float32 [n, visual_size]
Encode = Callable[[np.ndarray, dict[str, str]], Awaitable[np.ndarray]]

_RETRY_MIN_S, _RETRY_MAX_S = 0.05, 1.0


class EncoderClient:
    """Retries a failed call until `timeout_s` after its turn has come; then its future raises Unavailable.

    A ValueError, which is about the picture, is not retried. Thread-safe. At most `max_calls` are under way at a
    time; more wait in order, `timeout_s` at most for each `max_calls` before them.
    """

    def __init__(self, encode: Encode, timeout_s: float, max_calls: int = 256) -> None:
        self._encode = encode
        self._timeout_s = timeout_s
        self._loop = asyncio.new_event_loop()
        self._slots = asyncio.Semaphore(max_calls)
        self._thread = threading.Thread(target=self._loop.run_forever, name="encoder-client", daemon=True)
        self._thread.start()

    def submit(self, pixels: np.ndarray, context: Context) -> Future[torch.Tensor]:
        """Visual tokens [n, visual_size], float32, in host memory."""
        carrier: dict[str, str] = {}
        propagate.inject(carrier, context)
        return asyncio.run_coroutine_threadsafe(self._call(pixels, carrier), self._loop)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    async def _call(self, pixels: np.ndarray, carrier: dict[str, str]) -> torch.Tensor:
        # The slot is held over all tries: else a call would wait for it anew before each, and its time run out there.
        async with self._slots:
            return await self._try(pixels, carrier)

    async def _try(self, pixels: np.ndarray, carrier: dict[str, str]) -> torch.Tensor:
        deadline_s = self._loop.time() + self._timeout_s
        pause_s = _RETRY_MIN_S
        while True:
            left_s = deadline_s - self._loop.time()
            try:
                async with asyncio.timeout(left_s):
                    tokens = await self._encode(pixels, carrier)
                return torch.from_numpy(np.array(tokens, dtype=np.float32))
            except ValueError:
                raise
            except Exception as error:
                # Any failure of the encoder is worth another try until the deadline.
                if self._loop.time() + pause_s >= deadline_s:
                    raise Unavailable(
                        f"the encoder gave no answer within {self._timeout_s:g} s: {error!r}"
                    ) from error
                log.warning("the encoder failed, trying again: %r", error)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _RETRY_MAX_S)
