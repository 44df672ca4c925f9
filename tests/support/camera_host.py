"""Simulated cameras inside the test's process, and a source whose every picture tells which one it is."""

import asyncio
import threading
import zlib
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, TypeVar

import numpy as np

from services.camera.access import Access
from services.camera.camera import Camera
from services.camera.fault import Fault
from services.camera.rtsp_server import RtspServer

T = TypeVar("T")
_TIMEOUT_S = 10.0
_NUMBER_BITS, _CHECK_BITS = 11, 5


class CountingSource:
    """The time since the start, in frames, as 4 x 4 black and white squares: readable after scaling and coding.

    Five of them check the others, so that a damaged picture is not taken for another one.
    """

    def __init__(self, fps: int) -> None:
        self._fps = fps

    def picture(self, time_ms: int, height: int, width: int) -> np.ndarray:
        number = round(time_ms * self._fps / 1000)
        if number >> _NUMBER_BITS:
            raise ValueError(f"time_ms {time_ms}: too late to be shown")
        shown = number | _check(number) << _NUMBER_BITS
        bits = [255 * (shown >> bit & 1) for bit in range(_NUMBER_BITS + _CHECK_BITS)]
        rows, cols = np.arange(height) * 4 // height, np.arange(width) * 4 // width
        grid = np.array(bits, np.uint8).reshape(4, 4)[rows[:, None], cols[None, :]]
        return np.repeat(grid[..., None], 3, axis=2)


def number_in(picture: np.ndarray) -> int:
    """Which picture of a CountingSource this is. AssertionError for a damaged one."""
    number = number_if_whole(picture)
    assert number is not None, "the picture is damaged"
    return number


def number_if_whole(picture: np.ndarray) -> int | None:
    """Which picture of a CountingSource this is; None for a damaged one."""
    height, width = picture.shape[:2]
    centres = picture[height // 8 :: height // 4][:4, width // 8 :: width // 4][:, :4].mean(axis=2)
    shown = sum((int(value) > 127) << bit for bit, value in enumerate(centres.reshape(-1)))
    number, check = shown & (1 << _NUMBER_BITS) - 1, shown >> _NUMBER_BITS
    return number if check == _check(number) else None


def _check(number: int) -> int:
    return zlib.crc32(number.to_bytes(2)) & (1 << _CHECK_BITS) - 1


class CameraHost:
    """An RTSP server in a thread, as a context manager."""

    def __init__(self, cameras: list[Camera], access: Access | None = None) -> None:
        self.cameras = {camera.name: camera for camera in cameras}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="camera-host", daemon=True)
        self._server = RtspServer(self.cameras, access)

    def url(self, name: str) -> str:
        return self._server.url(name)

    def set_fault(self, name: str, text: str) -> None:
        async def switch() -> None:
            self.cameras[name].set_fault(Fault.parse(text))

        self._call(switch())

    def __enter__(self) -> "CameraHost":
        self._thread.start()
        self._call(self._server.start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call(self._server.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_TIMEOUT_S)
        self._loop.close()

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_TIMEOUT_S)
