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
        # On its own, or called by scaled_dot_product_attention.
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
    """Of one quiet round of each session: what has to be computed to read its logits.

    The last layer needs keys and values of all tokens, the rest of only the last one of each session. Two
    operations a multiply-add; no credit for what the causal mask hides, since attention's kernels compute it.
    """
    model = workload.model
    context = workload.window_tokens(window_rounds)
    linear = attention = 0
    for num_all, num_wanted in _tokens_by_layer(workload, num_sessions):
        for (rows, cols), is_of_all in _layer_weights(workload):
            linear += 2 * rows * cols * (num_all if is_of_all else num_wanted)
        attention += 4 * num_wanted * context * model.num_heads * model.head_dim
    head = 2 * num_sessions * model.vocab_size * model.hidden_size
    return Flops(float(linear), float(attention), float(head))


class _Products:
    """The matrix products of a step and nothing else: no norm, no rotation, no softmax, no bookkeeping."""

    def __init__(self, workload: Workload, num_sessions: int) -> None:
        model = workload.model
        num_shared = model.num_heads // model.num_kv_heads
        context = workload.window_tokens(WINDOW_ROUNDS)
        self._weights = [(torch.randn(shape), is_of_all) for shape, is_of_all in _layer_weights(workload)]
        self._layers = _tokens_by_layer(workload, num_sessions)
        most = max(num_all for num_all, _ in self._layers)
        self._inputs = {weight.shape[1]: torch.randn(most, weight.shape[1]) for weight, _ in self._weights}
        self._queries = torch.randn(model.num_kv_heads, num_shared * most, model.head_dim)
        self._num_shared = num_shared
        self._keys = torch.randn(num_sessions, model.num_kv_heads, context, model.head_dim)
        self._head = torch.randn(model.vocab_size, model.hidden_size)
        self._last = torch.randn(num_sessions, model.hidden_size)

    @torch.inference_mode()
    def run(self) -> None:
        for num_all, num_wanted in self._layers:
            for weight, is_of_all in self._weights:
                F.linear(self._inputs[weight.shape[1]][: num_all if is_of_all else num_wanted], weight)
            queries = self._queries[:, : self._num_shared * num_wanted // len(self._keys)]
            for keys in self._keys:
                torch.bmm(torch.bmm(queries, keys.transpose(1, 2)), keys)
        F.linear(self._last, self._head)


def _tokens_by_layer(workload: Workload, num_sessions: int) -> list[tuple[int, int]]:
    """Of each layer: tokens whose keys and values are made, and tokens that go through the rest of it."""
    num_tokens = num_sessions * workload.round_tokens
    return [(num_tokens, num_tokens)] * (workload.model.num_layers - 1) + [(num_tokens, num_sessions)]


def _layer_weights(workload: Workload) -> list[tuple[tuple[int, int], bool]]:
    """Shapes [out, in] of the linear layers of a decoder layer; whether they are run for all tokens even in
    the last one.
    """
    model = workload.model
    intermediate = model._text.config.intermediate_size
    kv_size = model.num_kv_heads * model.head_dim
    q_size = model.num_heads * model.head_dim
    return [
        ((q_size, model.hidden_size), False),
        ((kv_size, model.hidden_size), True),
        ((kv_size, model.hidden_size), True),
        ((model.hidden_size, q_size), False),
        ((intermediate, model.hidden_size), False),
        ((intermediate, model.hidden_size), False),
        ((model.hidden_size, intermediate), False),
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
