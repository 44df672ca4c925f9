"""A sample of pictures and states without sense, for tests of how samples are computed."""

import numpy as np

from models.data.sample import NO_ANSWER, Round, Sample, Truth, TruthSizes
from models.vlm.pixels import PixelFormat
from models.vlm.state import State

SIZES = TruthSizes((3, 3, 3, 3), (3, 3), (2,), 2, (0.7, 0.7))


def random_sample(pixels: PixelFormat, num_rounds: int, seed: int) -> Sample:
    rng = np.random.default_rng(seed)
    unit = pixels.budget.unit
    states = [State.STANDBY, *(State(int(rng.integers(3))) for _ in range(num_rounds - 1))]
    return Sample(
        task="event",
        instruction="Tell me when a person arrives.",
        frames=rng.integers(0, 256, (num_rounds, 2 * unit, 3 * unit, 3), dtype=np.uint8),
        rounds=tuple(
            Round(1000 * i, 1000 * i + 1000, state, "A red car." if state is State.RESPONSE else "")
            for i, state in enumerate(states)
        ),
        truth=Truth(
            rng.integers(0, 3, (num_rounds, 4)),
            rng.choice((np.nan, -1.0, 0.5), (num_rounds, 2)).astype(np.float32),
            rng.integers(0, 3, (num_rounds, 2)),
            np.array([1]),
            rng.choice((NO_ANSWER, 0, 1), num_rounds),
            SIZES,
        ),
        source="test",
    )
