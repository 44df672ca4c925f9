"""The arithmetic on hand-made results, and the whole way on the shipped checkpoint."""

from collections import Counter

import pytest

from models.data.simulated import make_sample
from models.engine.config import EngineConfig
from models.engine.engine import Engine
from models.evaluation.free_run import TaskResult, free_run
from models.vlm.model import LanguageModel, VisionEncoder
from models.vlm.state import State
from services.shared.settings import ModelSettings

SILENCE, STANDBY, RESPONSE = State


def test_macro_f1_is_the_mean_over_the_states_that_gold_holds() -> None:
    states = Counter(
        {(SILENCE, SILENCE): 8, (SILENCE, RESPONSE): 2, (RESPONSE, RESPONSE): 2, (RESPONSE, SILENCE): 2}
    )
    # Silence: 2*8/(10+10) = 0.8; Response: 2*2/(4+4) = 0.5; Standby is not in gold.
    assert TaskResult(states=states).macro_f1 == pytest.approx(0.65)


def test_the_shipped_checkpoint_tells_what_happens_by_itself() -> None:
    path = ModelSettings().path
    encoder, model = VisionEncoder.load(path), LanguageModel.load(path)
    engine = Engine(
        model, EngineConfig(max_sessions=1, max_kv_tokens=8192, max_batch_tokens=4096, max_frame_tokens=12)
    )
    samples = [make_sample(seed, "validation", 24, task="narration") for seed in range(4)]
    result = free_run(engine, encoder, samples)["narration"]
    assert result.states.total() == 4 * 24
    assert result.telling.num_gold == sum(
        len(round_.text.split("; ")) for sample in samples for round_ in sample.rounds if round_.text
    )
    assert result.telling.num_right >= result.telling.num_gold / 2
    engine.check_integrity()
