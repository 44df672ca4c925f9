"""Pictures to H.264 access units, and access units to RTP packets (RFC 6184, packetization mode 1)."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from av.video.frame import PictureType

RTP_CLOCK_HZ = 90_000
PAYLOAD_TYPE = 96
_MAX_PAYLOAD_BYTES = 1400

_TYPE_SLICE, _TYPE_IDR, _TYPE_SPS, _TYPE_PPS, _TYPE_FU_A = 1, 5, 7, 8, 28


def split_annex_b(data: bytes) -> list[bytes]:
    """The NAL units of an Annex B byte string, without their start codes."""
    units = []
    start = data.find(b"\x00\x00\x01")
    while start >= 0:
        end = data.find(b"\x00\x00\x01", start + 3)
        unit = data[start + 3 : end if end >= 0 else len(data)]
        # The zero before a four-byte start code belongs to that code; a NAL unit never ends in zero.
        units.append(unit.rstrip(b"\x00") if end >= 0 else unit)
        start = end
    return [unit for unit in units if unit]


def unit_type(unit: bytes) -> int:
    return unit[0] & 0x1F


@dataclass(frozen=True)
class AccessUnit:
    """One picture: its slices, led by the parameter sets where it can be decoded alone."""

    units: tuple[bytes, ...]
    is_key: bool


class Encoder:
    """One picture in, one access unit out, at once. Not thread-safe."""

    def __init__(self, height: int, width: int, fps: int) -> None:
        if height % 2 or width % 2 or height < 16 or width < 16:
            raise ValueError(f"size {width}x{height}: must be even and at least 16x16")
        self.height, self.width = height, width
        context = av.CodecContext.create("libx264", "w")
        context.width, context.height, context.pix_fmt = width, height, "yuv420p"
        context.time_base = Fraction(1, fps)
        context.framerate = Fraction(fps)
        context.gop_size = fps
        context.thread_count = 1
        context.flags |= av.codec.context.Flags.global_header
        context.options = {"preset": "ultrafast", "tune": "zerolatency", "profile": "baseline", "crf": "20"}
        context.open()
        self._context = context
        sets = split_annex_b(bytes(context.extradata or b""))
        self.sps = next(unit for unit in sets if unit_type(unit) == _TYPE_SPS)
        self.pps = next(unit for unit in sets if unit_type(unit) == _TYPE_PPS)
        self._num_encoded = 0

    def encode(self, picture: np.ndarray, key: bool) -> AccessUnit:
        """`picture` is uint8 [height, width, 3]. With `key` it can be decoded without earlier ones."""
        frame = av.VideoFrame.from_ndarray(picture, "rgb24")
        frame.pts = self._num_encoded
        self._num_encoded += 1
        frame.pict_type = PictureType.I if key else PictureType.NONE
        units = [unit for packet in self._context.encode(frame) for unit in split_annex_b(bytes(packet))]
        slices = tuple(unit for unit in units if unit_type(unit) in (_TYPE_SLICE, _TYPE_IDR))
        is_key = any(unit_type(unit) == _TYPE_IDR for unit in slices)
        return AccessUnit((self.sps, self.pps, *slices) if is_key else slices, is_key)


class Packetizer:
    """Numbers the RTP packets of one camera; all its viewers get the same packets."""

    def __init__(self, ssrc: int) -> None:
        self.ssrc = ssrc
        self.next_sequence = 0
        self.num_packets = 0
        self.num_bytes = 0

    def packets(self, units: Sequence[bytes], timestamp: int) -> list[bytes]:
        """The packets of one access unit; the last one carries the marker."""
        payloads = [payload for unit in units for payload in _payloads(unit)]
        last = len(payloads) - 1
        return [
            self._packet(PAYLOAD_TYPE | (0x80 if index == last else 0), payload, timestamp)
            for index, payload in enumerate(payloads)
        ]

    def silence(self, num_samples: int, timestamp: int) -> list[bytes]:
        """One packet of G.711 audio in which nothing is to be heard."""
        return [self._packet(0, b"\xff" * num_samples, timestamp)]

    def _packet(self, marker_and_type: int, payload: bytes, timestamp: int) -> bytes:
        header = struct.pack(
            "!BBHII", 0x80, marker_and_type, self.next_sequence, timestamp & 0xFFFFFFFF, self.ssrc
        )
        self.next_sequence = (self.next_sequence + 1) & 0xFFFF
        self.num_packets = (self.num_packets + 1) & 0xFFFFFFFF
        self.num_bytes = (self.num_bytes + len(payload)) & 0xFFFFFFFF
        return header + payload

    def sender_report(self, wall_s: float, timestamp: int) -> bytes:
        """RTCP: which RTP timestamp is which wall clock (RFC 3550, 6.4.1)."""
        ntp = int((wall_s + 2_208_988_800) * 2**32)
        return struct.pack(
            "!BBHIQIII",
            0x80,
            200,
            6,
            self.ssrc,
            ntp & 0xFFFFFFFFFFFFFFFF,
            timestamp & 0xFFFFFFFF,
            self.num_packets,
            self.num_bytes,
        )


def _payloads(unit: bytes) -> list[bytes]:
    """A NAL unit as it is, or cut into FU-A fragments where it is longer than a packet."""
    if len(unit) <= _MAX_PAYLOAD_BYTES:
        return [unit]
    indicator = (unit[0] & 0xE0) | _TYPE_FU_A
    body, size = unit[1:], _MAX_PAYLOAD_BYTES - 2
    fragments = []
    for start in range(0, len(body), size):
        header = unit_type(unit)
        header |= 0x80 if start == 0 else 0
        header |= 0x40 if start + size >= len(body) else 0
        fragments.append(bytes((indicator, header)) + body[start : start + size])
    return fragments
