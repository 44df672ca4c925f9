"""Rounds whose frames lack some of their visual tokens: the rest stand where they would stand among all."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from engine_oracle import Oracle, full_forward, plain_positions
from engine_support import INSTRUCTIONS, assert_same, make_rounds, run_all

from models.engine.config import EngineConfig
from models.engine.engine import Engine
from models.engine.round import RoundInput
from models.vlm.model import LanguageModel
from models.vlm.positions import round_positions


def engine_of(model: LanguageModel, **changes: Any) -> Engine:
    values = {"max_sessions": 8, "max_kv_tokens": 16_384, "max_batch_tokens": 128, "max_frame_tokens": 10}
    return Engine(model, EngineConfig(**{**values, **changes}))


def thinned(rounds: list[RoundInput], seed: int = 0) -> list[RoundInput]:
    """The same frames, each without some of its tokens."""
    rng = np.random.default_rng(seed)
    kept = [rng.random(len(one.frame)) < 0.5 for one in rounds]
    for places in kept:
        places[rng.integers(len(places))] = True
    return [replace(one, frame=one.frame[k], kept=k) for one, k in zip(rounds, kept, strict=True)]


@pytest.mark.parametrize("max_batch_tokens", [8, 21, 1024])
def test_every_round_equals_the_full_forward_without_those_tokens(
    model: LanguageModel, max_batch_tokens: int
) -> None:
    rounds = thinned(make_rounds(model, 3, num_rounds=20))
    assert sum(len(one.frame) for one in rounds) < 0.7 * sum(len(one.kept) for one in rounds)
    engine = engine_of(model, max_batch_tokens=max_batch_tokens)
    engine.open("gate", INSTRUCTIONS[0])
    outcomes = run_all(engine, {"gate": rounds})["gate"]
    assert_same(outcomes, full_forward(model, INSTRUCTIONS[0], rounds, outcomes))
    whole = full_forward(model, INSTRUCTIONS[0], make_rounds(model, 3, num_rounds=20), outcomes)
    difference = np.subtract([o.state_logits for o in outcomes], [o.state_logits for o in whole])
    assert np.abs(difference).max() > 0.1, "dropping made no difference, so nothing is proved"


def test_sliding_sessions_equal_the_oracle(model: LanguageModel) -> None:
    rounds = thinned(make_rounds(model, 4, num_rounds=24))
    engine = engine_of(model, window_rounds=5)
    engine.open("gate", INSTRUCTIONS[1], first_position=10**7)
    found = run_all(engine, {"gate": rounds})["gate"]
    oracle = Oracle(model, INSTRUCTIONS[1], 5, 10**7)
    assert_same(found, [oracle.round(one) for one in rounds])


def test_keeping_every_token_is_the_plain_round(model: LanguageModel) -> None:
    rounds = make_rounds(model, 5, num_rounds=12)
    marked = [replace(one, kept=np.ones(len(one.frame), dtype=bool)) for one in rounds]
    found = []
    for feed in (rounds, marked):
        engine = engine_of(model)
        engine.open("gate", INSTRUCTIONS[2])
        found.append(run_all(engine, {"gate": feed}))
    assert found[0] == found[1]


def test_positions_of_the_rest_are_those_among_all() -> None:
    image, grid = 7, (3, 4)
    rng = np.random.default_rng(0)
    for _ in range(20):
        kept = rng.random(12) < 0.4
        kept[rng.integers(12)] = True
        whole, end = round_positions([1, *[image] * 12, 2, 3], image, grid, 5)
        is_left = np.concatenate([[True], kept, [True, True]])
        ids = [1, *[image] * int(kept.sum()), 2, 3]
        found, found_end = round_positions(ids, image, grid, 5, kept)
        assert found_end == end
        assert np.array_equal(found, whole[:, is_left])
        assert found.T.tolist() == plain_positions(ids, image, grid, 5, kept)


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        (np.zeros(6, dtype=bool), "keep a token"),
        (np.ones(5, dtype=bool), r"bool \[6\]"),
        (np.ones(6, dtype=np.int64), "int64"),
        (np.array([True, False] * 3), "3 places"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(model: LanguageModel, kept: np.ndarray, message: str) -> None:
    engine = engine_of(model)
    engine.open("gate", INSTRUCTIONS[0])
    frame = torch.zeros(6, model.visual_size)
    with pytest.raises(ValueError, match=message):
        engine.append("gate", RoundInput(0, 1000, frame, (2, 3), kept=kept))
