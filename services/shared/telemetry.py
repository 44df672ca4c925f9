"""OpenTelemetry for every service, and the name of every span, metric and attribute, declared here and nowhere else.

Nothing is exported unless `telemetry.otlp_endpoint` is set; then traces and metrics leave by OTLP over gRPC.
"""

import uuid
from collections.abc import Callable, Iterable

from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import CallbackOptions, Counter, Histogram, Meter, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, Tracer

from services.shared.settings import TelemetrySettings
from services.shared.tls import channel_credentials


class Spans:
    """In the order of the data; together they are the trace of one frame."""

    CAPTURE = "ingest.capture"  # root: from the decoded picture to the record handed to Kafka
    RECEIVE = "llm.receive"  # the record reached the replica that owns its stream
    ENCODE = "llm.encode"  # waiting for the embedding
    ENCODE_BATCH = "encoder.encode"  # the encoder's work on it, in its batch
    DECIDE = "llm.decide"  # from embedding to state, for one watch
    REPLY = "llm.reply"  # from state to the reply's last token
    COMMIT = "llm.commit"  # the transaction that made an event visible
    DELIVER = "gateway.deliver"  # from the gateway's read to the subscriber's stream


class Attributes:
    STREAM_ID = "streamo.stream.id"
    WATCH_ID = "streamo.watch.id"
    EPOCH = "streamo.epoch"
    FRAME_SEQ = "streamo.frame.seq"
    STATE = "streamo.state"
    EVENT_KIND = "streamo.event.kind"
    EVENT_SEQ = "streamo.event.seq"
    PARTITION = "messaging.destination.partition.id"


