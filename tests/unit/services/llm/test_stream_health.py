"""Which streams are in trouble, and that no more of them are named than may be."""

import itertools

from support.span_collector import SpanCollector

from services.llm.stream_health import Condition, StreamHealth, StreamMeter
from services.shared.settings import TelemetrySettings
from services.shared.telemetry import Metrics, Telemetry


def health(
    stream_id: str, condition: Condition, silent_s: float = 0.0, behind_s: float = 0.0
) -> StreamHealth:
    return StreamHealth(stream_id, condition, silent_s, behind_s, frames_skipped=3)


def told(streams: list[StreamHealth], max_named: int) -> dict[str, dict[str, float]]:
    """metric: value of each attribute."""
    collector = SpanCollector()
    telemetry = Telemetry("test", TelemetrySettings(otlp_endpoint=collector.endpoint))
    StreamMeter(telemetry, max_named, itertools.count(0.0, 10.0).__next__).update(streams)
    telemetry.close()
    collector.stop()
    return {
        name: {p.attributes[0].value.string_value: p.as_double for p in metric.gauge.data_points}
        for name, metric in collector.metrics().items()
    }


def test_every_condition_is_counted_over_all_streams_and_the_worst_are_named():
    streams = [
        health("calm", Condition.OK),
        health("late", Condition.BEHIND, behind_s=6.0),
        health("dead", Condition.FAILING, silent_s=90.0),
        health("mute", Condition.SILENT, silent_s=40.0),
        health("over", Condition.ENDED),
    ]
    sent = told(streams, max_named=3)
    assert sent[Metrics.STREAMS[0]] == {
        "failing": 1, "silent": 1, "shedding": 0, "behind": 1, "ok": 1, "ended": 1
    }  # fmt: skip
    assert sent[Metrics.STREAM_SILENT_S[0]] == {"dead": 90.0, "mute": 40.0, "late": 0.0}
    assert sent[Metrics.STREAM_BEHIND_S[0]]["late"] == 6.0
    assert sent[Metrics.STREAM_FAILING[0]] == {"dead": 1.0, "mute": 0.0, "late": 0.0}
    assert sent[Metrics.STREAM_FRAMES_SKIPPED[0]]["dead"] == 3.0


def test_no_stream_is_named_where_none_may_be():
    sent = told([health("dead", Condition.FAILING)], max_named=0)
    assert sent[Metrics.STREAMS[0]]["failing"] == 1
    assert Metrics.STREAM_FAILING[0] not in sent or sent[Metrics.STREAM_FAILING[0]] == {}
