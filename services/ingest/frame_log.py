"""What ingest writes: frames and what became of their source to `frames`, epochs and ends to `control`."""

import logging
import threading
import time
from collections.abc import Callable

from kafka import KafkaProducer
from kafka.errors import KafkaError, KafkaTimeoutError
from kafka.producer.future import FutureRecordMetadata
from opentelemetry.trace import SpanKind

from services.ingest.delivery_watch import DeliveryWatch
from services.shared.control_log import AddedStream, ControlWriter, end_key, epoch_key
from services.shared.errors import Unavailable
from services.shared.kafka import abandon, producer, trace_headers
from services.shared.settings import KafkaSettings
from services.shared.telemetry import Metrics, Spans, Telemetry
from services.shared.topics import MAX_RECORD_BYTES, Topics, partition_of
from streamo.v1.control_pb2 import ControlRecord, EpochBegin, FileEnd
from streamo.v1.frame_pb2 import (
    SOURCE_STATE_DISCONNECTED,
    SOURCE_STATE_UNSPECIFIED,
    Frame,
    FrameBatch,
    FrameRecord,
    SourceState,
    SourceStatus,
)

_LOG = logging.getLogger(__name__)

# Frames of one stream that Kafka has not acknowledged yet; then its camera's process waits or drops.
MAX_IN_FLIGHT = 8
# Of a record's size, for everything that is not pixels: names, headers, Kafka's own framing.
OVERHEAD_BYTES = 4096
# Longer than any outage: what is in flight is bounded, and goes in order once Kafka is back. And see `abandon`.
_DELIVERY_TIMEOUT_S = 30 * 24 * 3600.0
_RETRY_S = 1.0


class FrameLog:
    """The clients that all streams of a worker share. Safe to use from their threads."""

    def __init__(self, settings: KafkaSettings, worker_id: str, telemetry: Telemetry) -> None:
        self.settings = settings
        self.worker_id = worker_id
        self.telemetry = telemetry
        self.topic = Topics.of(settings).frames
        self.producer: KafkaProducer = producer(settings, delivery_timeout_s=_DELIVERY_TIMEOUT_S)
        self.control = ControlWriter(settings)
        self.deliveries = DeliveryWatch()

    def of(self, added: AddedStream, stopping: threading.Event | None = None) -> "StreamLog":
        """What cannot be written to `control` is tried until `stopping`, or once where that is not given."""
        return StreamLog(self, added, stopping)

    def close(self, timeout_s: float) -> None:
        """What is not acknowledged by then is lost, and shows downstream as any loss does."""
        try:
            self.producer.close(timeout=timeout_s)
        except KafkaTimeoutError:
            _LOG.warning("frames that Kafka has not taken are lost")
            abandon(self.producer)
        self.control.close()


