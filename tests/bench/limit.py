"""How near the extend comes to what this machine's matrix products allow, and where the rest goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from tests.bench.stopwatch import Meter, Spread, interleaved, seconds_of
from tests.bench.workload import QuietSessions, Workload

WINDOW_ROUNDS = 32
NUM_PROFILED = 10

# The operators that do the work, by what they are for; whatever is not named here is "other operators".
KINDS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::linear", "aten::matmul"),
    "attention": (
        "aten::_scaled_dot_product_flash_attention_for_cpu",
        "aten::scaled_dot_product_attention",
        "aten::_scaled_dot_product_attention_math",
    ),
    "arithmetic by element": (
        *("aten::mul", "aten::add", "aten::add_", "aten::neg", "aten::silu", "aten::rsqrt", "aten::mean"),
        *("aten::pow", "aten::sub", "aten::cos", "aten::sin", "aten::_softmax", "aten::sum", "aten::div"),
    ),
    "copies": (
        *(
            "aten::copy_",
            "aten::cat",
            "aten::index_copy_",
            "aten::index_select",
            "aten::clone",
            "aten::index",
        ),
        *("aten::fill_", "aten::zero_", "aten::triu_", "aten::embedding", "aten::repeat", "aten::_to_copy"),
    ),
}
OTHER = "other operators"


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of one step: linear layers, attention, output head."""

    linear: float
    attention: float
    head: float

    @property
    def total(self) -> float:
        return self.linear + self.attention + self.head


@dataclass(frozen=True)
class Limit:
    """One step of `num_sessions` sessions, each with one new round.

    `products_s` is how long the matrix products of the step take by themselves, with the same shapes, in
    plain PyTorch. `overhead_s` is the step less the time inside the model's forward and output head.
    `shares` are parts of the step's wall time, by the profiler; "python" is what no operator accounts for.
    """

    num_sessions: int
    num_tokens: int
    flops: Flops
    step_s: Spread
    products_s: Spread
    overhead_s: Spread
    shares: dict[str, float]

    @property
    def flops_per_s(self) -> float:
        return self.flops.total / self.step_s.median

    @property
    def products_flops_per_s(self) -> float:
        return self.flops.total / self.products_s.median


def measure(workload: Workload, num_sessions: int, num_repeats: int) -> Limit:
    sessions = QuietSessions(workload, WINDOW_ROUNDS, num_sessions)
    products = _Products(workload, num_sessions)
    steps = max(1, 16 // num_sessions)
    step_s: list[float] = []
    products_s: list[float] = []
    overhead_s: list[float] = []

    def step_block() -> None:
        meter = Meter()
        with meter.around(workload.model, "forward", "logits"):
            seconds = seconds_of(lambda: [sessions.one_round() for _ in range(steps)])
        step_s.append(seconds / steps)
        overhead_s.append((seconds - meter.seconds) / steps)

    def products_block() -> None:
        products_s.append(seconds_of(lambda: [products.run() for _ in range(steps)]) / steps)

    interleaved([step_block, products_block], num_repeats)
    return Limit(
        num_sessions,
        num_sessions * workload.round_tokens,
        step_flops(workload, num_sessions, WINDOW_ROUNDS),
        Spread.of(step_s),
        Spread.of(products_s),
        Spread.of(overhead_s),
        _shares(sessions.one_round),
    )


def step_flops(workload: Workload, num_sessions: int, window_rounds: int) -> Flops:
    """Of one quiet round of each session; two operations a multiply-add, no credit for what the causal mask
    hides (attention's kernels compute it).
    """
    model = workload.model
    num_tokens = num_sessions * workload.round_tokens
    context = workload.window_tokens(window_rounds)
    linear = sum(rows * cols for rows, cols in _layer_weights(workload)) * model.num_layers
    attention = 4 * num_tokens * context * model.num_heads * model.head_dim * model.num_layers
    head = num_sessions * model.vocab_size * model.hidden_size
    return Flops(2.0 * num_tokens * linear, float(attention), 2.0 * head)


class _Products:
    """The matrix products of a step and nothing else: no norm, no rotation, no softmax, no bookkeeping."""

    def __init__(self, workload: Workload, num_sessions: int) -> None:
        model = workload.model
        self._num_layers = model.num_layers
        num_tokens = num_sessions * workload.round_tokens
        context = workload.window_tokens(WINDOW_ROUNDS)
        self._weights = [torch.randn(rows, cols) for rows, cols in _layer_weights(workload)]
        self._inputs = [torch.randn(num_tokens, weight.shape[1]) for weight in self._weights]
        folded = workload.round_tokens * model.num_heads // model.num_kv_heads
        self._queries = torch.randn(model.num_kv_heads, folded, model.head_dim)
        self._keys = torch.randn(num_sessions, model.num_kv_heads, context, model.head_dim)
        self._head = torch.randn(model.vocab_size, model.hidden_size)
        self._last = torch.randn(num_sessions, model.hidden_size)

    @torch.inference_mode()
    def run(self) -> None:
        for _ in range(self._num_layers):
            for inputs, weight in zip(self._inputs, self._weights, strict=True):
                F.linear(inputs, weight)
            for keys in self._keys:
                torch.bmm(torch.bmm(self._queries, keys.transpose(1, 2)), keys)
        F.linear(self._last, self._head)


def _layer_weights(workload: Workload) -> list[tuple[int, int]]:
    """[out, in] of the linear layers of one decoder layer."""
    model = workload.model
    intermediate = model._text.config.intermediate_size
    kv_size = model.num_kv_heads * model.head_dim
    q_size = model.num_heads * model.head_dim
    return [
        (q_size, model.hidden_size),
        (kv_size, model.hidden_size),
        (kv_size, model.hidden_size),
        (model.hidden_size, q_size),
        (intermediate, model.hidden_size),
        (intermediate, model.hidden_size),
        (model.hidden_size, intermediate),
    ]


def _shares(one_round: Callable[[], object]) -> dict[str, float]:
    wall_s = float(np.median([seconds_of(one_round) for _ in range(NUM_PROFILED)]))
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(NUM_PROFILED):
            one_round()
    kind_of = {name: kind for kind, names in KINDS.items() for name in names}
    seconds = dict.fromkeys([*KINDS, OTHER], 0.0)
    for event in profiler.key_averages():
        seconds[kind_of.get(event.key, OTHER)] += event.self_cpu_time_total / 1e6 / NUM_PROFILED
    # The profiler makes small operators look longer than they are; no more than the wall can be theirs.
    scale = min(1.0, wall_s / sum(seconds.values()))
    shares = {kind: scale * value / wall_s for kind, value in seconds.items()}
    return {**shares, "python": 1.0 - sum(shares.values())}
