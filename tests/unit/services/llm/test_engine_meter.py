"""What the engine counts leaves as declared metrics: the real engine, a real receiver."""

import itertools

import torch
from support.span_collector import SpanCollector

from models.engine.config import EngineConfig
from models.engine.engine import Engine
from models.engine.round import RoundInput
from models.vlm.model import LanguageModel
from services.llm.engine_meter import EngineMeter
from services.shared.settings import ModelSettings, TelemetrySettings
from services.shared.telemetry import Metrics, Telemetry


def test_the_counts_of_the_engine_leave_by_their_names() -> None:
    torch.set_num_threads(1)
    model = LanguageModel.load(ModelSettings().path)
    engine = Engine(
        model,
        EngineConfig(
            max_sessions=2, max_kv_tokens=4096, max_batch_tokens=64, window_rounds=2, max_frame_tokens=4
        ),
    )
    collector = SpanCollector()
    telemetry = Telemetry("test", TelemetrySettings(otlp_endpoint=collector.endpoint))
    meter = EngineMeter(engine, telemetry, itertools.count(0.0, 0.5).__next__)
    rng = torch.Generator().manual_seed(1)
    engine.open("s", "Tell me when a car arrives.")
    for second in range(3):
        frame = torch.randn(4, model.visual_size, generator=rng)
        engine.append("s", RoundInput(1000 * second, 1000 * (second + 1), frame, (2, 2)))
    num_decided = 0
    while engine.has_work:
        num_decided += len(meter.step())
    assert meter.step() == []
    telemetry.close()

    stats, sent = engine.stats, collector.metrics()
    collector.stop()
    assert num_decided >= 3 and stats.evicted_rounds == 1
    steps = sent[Metrics.STEP_MS[0]].histogram.data_points[0]
    assert (steps.count, steps.sum) == (stats.steps, 500.0 * stats.steps)
    batches = sent[Metrics.BATCH_TOKENS[0]].histogram.data_points[0]
    assert (batches.count, batches.sum) == (stats.steps, stats.extend_tokens + stats.decode_tokens)
    by_kind = {
        point.attributes[0].value.string_value: point.as_int
        for point in sent[Metrics.TOKENS_FED[0]].sum.data_points
    }
    expected = {"extend": stats.extend_tokens, "decode": stats.decode_tokens}
    assert by_kind == {kind: count for kind, count in expected.items() if count}
    assert sent[Metrics.ROUNDS_EVICTED[0]].sum.data_points[0].as_int == 1
    disagreements = sent.get(Metrics.SOFTMAX_DISAGREEMENTS[0])
    assert (disagreements.sum.data_points[0].as_int if disagreements else 0) == stats.disagreements
    gauges = {
        Metrics.KV_FREE_BLOCKS: stats.free_blocks,
        Metrics.KV_HELD_BLOCKS: stats.held_blocks,
        Metrics.PINNED_PREFIXES: 1,
    }
    for declared, value in gauges.items():
        assert sent[declared[0]].gauge.data_points[0].as_double == value > 0