class StreamLog:
    """One stream's place in the log: its epoch, what of it is under way, what was last said of its source.

    For one thread, but for the acknowledgements, which come in the Kafka client's.
    """

    def __init__(self, log: FrameLog, added: AddedStream, stopping: threading.Event | None) -> None:
        self.stream_id = added.stream.stream_id
        self.partition = partition_of(self.stream_id, log.settings.partitions)
        self.epoch: int | None = None
        self.last_media_time_ms = -1
        self.num_kept = 0
        self._version = added.version
        self._log = log
        self._stopping = stopping
        self._told: tuple[SourceState, str] = (SOURCE_STATE_UNSPECIFIED, "")
        self._acknowledged = threading.Condition()
        self._in_flight = 0
        self._num_failed = 0

    def begin_epoch(self) -> int:
        """A new epoch, waited for however long Kafka takes. Raises Unavailable once the stream is to stop, or where
        it was tried once."""
        begin = EpochBegin(
            stream_id=self.stream_id, worker_id=self._log.worker_id, at_us=time.time_ns() // 1000
        )
        self.epoch = self._write_control(epoch_key(self.stream_id), ControlRecord(epoch=begin))
        if self._stopping is not None and self._stopping.is_set():
            # Whoever runs the stream now began an older epoch, maybe: a record in this one would overtake it.
            raise Unavailable(f"stream {self.stream_id} was stopped while its epoch began")
        self.num_kept = 0
        with self._acknowledged:
            self._num_failed = 0
        return self.epoch

    def wait_for_room(self, timeout_s: float, max_in_flight: int = MAX_IN_FLIGHT) -> bool:
        """Whether fewer than `max_in_flight` records wait for their acknowledgement."""
        with self._acknowledged:
            return self._acknowledged.wait_for(lambda: self._in_flight < max_in_flight, timeout_s)

    def write_frame(self, frame: Frame, is_recording: bool) -> None:
        """In the epoch begun before.

        A frame that Kafka does not take is counted and leaves a hole in `frame_seq`.
        """
        assert self.epoch is not None
        self._told = (SOURCE_STATE_UNSPECIFIED, "")
        self.num_kept = frame.frame_seq + 1
        self.last_media_time_ms = frame.media_time_ms
        if len(frame.data) > MAX_RECORD_BYTES - OVERHEAD_BYTES:
            self._count_dropped("too_large")
            return
        telemetry = self._log.telemetry
        span = telemetry.span(
            Spans.CAPTURE,
            frame.captured_at_us,
            max(frame.captured_at_us, time.time_ns() // 1000),
            None,
            SpanKind.PRODUCER,
            stream_id=self.stream_id,
            epoch=self.epoch,
            frame_seq=frame.frame_seq,
            partition=str(self.partition),
        )
        record = FrameRecord(
            stream_id=self.stream_id,
            epoch=self.epoch,
            frames=FrameBatch(frames=[frame]),
            is_recording=is_recording,
        )
        captured_at_us = frame.captured_at_us

        def on_taken() -> None:
            telemetry.record(Metrics.CAPTURE_MS, max(0.0, time.time_ns() / 1e6 - captured_at_us / 1e3))

        if self._send(record, trace_headers(span), on_taken) is not None:
            telemetry.count(Metrics.FRAMES_KEPT)

    def write_status(self, state: SourceState, detail: str, retry_in_s: float) -> None:
        """Says it where it is news: the same state for the same reason is told once.

        Begins an epoch if there is none.
        """
        if (state, detail) == self._told:
            return
        if self.epoch is None:
            self.begin_epoch()
        self._send_status(state, detail, retry_in_s)

    def mark_epoch(self, detail: str, timeout_s: float) -> int | None:
        """Writes to the epoch just begun that the source is away, and says at which offset of its partition: from
        there on readers ignore all older epochs, though no frame of this one has come. None where Kafka does not take
        it in time, or does not say where.

        Repeats what was told last, which is no news to readers; where nothing was, it is told with `detail`.
        """
        state, told = self._told
        if state == SOURCE_STATE_UNSPECIFIED:
            state, told = SOURCE_STATE_DISCONNECTED, detail
        sent = self._send_status(state, told, 0.0)
        try:
            offset = -1 if sent is None else sent.get(timeout=timeout_s).offset
        except KafkaError:
            return None
        return offset if offset >= 0 else None  # the client has none of a record that it sent twice

    def write_end(self) -> None:
        """After the status ENDED has been acknowledged: the file is never read again."""
        end = FileEnd(stream_id=self.stream_id, stream_version=self._version)
        self._write_control(end_key(self.stream_id), ControlRecord(end=end))

    def drain(self, timeout_s: float) -> bool:
        """Whether everything written so far is in Kafka, nothing of this epoch having failed."""
        with self._acknowledged:
            return (
                self._acknowledged.wait_for(lambda: self._in_flight == 0, timeout_s) and self._num_failed == 0
            )

    @property
    def has_failed(self) -> bool:
        """Whether Kafka has not taken something of this epoch."""
        with self._acknowledged:
            return self._num_failed > 0

    def _send_status(self, state: SourceState, detail: str, retry_in_s: float) -> FutureRecordMetadata | None:
        status = SourceStatus(
            state=state,
            detail=detail,
            at_us=time.time_ns() // 1000,
            retry_in_ms=round(retry_in_s * 1000),
            num_kept=self.num_kept,
        )
        record = FrameRecord(stream_id=self.stream_id, epoch=self.epoch or 0, status=status)
        sent = self._send(record, [], lambda: None)
        if sent is not None:
            self._told = (state, detail)
        return sent

    def _send(
        self, record: FrameRecord, headers: list[tuple[str, bytes]], on_taken: Callable[[], None]
    ) -> FutureRecordMetadata | None:
        """None where the client does not even take it."""
        with self._acknowledged:
            self._in_flight += 1
        self._log.deliveries.sent()
        try:
            sent = self._log.producer.send(
                self._log.topic,
                key=self.stream_id.encode(),
                value=record.SerializeToString(),
                partition=self.partition,
                headers=headers,
            )
        except KafkaTimeoutError:
            self._on_done(record, failed=True)
            return None
        sent.add_callback(lambda _: on_taken())
        sent.add_callback(lambda _: self._on_done(record, failed=False))
        sent.add_errback(lambda _: self._on_done(record, failed=True))
        return sent

    def _on_done(self, record: FrameRecord, failed: bool) -> None:
        if failed and record.HasField("frames"):
            self._count_dropped("kafka")
        self._log.deliveries.done()
        with self._acknowledged:
            self._in_flight -= 1
            self._num_failed += failed
            if failed and record.HasField("status"):
                self._told = (SOURCE_STATE_UNSPECIFIED, "")  # it was not: the next time is news again
            self._acknowledged.notify_all()

    def _count_dropped(self, reason: str) -> None:
        self._log.telemetry.count(Metrics.FRAMES_DROPPED, reason=reason)

    def _write_control(self, key: bytes, record: ControlRecord) -> int:
        while True:
            try:
                return self._log.control.write(key, record)
            except Unavailable:
                if self._stopping is None or self._stopping.wait(_RETRY_S):
                    raise
