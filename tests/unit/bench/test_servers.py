"""What is put under load does what it is said to do."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from models.engine.engine_stats import EngineStats
from services.shared.settings import ModelSettings
from tests.bench import limit
from tests.bench.arrivals import run_trial
from tests.bench.engine_load import SIDES, make_server
from tests.bench.hugging_face import EvictMany
from tests.bench.random_model import Shape, random_encoder, random_language_model
from tests.bench.scripted import Script
from tests.bench.servers import EngineServer, Frames
from tests.bench.window_copies import open_full
from tests.bench.workload import QuietSessions, Workload

SMALL = Shape(
    text={
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 96,
        "vocab_size": 1100,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
    },
    vision={
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "out_hidden_size": 64,
        "fullatt_block_indexes": [1],
    },
    window_rounds=4,
    frame_hw=(56, 84),
)


class StepClock:
    """Time goes by only while the server is asleep."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 1e-6
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture(scope="module")
def workload() -> Workload:
    torch.set_num_threads(1)
    return Workload.load(ModelSettings().path)


def test_scripted_rounds_respond_with_as_many_tokens_as_the_script_says(workload: Workload) -> None:
    script = Script(response_share=0.5, reply_tokens=3, seed=1)
    server = make_server(workload, "engine", script, 4, max_streams=3, max_batch_tokens=256)
    assert isinstance(server, EngineServer)
    server.open(3)
    clock = StepClock()
    trial = run_trial(server, 3, 8.0, np.random.default_rng(0), clock, clock.sleep)
    assert (trial.num_decided, trial.num_shed) == (24, 0)
    num_responses = sum(script.responds(stream, index) for stream in range(3) for index in range(4, 12))
    assert 4 < num_responses < 20
    stats: EngineStats = server.engine.stats
    # The state token and three words are fed, the last of them for the token that ends the reply.
    assert stats.decode_tokens == 4 * num_responses
    server.engine.check_integrity()


def test_a_window_that_is_copied_is_the_one_that_would_be_computed(workload: Workload) -> None:
    server = make_server(workload, "engine", Script(), 4, max_streams=2, max_batch_tokens=64)
    assert isinstance(server, EngineServer)
    server.open(1)
    past = [workload.quiet_round(index) for index in range(4)]
    open_full(server.engine, ["computed"], workload.instruction, past)
    server.engine.check_integrity()
    cache = server.engine._memory.cache
    copied, computed = (server.engine._sessions[name].table.slots for name in ("0", "computed"))
    assert len(copied) == len(computed) > 3 * workload.round_tokens
    for kept in (cache.keys, cache.values):
        torch.testing.assert_close(kept[:, copied], kept[:, computed])
        assert kept[:, copied].abs().amin(dim=(0, 2, 3)).amax() > 0


@pytest.mark.parametrize("side", SIDES)
def test_every_side_decides_every_frame(workload: Workload, side: str) -> None:
    server = make_server(workload, side, Script(0.3, 2), 4, max_streams=4, max_batch_tokens=256)
    server.open(4)
    clock = StepClock()
    trial = run_trial(server, 4, 5.0, np.random.default_rng(0), clock, clock.sleep)
    assert (trial.num_decided, trial.num_shed) == (20, 0)


def test_baselines_do_not_all_prefill_in_the_same_second(workload: Workload) -> None:
    server = make_server(workload, "evict_half", Script(), 8, max_streams=4, max_batch_tokens=256)
    server.open(4)
    chats = [chat for chat in server._chats if isinstance(chat, EvictMany)]
    assert [chat.num_rounds for chat in chats] == [5, 6, 7, 8]


def test_a_random_model_of_a_shape_runs_with_its_encoder() -> None:
    cpu = torch.device("cpu")
    model = random_language_model(SMALL, ModelSettings().path, torch.float32, cpu)
    encoder = random_encoder(SMALL, torch.float32, cpu)
    frame = torch.randn(6, model.visual_size)
    workload = Workload(model, "Report deliveries.", (frame,), SMALL.grid)
    (tokens,) = Frames(workload, encoder).tokens(1)
    assert tokens.shape == frame.shape
    assert torch.isfinite(tokens).all()
    server = make_server(workload, "engine", Script(), SMALL.window_rounds, 2, 256, encoder)
    server.open(2)
    clock = StepClock()
    trial = run_trial(server, 2, 3.0, np.random.default_rng(0), clock, clock.sleep)
    assert (trial.num_decided, trial.num_shed) == (6, 0)


def test_counted_operations_are_those_that_run(workload: Workload) -> None:
    sessions = QuietSessions(workload, 6, 3)
    with FlopCounterMode(display=False) as counter:
        sessions.one_round()
    expected = limit.step_flops(workload, 3, 6)
    counts = {str(operator): count for operator, count in counter.get_flop_counts()["Global"].items()}
    attention = sum(count for name, count in counts.items() if "attention" in name)
    products = sum(count for name, count in counts.items() if "attention" not in name)
    # Biases are not counted here, and some are fused into the products there.
    assert products == pytest.approx(expected.linear + expected.head, rel=0.01)
    assert attention in (0, pytest.approx(expected.attention, rel=0.01))
