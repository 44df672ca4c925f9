"""Forwards of a step as recorded graphs, so that a GPU need not be told of each kernel anew."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from models.engine.attention.paged import PagedAttention
from models.engine.device_copy import to_device
from models.engine.kv_cache import KVCache
from models.engine.step_input import StepInput
from models.vlm.cuda_capture import Capture, CudaCapture
from models.vlm.last_layer import Wanted
from models.vlm.model import LanguageModel

# Products take rows by the tile, so that up to these sizes what is filled up costs next to nothing.
_SMALL_SIZES = (8, 16, 32, 64, 128)


class StepGraphs:
    """One graph for each of a few numbers of tokens, up to which a step is filled up: with tokens that see nothing, and
    whose keys and values go to the spare slot.

    All of them read their inputs from the same places, and compute in the same memory.
    """

    def __init__(
        self,
        model: LanguageModel,
        cache: KVCache,
        attention: PagedAttention,
        max_tokens: int,
        max_rows: int,
        reduce: Callable[[torch.Tensor], torch.Tensor],
        capture: Capture | None = None,
    ) -> None:
        """`reduce`: from final hidden states [n, H] to what is read back of them, [n, ...]. Records all sizes at once,
        for which a GPU needs some seconds.
        """
        self._model = model
        self._cache = cache
        self._reduce = reduce
        self._sizes = graph_sizes(max_tokens)
        most = self._sizes[-1]
        device = model.device
        self._embeds = torch.zeros(1, most, model.hidden_size, dtype=model.dtype, device=device)
        self._features = torch.zeros(
            model.num_deepstack, most, model.hidden_size, dtype=model.dtype, device=device
        )
        self._graphs: dict[int, _StepGraph] = {}
        capture = capture or CudaCapture(device)
        # The largest first: the others then find memory enough.
        for size in reversed(self._sizes):
            self._graphs[size] = _StepGraph(self, attention, size, min(size, max_rows), capture)

    @torch.inference_mode()
    def forward(self, step: StepInput) -> torch.Tensor:
        """What `reduce` makes of the rows that read logits, in their order; to be used before the next step."""
        num_tokens = len(step.new_slots)
        size = next(size for size in self._sizes if size >= num_tokens)
        self._embeds[:, :num_tokens].copy_(step.embeds)
        if self._model.num_deepstack:
            self._features[:, :size].zero_()
            if step.visual is not None:
                self._features.index_copy_(1, *step.visual)
        return self._graphs[size].forward(step)


class _StepGraph:
    """The graph of steps of up to `size` tokens."""

    def __init__(
        self, graphs: StepGraphs, attention: PagedAttention, size: int, num_reading: int, capture: Capture
    ) -> None:
        model, cache = graphs._model, graphs._cache
        self._size = size
        self._num_reading = num_reading
        self._spare_slot = cache.spare_slot
        # New slots, the tokens that are read, positions.
        self._integers = torch.zeros(4 * size + num_reading, dtype=torch.int64, device=model.device)
        new_slots, reading, positions = self._integers.split((size, num_reading, 3 * size))
        new_slots.fill_(cache.spare_slot)
        self._all = attention.fixed(cache, new_slots, num_reading, model.num_heads, one_query=False)
        self._last = attention.fixed(cache, new_slots, num_reading, model.num_heads, one_query=True)
        embeds = graphs._embeds[:, :size]
        every_token = torch.arange(size, device=model.device)
        visual = (every_token, graphs._features[:, :size]) if model.num_deepstack else None

        def compute() -> torch.Tensor:
            hidden = model.forward(
                embeds,
                positions.view(3, 1, size),
                visual=visual,
                wanted=Wanted(reading, {"attention_step": self._last.begin()}),
                attention_step=self._all.begin(),
            )
            return graphs._reduce(hidden[0])

        self._compute = capture(compute)

    def forward(self, step: StepInput) -> torch.Tensor:
        num_tokens, num_read = len(step.new_slots), len(step.reading)
        integers = np.zeros(len(self._integers), dtype=np.int64)
        new_slots, reading, positions = np.split(integers, (self._size, self._size + self._num_reading))
        new_slots[:num_tokens] = step.new_slots
        new_slots[num_tokens:] = self._spare_slot
        reading[:num_read] = step.last_tokens
        positions.reshape(3, self._size)[:, :num_tokens] = step.positions
        self._integers.copy_(to_device(integers, self._integers.device))
        self._all.set(step.rows)
        self._last.set(step.last_queries)
        return self._compute()[:num_read]


def graph_sizes(max_tokens: int) -> tuple[int, ...]:
    """Numbers of tokens for which there are graphs, the last of them at least `max_tokens`."""
    sizes = [*_SMALL_SIZES]
    while sizes[-1] < max_tokens:
        sizes.append(sizes[-1] + (128 if sizes[-1] < 1024 else 256))
    first_enough = next(index for index, size in enumerate(sizes) if size >= max_tokens)
    return tuple(sizes[: first_enough + 1])
