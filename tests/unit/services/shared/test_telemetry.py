from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError
from support.authority import Authority
from support.span_collector import SpanCollector

from services.shared.errors import InvalidInput
from services.shared.kafka import trace_context, trace_headers
from services.shared.settings import TelemetrySettings
from services.shared.telemetry import Attributes, Metrics, Spans, Telemetry


@pytest.fixture
def collector() -> Iterator[SpanCollector]:
    collector = SpanCollector()
    yield collector
    collector.stop()


def test_a_trace_goes_on_across_kafka_headers(collector):
    telemetry = Telemetry("test", TelemetrySettings(otlp_endpoint=collector.endpoint))
    captured = telemetry.span(Spans.CAPTURE, 1_000, 2_000, None, stream_id="gate", frame_seq=3)
    headers = trace_headers(captured)
    telemetry.span(Spans.RECEIVE, 3_000, 4_000, trace_context(headers))
    telemetry.close()
    ((_, first), (_, second)) = collector.traces()[0]
    assert (first.name, second.name) == (Spans.CAPTURE, Spans.RECEIVE)
    assert second.trace_id == first.trace_id
    assert second.parent_span_id == first.span_id
    assert (first.start_time_unix_nano, first.end_time_unix_nano) == (1_000_000, 2_000_000)
    attributes = {pair.key: pair.value for pair in first.attributes}
    assert attributes[Attributes.STREAM_ID].string_value == "gate"
    assert attributes[Attributes.FRAME_SEQ].int_value == 3


def test_metrics_leave_with_their_declared_names(collector):
    telemetry = Telemetry("test", TelemetrySettings(otlp_endpoint=collector.endpoint))
    telemetry.count(Metrics.FRAMES_KEPT, 2)
    telemetry.record(Metrics.DECISION_MS, 40.0)
    telemetry.gauge(Metrics.SESSIONS, lambda: 5)
    telemetry.close()
    sent = collector.metrics()
    assert set(sent) == {Metrics.FRAMES_KEPT[0], Metrics.DECISION_MS[0], Metrics.SESSIONS[0]}
    assert sent[Metrics.FRAMES_KEPT[0]].sum.data_points[0].as_int == 2
    assert sent[Metrics.SESSIONS[0]].gauge.data_points[0].as_double == 5


def test_the_time_in_a_stage_counts_whether_its_trace_is_sampled_or_not(collector):
    settings = TelemetrySettings(otlp_endpoint=collector.endpoint, trace_ratio=0.0)
    telemetry = Telemetry("test", settings)
    telemetry.span(Spans.RECEIVE, 1_000, 4_000, None)
    telemetry.span(Spans.RECEIVE, 4_000, 1_000, None)  # clocks of two machines
    telemetry.close()
    assert collector.traces() == []
    (point,) = collector.metrics()[Metrics.STAGE_MS[0]].histogram.data_points
    assert (point.count, point.sum) == (2, 3.0)
    assert [(a.key, a.value.string_value) for a in point.attributes] == [("stage", Spans.RECEIVE)]


def test_a_counter_that_starts_at_zero_is_there_before_its_first_count(collector):
    telemetry = Telemetry("test", TelemetrySettings(otlp_endpoint=collector.endpoint))
    telemetry.start_at_zero(Metrics.SEQ_VIOLATIONS)
    telemetry.close()
    assert collector.metrics()[Metrics.SEQ_VIOLATIONS[0]].sum.data_points[0].as_int == 0


def test_spans_and_metrics_go_over_tls_by_the_certificates_that_are_given(tmp_path: Path):
    authority = Authority(tmp_path, "ours")
    collector = SpanCollector(authority)
    us = authority.issue("llm")
    settings = TelemetrySettings(
        otlp_endpoint=collector.endpoint,
        tls_ca_path=authority.ca_path,
        tls_cert_path=us.cert_path,
        tls_key_path=us.key_path,
    )
    telemetry = Telemetry("test", settings)
    telemetry.span(Spans.CAPTURE, 1_000, 2_000, None)
    telemetry.count(Metrics.FRAMES_KEPT)
    telemetry.close()
    collector.stop()
    assert [span.name for _, span in collector.traces()[0]] == [Spans.CAPTURE]
    assert Metrics.FRAMES_KEPT[0] in collector.metrics()


def test_what_is_no_certificate_is_told_by_its_setting(tmp_path: Path):
    (tmp_path / "ca.crt").write_text("none")
    settings = TelemetrySettings(otlp_endpoint="https://127.0.0.1:1", tls_ca_path=str(tmp_path / "ca.crt"))
    with pytest.raises(InvalidInput, match=r"telemetry\.tls_ca_path: .* holds no certificate"):
        Telemetry("test", settings)
    with pytest.raises(
        ValidationError, match="tls_ca_path is set, but otlp_endpoint does not begin with https"
    ):
        TelemetrySettings(otlp_endpoint="http://127.0.0.1:1", tls_ca_path=str(tmp_path / "ca.crt"))


def test_without_an_endpoint_nothing_leaves_and_nothing_breaks():
    telemetry = Telemetry("test", TelemetrySettings())
    context = telemetry.span(Spans.CAPTURE, 1, 2, None, stream_id="gate")
    telemetry.count(Metrics.FRAMES_KEPT)
    assert trace_headers(context) == []
    telemetry.close()


def test_an_attribute_that_is_not_declared_is_refused():
    telemetry = Telemetry("test", TelemetrySettings())
    with pytest.raises(AttributeError):
        telemetry.span(Spans.CAPTURE, 1, 2, None, colour="red")


def test_every_name_is_declared_once():
    for declared in (Spans, Attributes, Metrics):
        names = [value for key, value in vars(declared).items() if not key.startswith("_")]
        names = [name[0] if isinstance(name, tuple) else name for name in names]
        assert len(names) == len(set(names))
