"""Metrics as a collector and Prometheus would keep them, in memory, and the part of PromQL that the board speaks."""

from __future__ import annotations

import math
import re
import threading
import time
from collections import defaultdict
from concurrent import futures

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric

Labels = frozenset[tuple[str, str]]
Vector = dict[Labels, float]

# A series that nobody sends any more ends; as the collector's metric_expiration.
_EXPIRY_S = 120.0
_TOKEN = re.compile(r'\s*(\d+\.?\d*[smh]?|"[^"]*"|\w+|[(){}\[\],>=])')
_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0}


class MetricStore(
    metrics_service_pb2_grpc.MetricsServiceServicer, trace_service_pb2_grpc.TraceServiceServicer
):
    """An OTLP/gRPC receiver. `endpoint` is for `telemetry.otlp_endpoint`; traces are taken and forgotten."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._series: dict[str, dict[Labels, list[tuple[float, float]]]] = defaultdict(dict)
        self._server = grpc.server(futures.ThreadPoolExecutor(2))
        metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(self, self._server)
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)
        self.endpoint = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def Export(self, request, context):  # type: ignore[no-untyped-def]
        if isinstance(request, trace_service_pb2.ExportTraceServiceRequest):
            return trace_service_pb2.ExportTraceServiceResponse()
        now_s = time.time()
        with self._lock:
            for resource in request.resource_metrics:
                of = {
                    ("instance", a.value.string_value)
                    for a in resource.resource.attributes
                    if a.key == "service.instance.id"
                }
                for scope in resource.scope_metrics:
                    for metric in scope.metrics:
                        self._add(metric, of, now_s)
        return metrics_service_pb2.ExportMetricsServiceResponse()

    def add(self, name: str, labels: dict[str, str], at_s: float, value: float) -> None:
        self._series[name].setdefault(frozenset(labels.items()), []).append((at_s, value))

    def stop(self) -> None:
        self._server.stop(grace=0)

    def query(self, expression: str, at_s: float) -> Vector:
        """Raises ValueError for what is not of the board's part of PromQL."""
        with self._lock:
            return _Query(expression, at_s, self._series).value()

    def _add(self, metric: Metric, of: set[tuple[str, str]], now_s: float) -> None:
        name = metric.name.replace(".", "_")
        for point in (*metric.sum.data_points, *metric.gauge.data_points, *metric.histogram.data_points):
            labels = dict(of | {(a.key, a.value.string_value) for a in point.attributes})
            if metric.HasField("histogram"):
                below = 0
                for bound, count in zip((*point.explicit_bounds, math.inf), point.bucket_counts, strict=True):
                    below += count
                    self.add(f"{name}_bucket", {**labels, "le": f"{bound:g}"}, now_s, below)
                self.add(f"{name}_sum", labels, now_s, point.sum)
                self.add(f"{name}_count", labels, now_s, point.count)
            else:
                value = point.as_int if point.WhichOneof("value") == "as_int" else point.as_double
                self.add(name, labels, now_s, value)


class _Query:
    """One expression at one time, read from left to right."""

    def __init__(
        self, text: str, at_s: float, series: dict[str, dict[Labels, list[tuple[float, float]]]]
    ) -> None:
        self._tokens = _TOKEN.findall(text)
        if "".join(self._tokens) != re.sub(r"\s", "", text):
            raise ValueError(f"not understood: {text}")
        self._text, self._at_s, self._series = text, at_s, series

    def value(self) -> Vector:
        value = self._compared()
        if self._tokens:
            raise ValueError(f"{self._tokens[0]!r} is not understood in {self._text}")
        return value

    def _take(self, expected: str = "") -> str:
        token = self._tokens.pop(0) if self._tokens else ""
        if expected and token != expected:
            raise ValueError(f"{expected!r} expected, not {token!r}, in {self._text}")
        return token

    def _compared(self) -> Vector:
        value = self._operand()
        while self._tokens[:1] == [">"]:
            self._take()
            least = float(self._take())
            value = {labels: one for labels, one in value.items() if one > least}
        return value

    def _operand(self) -> Vector:
        name = self._take()
        match name:
            case "sum" | "max" | "count":
                return self._aggregated(name)
            case "rate" | "increase" | "delta":
                self._take("(")
                series, range_s = self._selected()
                self._take(")")
                return self._risen(name, series, range_s)
            case "histogram_quantile" | "topk":
                self._take("(")
                argument = float(self._take())
                self._take(",")
                value = self._compared()
                self._take(")")
                return _quantiles(argument, value) if name != "topk" else _greatest(int(argument), value)
            case _:
                self._tokens.insert(0, name)
                series, _ = self._selected()
                newest = {labels: points[-1] for labels, points in series.items()}
                return {
                    labels: value for labels, (at_s, value) in newest.items() if self._at_s - at_s < _EXPIRY_S
                }

    def _aggregated(self, how: str) -> Vector:
        by: list[str] = []
        if self._tokens[:1] == ["by"]:
            self._take()
            self._take("(")
            while (token := self._take()) != ")":
                by += [token] if token != "," else []
        self._take("(")
        value = self._compared()
        self._take(")")
        groups: dict[Labels, list[float]] = defaultdict(list)
        for labels, one in value.items():
            groups[frozenset(pair for pair in labels if pair[0] in by)].append(one)
        fold = {"sum": math.fsum, "max": max, "count": lambda ones: float(len(ones))}[how]
        return {labels: fold(ones) for labels, ones in groups.items()}

    def _selected(self) -> tuple[dict[Labels, list[tuple[float, float]]], float]:
        """The series up to now, and the range asked for, 0 where there is none."""
        name, wanted, range_s = self._take(), set(), 0.0
        if self._tokens[:1] == ["{"]:
            self._take()
            while (label := self._take()) != "}":
                if label != ",":
                    self._take("=")
                    wanted.add((label, self._take().strip('"')))
        if self._tokens[:1] == ["["]:
            self._take()
            length = self._take()
            range_s = float(length[:-1]) * _UNITS_S[length[-1]]
            self._take("]")
        series = {
            labels: until
            for labels, points in self._series.get(name, {}).items()
            if wanted <= labels and (until := [point for point in points if point[0] <= self._at_s])
        }
        return series, range_s

    def _risen(self, how: str, series: dict[Labels, list[tuple[float, float]]], range_s: float) -> Vector:
        risen: Vector = {}
        for labels, points in series.items():
            inside = [point for point in points if point[0] > self._at_s - range_s]
            if len(inside) >= 2:
                (begin_s, first), (end_s, last) = inside[0], inside[-1]
                per_s = (last - first) / (end_s - begin_s)
                risen[labels] = per_s if how == "rate" else per_s * range_s
        return risen


def _quantiles(share: float, buckets: Vector) -> Vector:
    groups: dict[Labels, list[tuple[float, float]]] = defaultdict(list)
    for labels, count in buckets.items():
        (bound,) = (float(value) for name, value in labels if name == "le")
        groups[frozenset(pair for pair in labels if pair[0] != "le")].append((bound, count))
    found: Vector = {}
    for labels, counts in groups.items():
        counts.sort()
        rank = share * counts[-1][1]
        low = below = 0.0
        for bound, count in counts:
            if count >= rank and counts[-1][1] > 0:
                found[labels] = (
                    low
                    if math.isinf(bound)
                    else low + (bound - low) * (rank - below) / max(count - below, 1e-12)
                )
                break
            low, below = bound, count
    return found


def _greatest(count: int, value: Vector) -> Vector:
    return dict(sorted(value.items(), key=lambda item: -item[1])[:count])
