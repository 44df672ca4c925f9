"""The KV cache that the GPU profiles of chart and compose ask for: what fits a GPU, and what fits into it."""

from pathlib import Path

import pytest
import yaml

from models.data.stream_format import DEFAULT_SYSTEM_PROMPT
from models.engine.config import EngineConfig, SessionLimits
from models.vlm.dialogue import Dialogue
from models.vlm.streamo_config import StreamoConfig
from services.shared.settings import LlmSettings
from tests.bench.random_model import SHAPES
from tests.bench.scaling_plan import Assumed, kv_bytes, weight_bytes

ROOT = Path(__file__).parents[2]
# What `streamo model prepare` writes down by default.
PREPARED = StreamoConfig(window_rounds=120, max_reply_tokens=128, system_prompt=DEFAULT_SYSTEM_PROMPT)
MAX_FRAME_TOKENS = 128
INSTRUCTION = "Tell me when a red car arrives at the gate."


def of_chart() -> LlmSettings:
    values = yaml.safe_load((ROOT / "charts/streamo/values-gpu.yaml").read_text())
    return LlmSettings(**values["settings"]["llm"])


def of_compose() -> LlmSettings:
    overlay = yaml.safe_load((ROOT / "docker-compose.gpu.yml").read_text())
    environment = overlay["services"]["model"]["environment"]
    prefix = "STREAMO_LLM__"
    return LlmSettings(
        **{
            name.removeprefix(prefix).lower(): value
            for name, value in environment.items()
            if name.startswith(prefix)
        }
    )


@pytest.fixture(scope="module")
def dialogue() -> Dialogue:
    return Dialogue.load(ROOT / "models/checkpoints/streamo-tiny", DEFAULT_SYSTEM_PROMPT)


def limits(settings: LlmSettings, dialogue: Dialogue) -> SessionLimits:
    config = EngineConfig(
        settings.max_sessions,
        settings.max_kv_tokens,
        settings.max_batch_tokens,
        max_window_tokens=settings.max_window_tokens or None,
        max_frame_tokens=MAX_FRAME_TOKENS,
    )
    return SessionLimits.of(config, PREPARED, dialogue)


def num_sessions(settings: LlmSettings, dialogue: Dialogue) -> int:
    """That the cache holds, if no two of them begin alike."""
    block_tokens = EngineConfig(1, 16, 8).block_tokens
    num_pinned = len(dialogue.pinned_prefix(INSTRUCTION))
    window = limits(settings, dialogue).max_window_tokens(num_pinned)
    blocks = -(-window // block_tokens) + -(-num_pinned // block_tokens)
    return settings.max_kv_tokens // block_tokens // blocks


def test_chart_and_compose_ask_for_the_same():
    assert of_chart() == of_compose()


def test_as_many_sessions_fit_as_the_comments_say(dialogue: Dialogue):
    assert limits(LlmSettings(), dialogue).max_round_tokens == 298
    assert num_sessions(LlmSettings(), dialogue) == 5
    assert num_sessions(of_chart(), dialogue) == 38


def test_a_window_holds_all_its_rounds_where_one_in_eight_responds(dialogue: Dialogue):
    at, chart = Assumed(), of_chart()
    # A camera that has been up for days: the later, the longer the time tag.
    head = len(dialogue.round_head(10**9 + 300, 10**9 + 1800, MAX_FRAME_TOKENS))
    usual = head + 1 + len(dialogue.round_tail) + at.response_share * at.reply_tokens
    before = len(dialogue.pinned_prefix(INSTRUCTION)) + (PREPARED.window_rounds - 1) * usual
    # The last of them needs the room of the longest.
    assert before + limits(chart, dialogue).max_round_tokens <= chart.max_window_tokens


def test_the_cache_fits_a_gpu_of_80_gb_beside_qwen2_5_vl_7b():
    shape, at = SHAPES["qwen2.5-7b"], Assumed()
    assert kv_bytes(shape) == 57_344
    used_gb = (of_chart().max_kv_tokens * kv_bytes(shape) + weight_bytes(shape)) / 1e9 + at.reserved_gb
    assert used_gb < at.gpu_memory_gb