class Metrics:
    """name: (unit, what it counts). Counters end in no suffix; histograms are of milliseconds or counts."""

    # Of every service
    STAGE_MS = ("streamo.stage_ms", "ms", "Time in each stage of a frame's way; a stage is named as its span")
    # Counters and histograms
    FRAMES_SEEN = ("streamo.ingest.frames_seen", "{frame}", "Frames decoded")
    FRAMES_KEPT = (
        "streamo.ingest.frames_kept",
        "{frame}",
        "Kept frames handed to Kafka, also those that it then did not take",
    )
    FRAMES_DROPPED = (
        "streamo.ingest.frames_dropped",
        "{frame}",
        "Kept frames that could not be handed on, by reason",
    )
    RECONNECTS = ("streamo.ingest.reconnects", "{attempt}", "Openings of a source after the first, by reason")
    CAPTURE_MS = ("streamo.ingest.capture_ms", "ms", "Decoded picture to acknowledged record")
    ENCODE_BATCH_FRAMES = ("streamo.encoder.batch_frames", "{frame}", "Frames encoded together")
    ENCODE_MS = ("streamo.encoder.encode_ms", "ms", "Time in the vision encoder, a batch")
    ROUNDS_DECIDED = ("streamo.llm.rounds_decided", "{round}", "Rounds decided, by state and task")
    FRAMES_SKIPPED = ("streamo.llm.frames_skipped", "{frame}", "Kept frames named in gaps, by reason")
    FRAMES_OVERTAKEN = (
        "streamo.llm.frames_overtaken",
        "{frame}",
        "Frames of an ingest worker after another had begun a newer epoch: passed over",
    )
    RECORDS_QUARANTINED = ("streamo.llm.records_quarantined", "{record}", "Records that could not be read")
    DECISION_MS = ("streamo.llm.decision_ms", "ms", "Captured frame to its state decision")
    STEP_MS = ("streamo.llm.step_ms", "ms", "One engine step")
    BATCH_TOKENS = ("streamo.llm.batch_tokens", "{token}", "New tokens in one engine step")
    TOKENS_FED = (
        "streamo.llm.tokens_fed",
        "{token}",
        "Tokens fed to the model, by kind: extend, decode, replay",
    )
    ROUNDS_EVICTED = ("streamo.llm.rounds_evicted", "{round}", "Rounds that left a session's window")
    SOFTMAX_DISAGREEMENTS = (
        "streamo.llm.softmax_disagreements",
        "{round}",
        "Rounds decided where the best of all tokens was none of the three states'",
    )
    COMMIT_MS = ("streamo.llm.commit_ms", "ms", "One transaction")
    COMMITS_ABORTED = (
        "streamo.llm.commits_aborted",
        "{transaction}",
        "Transactions that were aborted, to be tried again",
    )
    SESSIONS_REBUILT = ("streamo.llm.sessions_rebuilt", "{session}", "Sessions replayed after a takeover")
    TAKEOVER_MS = (
        "streamo.llm.takeover_ms",
        "ms",
        "A partition from assigned to live; the former owner is fenced",
    )
    CHECKPOINTS = ("streamo.llm.checkpoints", "{checkpoint}", "Redis checkpoints, by what became of them")
    EVENTS_COMMITTED = ("streamo.llm.events_committed", "{event}", "Events committed, by kind")
    EVENTS_DELIVERED = ("streamo.gateway.events_delivered", "{event}", "Events sent to subscribers")
    EVENT_MS = ("streamo.gateway.event_ms", "ms", "Captured frame to delivered event")
    SUBSCRIBERS_CUT = ("streamo.gateway.subscribers_cut", "{subscriber}", "Subscribers cut off, by reason")
    SEQ_VIOLATIONS = ("streamo.gateway.seq_violations", "{event}", "Holes or repeats in seq: must stay 0")
    # Gauges
    STREAMS_RUNNING = ("streamo.ingest.streams_running", "{stream}", "Streams this worker runs")
    PARTITIONS_OWNED = ("streamo.llm.partitions_owned", "{partition}", "Partitions this replica owns")
    SESSIONS = ("streamo.llm.sessions", "{session}", "Live sessions")
    WATCHES_WAITING = (
        "streamo.llm.watches_waiting",
        "{watch}",
        "Watches that there is no room for: above 0, add replicas",
    )
    SESSION_CAPACITY = ("streamo.llm.session_capacity", "{session}", "Sessions that there is room for in all")
    LAG_S = ("streamo.llm.lag_s", "s", "Age of the oldest frame that is still to be decided")
    STEP_UTILISATION = (
        "streamo.llm.step_utilisation",
        "1",
        "Share of the last half minute spent in engine steps, without replays",
    )
    KV_FREE_BLOCKS = ("streamo.llm.kv_free_blocks", "{block}", "Blocks of the KV cache that no session holds")
    KV_HELD_BLOCKS = ("streamo.llm.kv_held_blocks", "{block}", "Blocks of the KV cache that sessions hold")
    PINNED_PREFIXES = (
        "streamo.llm.pinned_prefixes",
        "{prefix}",
        "Different pinned prefixes; sessions that begin alike share one",
    )
    STREAMS = (
        "streamo.llm.streams",
        "{stream}",
        "Streams that this replica owns, by condition: ok, behind, shedding, silent, failing, ended",
    )
    # By stream, and only of as many as telemetry.max_named_streams
    STREAM_SILENT_S = ("streamo.llm.stream_silent_s", "s", "Since the stream's last frame")
    STREAM_BEHIND_S = ("streamo.llm.stream_behind_s", "s", "Age of the stream's oldest frame not yet decided")
    STREAM_FRAMES_SKIPPED = (
        "streamo.llm.stream_frames_skipped",
        "{frame}",
        "Frames of the stream named in gaps since it was added",
    )
    STREAM_FAILING = ("streamo.llm.stream_failing", "1", "1 where the stream's source cannot be read, else 0")
    PENDING_FRAMES = ("streamo.llm.pending_frames", "{frame}", "Frames read but not yet decided")
    SUBSCRIBERS = ("streamo.gateway.subscribers", "{subscriber}", "Open subscriptions")


Declared = tuple[str, str, str]

# Steps of a fifth, 1 ms to a minute: fine enough to read quantiles off.
_BUCKETS_MS = tuple(round(1.2**step, 2) for step in range(62))


