"""A real OTLP/gRPC receiver that keeps the newest gauges of every process that sends some."""

import threading
import time
from concurrent import futures

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc


class GaugeCollector(metrics_service_pb2_grpc.MetricsServiceServicer):
    """`endpoint` is for `telemetry.otlp_endpoint`. May be read while metrics arrive."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._gauges: dict[str, dict[str, float]] = {}  # instance: metric: value
        self._heard_s: dict[str, float] = {}
        self._server = grpc.server(futures.ThreadPoolExecutor(2))
        metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(self, self._server)
        self.endpoint = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def Export(self, request, context):  # type: ignore[no-untyped-def]
        with self._lock:
            for resource in request.resource_metrics:
                attributes = {a.key: a.value.string_value for a in resource.resource.attributes}
                instance = attributes["service.instance.id"]
                gauges = self._gauges.setdefault(instance, {})
                self._heard_s[instance] = time.monotonic()
                for scope in resource.scope_metrics:
                    for metric in scope.metrics:
                        for point in metric.gauge.data_points:
                            gauges[metric.name] = point.as_double
        return metrics_service_pb2.ExportMetricsServiceResponse()

    def gauges(self, age_s: float) -> dict[str, dict[str, float]]:
        """Instance to metric to value, of the instances heard of within `age_s`, in the order of their first word."""
        with self._lock:
            oldest_s = time.monotonic() - age_s
            return {
                name: dict(found) for name, found in self._gauges.items() if self._heard_s[name] >= oldest_s
            }

    def stop(self) -> None:
        self._server.stop(grace=0)
