"""A small OTLP/gRPC receiver for one process: it keeps the newest histograms, so that a summary can give quantiles.

Counts in a histogram are cumulative per process; those of several processes, and of one that was restarted, add up.
"""

import threading
from collections.abc import Iterable, Sequence
from concurrent import futures

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.metrics.v1.metrics_pb2 import HistogramDataPoint


class HistogramReceiver(metrics_service_pb2_grpc.MetricsServiceServicer):
    """Listens on a free loopback port from `start` to `stop`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Per metric and series (resource, attributes, start of counting): the newest data point.
        self._points: dict[str, dict[bytes, HistogramDataPoint]] = {}
        self._server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
        metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(self, self._server)
        port = self._server.add_insecure_port("127.0.0.1:0")
        self.endpoint = f"http://127.0.0.1:{port}"

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        self._server.stop(grace=1).wait(2)

    def Export(
        self, request: metrics_service_pb2.ExportMetricsServiceRequest, context: grpc.ServicerContext
    ) -> metrics_service_pb2.ExportMetricsServiceResponse:
        with self._lock:
            for resource_metrics in request.resource_metrics:
                resource = resource_metrics.resource.SerializeToString(deterministic=True)
                for scope_metrics in resource_metrics.scope_metrics:
                    for metric in scope_metrics.metrics:
                        for point in metric.histogram.data_points:
                            series = self._points.setdefault(metric.name, {})
                            series[resource + _series(point)] = point
        return metrics_service_pb2.ExportMetricsServiceResponse()

    def count(self, metric: str) -> int:
        with self._lock:
            return sum(point.count for point in self._points.get(metric, {}).values())

    def quantiles(self, metric: str, shares: Sequence[float]) -> list[float] | None:
        """Interpolated within buckets; None where nothing was recorded."""
        with self._lock:
            points = list(self._points.get(metric, {}).values())
        counts, bounds, highest = _merged(points)
        total = sum(counts)
        if total == 0:
            return None
        return [_quantile(share * total, counts, bounds, highest) for share in shares]


def _series(point: HistogramDataPoint) -> bytes:
    parts = [attribute.SerializeToString(deterministic=True) for attribute in point.attributes]
    return point.start_time_unix_nano.to_bytes(8) + b"".join(sorted(parts))


def _merged(points: Iterable[HistogramDataPoint]) -> tuple[list[int], list[float], float]:
    counts: list[int] = []
    bounds: list[float] = []
    highest = 0.0
    for point in points:
        if not bounds:
            bounds, counts = list(point.explicit_bounds), [0] * len(point.bucket_counts)
        if list(point.explicit_bounds) != bounds:
            raise ValueError("histograms of one metric have different buckets")
        counts = [a + b for a, b in zip(counts, point.bucket_counts, strict=True)]
        highest = max(highest, point.max)
    return counts, bounds, highest


def _quantile(rank: float, counts: list[int], bounds: list[float], highest: float) -> float:
    below = 0.0
    for index, count in enumerate(counts):
        if count and below + count >= rank:
            low = bounds[index - 1] if index else 0.0
            high = bounds[index] if index < len(bounds) else highest
            high = min(high, highest)
            return low + max(0.0, high - low) * (rank - below) / count
        below += count
    return highest