class Telemetry:
    """A service's tracer and instruments. One a process; handed to whoever needs it."""

    def __init__(self, service: str, settings: TelemetrySettings) -> None:
        self._providers: list[TracerProvider | MeterProvider] = []
        self._counters: dict[str, Counter] = {}
        self._histograms: dict[str, Histogram] = {}
        if settings.otlp_endpoint:
            # Two replicas' metrics must not be taken for one's.
            resource = Resource.create(
                {SERVICE_NAME: f"streamo-{service}", SERVICE_INSTANCE_ID: uuid.uuid4().hex}
            )
            endpoint = settings.otlp_endpoint
            insecure = not endpoint.startswith("https://")
            credentials = channel_credentials(settings, "telemetry") if settings.tls_files() else None
            spans = OTLPSpanExporter(endpoint, insecure, credentials)
            tracer_provider = TracerProvider(
                resource=resource, sampler=ParentBased(TraceIdRatioBased(settings.trace_ratio))
            )
            tracer_provider.add_span_processor(BatchSpanProcessor(spans, schedule_delay_millis=1000))
            exporter = OTLPMetricExporter(endpoint, insecure, credentials)
            metric_reader = PeriodicExportingMetricReader(exporter, settings.metric_period_s * 1000)
            by_ms = View(
                instrument_unit="ms",
                instrument_name="*",
                aggregation=ExplicitBucketHistogramAggregation(_BUCKETS_MS),
            )
            meter_provider = MeterProvider([metric_reader], resource, views=[by_ms])
            self._providers = [tracer_provider, meter_provider]
            self.tracer: Tracer = tracer_provider.get_tracer("streamo")
            self._meter: Meter = meter_provider.get_meter("streamo")
        else:
            # Ray sets global providers of its own; ours stay apart from them.
            self.tracer = trace.NoOpTracer()
            self._meter = metrics.NoOpMeter("streamo")

    def count(self, declared: Declared, amount: int = 1, **attributes: str) -> None:
        name, unit, description = declared
        if name not in self._counters:
            self._counters[name] = self._meter.create_counter(name, unit, description)
        self._counters[name].add(amount, attributes)

    def start_at_zero(self, *declared: Declared) -> None:
        """For counters without attributes whose first count must be seen: Prometheus sees no rise from nothing to 1."""
        for one in declared:
            self.count(one, 0)

    def record(self, declared: Declared, value: float, **attributes: str) -> None:
        name, unit, description = declared
        if name not in self._histograms:
            self._histograms[name] = self._meter.create_histogram(name, unit, description)
        self._histograms[name].record(value, attributes)

    def gauge(self, declared: Declared, read: Callable[[], float]) -> None:
        """`read` is called at each export, in the exporter's thread."""
        self.gauge_by(declared, "", lambda: [("", read())])

    def gauge_by(
        self, declared: Declared, attribute: str, read: Callable[[], Iterable[tuple[str, float]]]
    ) -> None:
        """As `gauge`, with a value for each value of the attribute; there must never be many."""

        def observe(_: CallbackOptions) -> Iterable[Observation]:
            return [Observation(float(value), {attribute: of} if attribute else None) for of, value in read()]

        name, unit, description = declared
        self._meter.create_observable_gauge(name, [observe], unit, description)

    def span(
        self,
        name: str,
        start_us: int,
        end_us: int,
        parent: Context | None,
        kind: SpanKind = SpanKind.INTERNAL,
        **attributes: str | int,
    ) -> Context:
        """Records a span that is already over, times in Unix microseconds; the context of the span, to go on from.

        Its length also counts in STAGE_MS, whether the trace is sampled or not. Attribute names are given by the
        keys of `Attributes`, in lower case: `stream_id=...`.
        """
        self.record(Metrics.STAGE_MS, max(0, end_us - start_us) / 1000, stage=name)
        named = {getattr(Attributes, key.upper()): value for key, value in attributes.items()}
        span = self.tracer.start_span(
            name, context=parent, kind=kind, attributes=named, start_time=start_us * 1000
        )
        span.end(end_time=end_us * 1000)
        return trace.set_span_in_context(span, parent)

    def close(self) -> None:
        for provider in self._providers:
            provider.shutdown()
