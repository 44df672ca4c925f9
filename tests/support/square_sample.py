"""Samples of the smallest world, for tests of training runs."""

import numpy as np

from models.data.sample import NO_ANSWER, OtherInstruction, Round, Sample, Truth, TruthSizes
from models.vlm.state import State


def make_square_sample(
    seed: int,
    split: str,
    num_frames: int,
    *,
    drills: bool = False,
    is_calm: bool = False,
    num_others: int = 0,
) -> Sample:
    """The smallest world: a frame is dark, or bright, or bright just over, which is told. Others ask for the dark."""
    rng = np.random.default_rng((seed, len(split)))
    bright = rng.integers(0, 2, num_frames).astype(bool)
    rounds = []
    for index, state in enumerate(_states(bright)):
        text = "it was bright" if state is State.RESPONSE else ""
        rounds.append(Round(index * 1000, index * 1000 + 1000, state, text))
    acts = np.array([[round_.state] for round_ in rounds], dtype=np.int64)
    no_answers = np.full(num_frames, NO_ANSWER)
    other = OtherInstruction(
        "Tell me when it was dark.", np.array([0]), no_answers, np.array(_states(~bright))
    )
    frames = np.where(bright, 250, 5).astype(np.uint8)[:, None, None, None]
    return Sample(
        task="event",
        instruction="Tell me when it was bright.",
        frames=np.broadcast_to(frames, (num_frames, 28, 56, 3)).copy(),
        rounds=tuple(rounds),
        truth=Truth(
            bright.astype(np.int64)[:, None],
            np.where(bright, 1.0, np.nan).astype(np.float32)[:, None],
            acts,
            np.array([1]),
            no_answers,
            TruthSizes((2,), (3,), (2,), coordinates=(0.5,)),
        ),
        source="test",
        others=(other,) * num_others,
    )


def _states(is_on: np.ndarray) -> list[State]:
    was_on = np.concatenate(([False], is_on[:-1]))
    return [
        State.STANDBY if on else State.RESPONSE if was else State.SILENCE
        for on, was in zip(is_on, was_on, strict=True)
    ]
