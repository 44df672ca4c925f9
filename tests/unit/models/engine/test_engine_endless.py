"""A session that never ends holds at round 20,000 what it held at round 500."""

import gc
import tracemalloc
from collections import deque
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from engine_support import INSTRUCTIONS, make_model, make_rounds

from models.engine.config import EngineConfig
from models.engine.engine import Engine
from models.engine.round import RoundInput
from models.vlm.state import State

NUM_ROUNDS = 20_000


def sizes_of_all_it_holds(root: object) -> tuple[int, int]:
    """Objects that can be reached from here, and the places in all lists, dicts, deques, sets, arrays and
    tensors among them.
    """
    seen: dict[int, Any] = {}
    left = [root]
    while left:
        one = left.pop()
        if id(one) in seen or isinstance(one, type | ModuleType | FunctionType):
            continue
        seen[id(one)] = one
        left += gc.get_referents(one)
    num_places = 0
    for one in seen.values():
        if isinstance(one, list | dict | deque | set):
            num_places += len(one)
        elif isinstance(one, np.ndarray):
            num_places += one.size
        elif isinstance(one, torch.Tensor):
            num_places += one.numel()
    return len(seen), num_places


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("max_window_tokens", [None, 330])
def test_nothing_grows_in_twenty_thousand_rounds(max_window_tokens: int | None) -> None:
    model = make_model(hidden_size=16, num_layers=1, intermediate_size=16, num_heads=1, num_kv_heads=1)
    config = EngineConfig(
        max_sessions=2,
        max_kv_tokens=2048,
        max_batch_tokens=256,
        max_frame_tokens=4,
        window_rounds=8,
        max_window_tokens=max_window_tokens,
    )
    engine = Engine(model, config)
    engine.open("gate", INSTRUCTIONS[0], stream_id="gate")
    frames = make_rounds(model, 0, 10, grids=[(1, 1), (2, 2), (1, 3)])
    said = tuple(model.dialogue.reply(State.RESPONSE, "a car"))
    quiet = tuple(model.dialogue.reply(State.SILENCE))
    found, traced = [], []
    tracemalloc.start()
    try:
        for index in range(NUM_ROUNDS):
            frame = frames[index % 10]
            reply = said if index % 10 == 3 else quiet
            engine.append(
                "gate",
                RoundInput(10**6 + 1000 * index, 10**6 + 1000 * (index + 1), frame.frame, frame.grid, reply),
            )
            while engine.has_work:
                engine.step()
            if index + 1 in (500, 5_000, NUM_ROUNDS):
                engine.check_integrity()
                gc.collect()
                found.append((sizes_of_all_it_holds(engine), engine.stats.held_blocks))
                traced.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert found[0] == found[1] == found[2]
    assert max(traced) - traced[0] < 64 * 1024
    stats = engine.stats
    assert stats.rounds == NUM_ROUNDS
    assert stats.evicted_rounds == NUM_ROUNDS - len(engine.window("gate").states)
    assert engine._sessions["gate"]._next_position > 15 * NUM_ROUNDS
