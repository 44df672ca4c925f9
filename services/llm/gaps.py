"""Which frames are missing before a frame, and why. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from services.llm.frame import FrameId, FrameMark
from streamo.v1.event_pb2 import FrameRef, Gap, Reason


@dataclass(frozen=True)
class Missing:
    """Frames first..last of one epoch, both included; None where no kept frame is missing, only time."""

    reason: Reason
    from_ms: int
    to_ms: int
    first: FrameId | None = None
    last: FrameId | None = None
    num_frames: int = 0
    detail: str = ""
    # The frames lie in `frames` and could be read; they stand for `num_seen` decoded ones.
    was_seen: bool = False
    num_seen: int = 0
    # What an unreadable record held: probably the next frame. A hole of that size bears it out.
    is_guess: bool = False

    def gap(self) -> Gap:
        gap = Gap(from_ms=self.from_ms, to_ms=max(self.from_ms, self.to_ms), num_frames=self.num_frames)
        if self.first is not None and self.last is not None:
            gap.first.CopyFrom(FrameRef(epoch=self.first.epoch, frame_seq=self.first.frame_seq))
            gap.last.CopyFrom(FrameRef(epoch=self.last.epoch, frame_seq=self.last.frame_seq))
        return gap


@dataclass(frozen=True)
class Position:
    """How far a stream's frames have been taken."""

    epoch: int = 0
    next_frame_seq: int = 0
    media_time_ms: int = 0
    # Unreadable records already told in a gap; they explain a hole of that size.
    num_unreadable: int = 0
    # Whether any frame was taken before.
    is_begun: bool = False
    # Retention deleted records that were still needed; a hole is due to that.
    is_expired: bool = False

    @property
    def next_frame(self) -> FrameId:
        return FrameId(self.epoch, self.next_frame_seq)

    def missing_before(self, frame: FrameMark) -> list[Missing]:
        """In order; none before a frame that was taken already."""
        if frame.id < self.next_frame:
            return []
        missing, first_seq, explained = [], self.next_frame_seq, self.num_unreadable
        if frame.id.epoch > self.epoch:
            first_seq = explained = 0
        if first_seq == 0 and self.is_begun:
            reason = Reason.REASON_EXPIRED if self.is_expired else Reason.REASON_DISCONNECTED
            missing.append(Missing(reason, self.media_time_ms, frame.media_time_ms))
        hole = self._hole(frame.id.epoch, first_seq + explained, frame.id.frame_seq, frame.media_time_ms)
        return [*missing, *hole]

    def missing_at_end(self, epoch: int, num_kept: int) -> list[Missing]:
        """Frames that ingest kept in an epoch and that never came, told when its source was lost."""
        if epoch < self.epoch:
            return []
        missing, first_seq = [], self.next_frame_seq + self.num_unreadable
        if epoch > self.epoch:
            first_seq = 0
        if first_seq == 0 and self.is_begun and num_kept > 0:
            missing.append(Missing(Reason.REASON_DISCONNECTED, self.media_time_ms, self.media_time_ms))
        return [*missing, *self._hole(epoch, first_seq, num_kept, self.media_time_ms)]

    def gone(self, first: FrameId, until: FrameId, to_ms: int) -> list[Missing]:
        """Frames of one epoch that were taken, but not decided by all, and that are not there to be taken again."""
        return self._hole(first.epoch, first.frame_seq, until.frame_seq, to_ms) if first < until else []

    def _hole(self, epoch: int, first_seq: int, next_seq: int, to_ms: int) -> list[Missing]:
        if next_seq <= first_seq:
            return []
        reason = Reason.REASON_EXPIRED if self.is_expired else Reason.REASON_LOST
        first, last = FrameId(epoch, first_seq), FrameId(epoch, next_seq - 1)
        return [Missing(reason, self.media_time_ms, to_ms, first, last, next_seq - first_seq)]
