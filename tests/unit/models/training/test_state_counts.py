from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from models.data.sample import Sample
from models.training.dataset import SampleMaker
from models.training.recipes import ScratchRecipe
from models.training.run import Simulator
from models.training.state_counts import estimated_state_counts
from models.vlm.state import State


def test_counts_are_of_all_that_the_steps_learn(recipe: ScratchRecipe, make_sample: SampleMaker) -> None:
    taught = np.zeros(3, dtype=int)

    def counting(seed: int, split: str, num_frames: int, **asked: Any) -> Sample:
        sample = make_sample(seed, split, num_frames, **asked)
        states = [one.state for one in sample.rounds]
        taught[:] += [states.count(state) for state in State]
        return sample

    whole = replace(recipe, max_steps=6, clips=replace(recipe.clips, joined_late=0.0))
    counts = estimated_state_counts(whole, Simulator(counting, 0))
    # Twelve clips, of three rounds and of four in turn, all of which are learnt.
    assert counts == tuple(taught) and sum(counts) == 6 * (3 + 4)
    some = estimated_state_counts(whole, Simulator(make_sample, 0), num_examples=6)
    assert sum(some) == pytest.approx(sum(counts), abs=2)
    # Context is not learnt.
    late = replace(whole, clips=replace(whole.clips, joined_late=1.0))
    assert sum(estimated_state_counts(late, Simulator(make_sample, 0))) < sum(counts)
