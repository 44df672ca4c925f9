"""Frames that are passed over because they are late."""

from __future__ import annotations

from collections.abc import Sequence

from services.llm.frame import Frame
from services.llm.gaps import Missing, Position
from streamo.v1.event_pb2 import Reason


class Shed:
    """One run of them, told as one gap when it ends. `before`: what is missing before the run."""

    def __init__(self, before: Sequence[Missing], first: Frame) -> None:
        self.before = before
        self._frames: list[Frame] = []
        self.add(first)

    def add(self, frame: Frame) -> None:
        # Its picture is not needed any more.
        self._frames.append(frame.without_picture())

    @property
    def first(self) -> Frame:
        return self._frames[0]

    @property
    def last(self) -> Frame:
        return self._frames[-1]

    @property
    def position_after(self) -> Position:
        """Where the stream will stand when the run has been told."""
        mark = self.last.mark
        return Position(mark.id.epoch, mark.id.frame_seq + 1, mark.media_time_ms, is_begun=True)

    def gap(self, position: Position) -> Missing:
        """`position`: where the stream stands when what is missing before the run has been told."""
        return Missing(
            Reason.REASON_LAG,
            position.media_time_ms if position.is_begun else self.first.mark.media_time_ms,
            self.last.mark.media_time_ms,
            self.first.id,
            self.last.id,
            len(self._frames),
            was_seen=True,
            num_seen=sum(frame.num_seen for frame in self._frames),
        )
