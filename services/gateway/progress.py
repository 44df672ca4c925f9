"""How far each stream has been decided, told only as far as the events that belong to it."""

from collections.abc import Iterable
from dataclasses import dataclass

from streamo.v1.state_pb2 import StreamState


@dataclass(frozen=True, slots=True)
class StreamPoint:
    """Everything of the stream up to `media_time_ms` is decided; its events all lie below `events_offset`."""

    stream_id: str
    partition: int
    media_time_ms: int
    events_offset: int


@dataclass(frozen=True, slots=True)
class _Decided:
    partition: int
    offset: int  # of the state record
    last_seq: int
    media_time_ms: int


class ProgressBook:
    """Joins state records with the events they know of.

    The two become visible in no certain order, though one transaction wrote them. So a state counts only once
    its last event has been passed; then it counts for every reader beyond that event.
    """

    def __init__(self) -> None:
        self._passed: dict[str, tuple[int, int]] = {}  # stream -> seq, offset after it
        self._waiting: dict[str, _Decided] = {}
        self._points: dict[str, StreamPoint] = {}

    def passed(self, stream_id: str, seq: int, next_offset: int) -> None:
        """Event `seq` of the stream has been read; reading goes on at `next_offset`."""
        self._passed[stream_id] = (seq, next_offset)
        self._join(stream_id)

    def passed_all(self, partition: int, state_end: int, next_offset: int) -> None:
        """Every event known to a state record of the partition below `state_end` lies below `next_offset`."""
        for stream_id, decided in list(self._waiting.items()):
            if decided.partition == partition and decided.offset < state_end:
                self._passed[stream_id] = (decided.last_seq, next_offset)
                self._join(stream_id)

    def decided(self, partition: int, offset: int, state: StreamState) -> None:
        """The newest state record of a stream."""
        self._waiting[state.stream_id] = _Decided(partition, offset, state.last_seq, state.media_time_ms)
        self._join(state.stream_id)

    def forget(self, stream_id: str) -> None:
        self._waiting.pop(stream_id, None)
        self._points.pop(stream_id, None)

    def points(self, stream_ids: Iterable[str] | None = None) -> list[StreamPoint]:
        if stream_ids is None:
            return list(self._points.values())
        return [self._points[stream_id] for stream_id in stream_ids if stream_id in self._points]

    def _join(self, stream_id: str) -> None:
        decided = self._waiting.get(stream_id)
        if decided is None:
            return
        seq, next_offset = self._passed.get(stream_id, (0, 0))
        if seq >= decided.last_seq:
            self._points[stream_id] = StreamPoint(
                stream_id, decided.partition, decided.media_time_ms, next_offset
            )
            del self._waiting[stream_id]
