"""A simulated camera: pictures of its source, encoded once in real time, handed to all who look."""

import asyncio
import random
import threading
import time
from typing import Protocol

import numpy as np

from services.camera.fault import Fault, FaultKind
from services.camera.h264 import RTP_CLOCK_HZ, AccessUnit, Encoder, Packetizer
from services.camera.picture_source import PictureSource

_REPORT_PERIOD_S = 5.0
_CORRUPT_ONE_IN = 8
AUDIO_HZ = 8000


class Viewer(Protocol):
    """Called in the event loop's thread; must not block."""

    num_frames: int  # pictures it has had

    def send(self, packets: list[bytes], is_key: bool) -> None: ...
    def report(self, packet: bytes) -> None: ...
    def close(self) -> None: ...


class Camera:
    """Frame n shows the source at n/fps and leaves at `started_at_us` + n/fps, or is skipped: nothing drifts.

    The source's clock runs from the start whether anybody looks or not; it is drawn and encoded only for
    viewers. `join`, `leave` and `set_fault` belong to the event loop's thread.
    """

    def __init__(
        self,
        name: str,
        source: PictureSource,
        *,
        height: int = 336,
        width: int = 448,
        fps: int = 10,
        seed: int = 0,
    ) -> None:
        self.name = name
        self.source = source
        self.fps = fps
        self.fault = Fault()
        self.started_at_us = 0
        self._started_s = 0.0  # the same moment on the monotonic clock
        self._size = (height, width)
        self._encoder = Encoder(height, width, fps)
        self._rng = random.Random(seed)
        self._packetizer = Packetizer(ssrc=self._rng.getrandbits(32))
        self._viewers: set[Viewer] = set()
        self._key_wanted = False
        self._wake = threading.Condition()
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name=f"camera-{name}", daemon=True)
        self._failure: BaseException | None = None

    @property
    def parameter_sets(self) -> tuple[bytes, bytes]:
        """SPS and PPS, as the session description names them."""
        return self._encoder.sps, self._encoder.pps

    @property
    def next_sequence(self) -> int:
        return self._packetizer.next_sequence

    @property
    def num_viewers(self) -> int:
        return len(self._viewers)

    @property
    def failure(self) -> BaseException | None:
        """Why the camera shows nothing any more; None while it works."""
        return self._failure

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._started_s = time.monotonic()
        self.started_at_us = time.time_ns() // 1000
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        self._thread.join(timeout_s)

    def join(self, viewer: Viewer) -> None:
        """From the next picture on, which is made a key frame for it."""
        with self._wake:
            self._viewers.add(viewer)
            self._key_wanted = True
            self._wake.notify_all()

    def leave(self, viewer: Viewer) -> None:
        with self._wake:
            self._viewers.discard(viewer)

    def set_fault(self, fault: Fault) -> None:
        with self._wake:
            self.fault = fault
            for viewer in self._viewers:
                viewer.num_frames = 0
            self._key_wanted = True

    def _run(self) -> None:
        try:
            report_at_s = 0.0
            while self._wait_for_viewers():
                frame = int((time.monotonic() - self._started_s) * self.fps) + 1
                picture = self._draw(frame)
                if not self._wait_until(self._started_s + frame / self.fps):
                    return
                access_unit = self._encode(picture)
                timestamp = frame * RTP_CLOCK_HZ // self.fps
                packets = self._packetizer.packets(access_unit.units, timestamp)
                if self.fault.kind == FaultKind.AUDIO_ONLY:
                    packets = self._packetizer.silence(AUDIO_HZ // self.fps, frame * AUDIO_HZ // self.fps)
                report = None
                if time.monotonic() >= report_at_s:
                    report_at_s = time.monotonic() + _REPORT_PERIOD_S
                    report = self._packetizer.sender_report(
                        self.started_at_us / 1e6 + frame / self.fps, timestamp
                    )
                self._hand_over(packets, access_unit.is_key, report)
        except BaseException as error:
            self._failure = error
            self._in_loop(self._close_all)
            raise

    def _draw(self, frame: int) -> np.ndarray:
        height, width = self._size
        if self.fault.kind == FaultKind.RESIZE and all(
            v.num_frames >= self.fault.after_frames for v in self._all()
        ):
            height, width = height // 4 * 2, width // 4 * 2
        return self.source.picture(frame * 1000 // self.fps, height, width)

    def _encode(self, picture: np.ndarray) -> AccessUnit:
        height, width = picture.shape[:2]
        if (height, width) != (self._encoder.height, self._encoder.width):
            self._encoder = Encoder(height, width, self.fps)
        with self._wake:
            key, self._key_wanted = self._key_wanted, False
        return self._encoder.encode(picture, key)

    def _wait_for_viewers(self) -> bool:
        """False when the camera is to stop."""
        with self._wake:
            self._wake.wait_for(lambda: self._stopping or self._viewers)
            return not self._stopping

    def _wait_until(self, moment_s: float) -> bool:
        with self._wake:
            while not self._stopping:
                left_s = moment_s - time.monotonic()
                if left_s <= 0:
                    return True
                self._wake.wait(left_s)
            return False

    def _all(self) -> list[Viewer]:
        with self._wake:
            return list(self._viewers)

    def _hand_over(self, packets: list[bytes], is_key: bool, report: bytes | None) -> None:
        def deliver() -> None:
            for viewer in self._all():
                self._deliver(viewer, packets, is_key)
                if report is not None and not self.fault.hits(FaultKind.STALL, viewer.num_frames):
                    viewer.report(report)

        self._in_loop(deliver)

    def _deliver(self, viewer: Viewer, packets: list[bytes], is_key: bool) -> None:
        if self.fault.hits(FaultKind.STALL, viewer.num_frames):
            return
        if self.fault.hits(FaultKind.CLOSE, viewer.num_frames):
            viewer.close()
            return
        if self.fault.hits(FaultKind.CORRUPT, viewer.num_frames):
            packets = [damaged for packet in packets if (damaged := self._corrupted(packet))]
        viewer.send(packets, is_key)
        viewer.num_frames += 1

    def _corrupted(self, packet: bytes) -> bytes | None:
        """As it is, with flipped bits, or None: lost."""
        if self._rng.randrange(_CORRUPT_ONE_IN):
            return packet
        if len(packet) < 40 or self._rng.randrange(2):
            return None
        damaged = bytearray(packet)
        for _ in range(4):
            # Behind the RTP and fragment headers, so that the decoder meets it, not the depacketizer.
            damaged[self._rng.randrange(16, len(damaged))] ^= 1 << self._rng.randrange(8)
        return bytes(damaged)

    def _close_all(self) -> None:
        for viewer in self._all():
            viewer.close()

    def _in_loop(self, call: object) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(call)  # type: ignore[arg-type]
        except RuntimeError:
            # The loop is closed: the server has ended, and with it everyone who looked.
            with self._wake:
                self._stopping = True
