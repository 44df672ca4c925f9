"""A real OTLP/gRPC receiver that keeps the spans and metrics it is sent."""

import threading
from concurrent import futures
from pathlib import Path

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from support.authority import Authority


class SpanCollector(
    trace_service_pb2_grpc.TraceServiceServicer, metrics_service_pb2_grpc.MetricsServiceServicer
):
    """`endpoint` is for `telemetry.otlp_endpoint`. May be read while spans arrive. With an authority it speaks TLS, to
    those alone whom that authority vouches for."""

    def __init__(self, authority: Authority | None = None) -> None:
        self._lock = threading.Lock()
        self._traces: dict[bytes, list[tuple[str, Span]]] = {}
        self._metrics: dict[str, Metric] = {}
        self._server = grpc.server(futures.ThreadPoolExecutor(2))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)
        metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(self, self._server)
        if authority is None:
            self.endpoint = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        else:
            own = authority.issue("collector")
            pair = (Path(own.key_path).read_bytes(), Path(own.cert_path).read_bytes())
            authorities = Path(authority.ca_path).read_bytes()
            credentials = grpc.ssl_server_credentials([pair], authorities, require_client_auth=True)
            self.endpoint = f"https://127.0.0.1:{self._server.add_secure_port('127.0.0.1:0', credentials)}"
        self._server.start()

    def Export(self, request, context):  # type: ignore[no-untyped-def]
        with self._lock:
            if isinstance(request, metrics_service_pb2.ExportMetricsServiceRequest):
                for resource in request.resource_metrics:
                    for scope in resource.scope_metrics:
                        self._metrics.update((metric.name, metric) for metric in scope.metrics)
                return metrics_service_pb2.ExportMetricsServiceResponse()
            for resource in request.resource_spans:
                service = next(
                    a.value.string_value for a in resource.resource.attributes if a.key == "service.name"
                )
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        self._traces.setdefault(span.trace_id, []).append((service, span))
        return trace_service_pb2.ExportTraceServiceResponse()

    def traces(self) -> list[list[tuple[str, Span]]]:
        """Per trace: (service, span), oldest first."""
        with self._lock:
            traces = [list(spans) for spans in self._traces.values()]
        return [sorted(spans, key=lambda pair: pair[1].start_time_unix_nano) for spans in traces]

    def metrics(self) -> dict[str, Metric]:
        """The newest of each name."""
        with self._lock:
            return dict(self._metrics)

    def stop(self) -> None:
        self._server.stop(grace=0)
