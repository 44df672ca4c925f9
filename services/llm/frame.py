"""What comes out of a stream's partition: frames, states of the source, and records that cannot be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from opentelemetry.context import Context

from streamo.v1.event_pb2 import FrameRef
from streamo.v1.frame_pb2 import SourceStatus


class FrameId(NamedTuple):
    """Orders the frames of a stream."""

    epoch: int
    frame_seq: int

    @property
    def following(self) -> FrameId:
        return FrameId(self.epoch, self.frame_seq + 1)

    @classmethod
    def of(cls, reference: FrameRef) -> FrameId:
        return cls(reference.epoch, reference.frame_seq)


class FrameMark(NamedTuple):
    """A frame without its picture."""

    id: FrameId
    media_time_ms: int

    def ref(self) -> FrameRef:
        return FrameRef(epoch=self.id.epoch, frame_seq=self.id.frame_seq, media_time_ms=self.media_time_ms)

    @classmethod
    def of(cls, reference: FrameRef) -> FrameMark:
        return cls(FrameId.of(reference), reference.media_time_ms)


@dataclass(frozen=True, eq=False)
class Frame:
    """A kept frame, checked and decoded."""

    mark: FrameMark
    offset: int  # of its record in `frames`
    is_last: bool  # of the frames in its record
    captured_at_us: int
    num_seen: int
    pixels: np.ndarray  # uint8 [height, width, 3]; of no size where it was let go of
    grid: tuple[int, int]  # rows and columns of visual tokens
    context: Context  # of the trace it carries
    is_recording: bool = False

    @property
    def id(self) -> FrameId:
        return self.mark.id

    def without_picture(self) -> Frame:
        return replace(self, pixels=np.empty(0, dtype=np.uint8))


@dataclass(frozen=True, eq=False)
class Status:
    """What ingest tells of the source."""

    offset: int
    epoch: int
    status: SourceStatus


@dataclass(frozen=True, eq=False)
class Unreadable:
    """A record that is passed over and goes to `quarantine` as it is."""

    offset: int
    reason: str
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]
    # The frames it holds, as far as could be read: then the hole has a name.
    frames: tuple[FrameMark, ...] = ()


Item = Frame | Status | Unreadable


# What training gives the first round of a dialogue.
_NOMINAL_INTERVAL_MS = 1000


def round_start_ms(previous: FrameMark | None, frame: FrameMark) -> int:
    """Where the time tag of a frame's round begins: at the frame before it; after a gap one nominal interval before.

    A function of the two frames alone, so that a window that is replayed gets the tags it had.
    """
    if previous is not None and frame.id == previous.id.following:
        return min(previous.media_time_ms, frame.media_time_ms)
    return max(0, frame.media_time_ms - _NOMINAL_INTERVAL_MS)
