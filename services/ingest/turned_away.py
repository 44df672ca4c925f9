"""Streams that a worker has no room for, and what their users are told."""

import logging
from collections.abc import Sequence

from services.ingest.frame_log import FrameLog, StreamLog
from services.shared.control_log import AddedStream
from services.shared.errors import Unavailable
from streamo.v1.frame_pb2 import SOURCE_STATE_DISCONNECTED

_LOG = logging.getLogger(__name__)


class TurnedAway:
    """A stream is told once for as long as it waits; it starts as soon as there is room, here or elsewhere."""

    def __init__(self, log: FrameLog, max_streams: int) -> None:
        self._log = log
        self._detail = (
            f"not opened: this worker already runs ingest.max_streams = {max_streams} streams; add a worker"
        )
        self._logs: dict[tuple[str, int], StreamLog] = {}  # by stream id and version

    def tell(self, waiting: Sequence[AddedStream]) -> None:
        """To be called in every round with all that wait; blocks for one write to Kafka that fails at the most."""
        by_name = {(added.stream.stream_id, added.version): added for added in waiting}
        self._logs = {name: log for name, log in self._logs.items() if name in by_name}
        for name, added in by_name.items():
            if name not in self._logs:
                _LOG.warning("stream %s: %s", name[0], self._detail)
                self._logs[name] = self._log.of(added)
            try:
                # Does nothing where it was told before.
                self._logs[name].write_status(SOURCE_STATE_DISCONNECTED, self._detail, 0.0)
            except Unavailable as error:
                _LOG.warning("stream %s could not be told, and will be: %s", name[0], error)
                return  # Kafka is away for the others, too
