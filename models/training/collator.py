"""From examples to the batch of one step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from models.training.dataset import Example
from models.training.loss import IGNORED
from models.training.other_dialogue import OtherDialogue, other_dialogue_batch
from models.training.packing import Stretch
from models.training.past_times import PastTimesBatch
from models.training.truth_heads import TruthBatch
from models.vlm.pixels import PixelFormat


@dataclass(frozen=True)
class Collator:
    """Examples to one packed sequence, as `TrainingModel` takes it."""

    pixels: PixelFormat

    def __call__(self, examples: Sequence[Example]) -> dict[str, Any]:
        others = [other for example in examples for other in example.others]
        dialogues: list[Example | OtherDialogue] = [*examples, *others]
        lengths = [len(one.token_ids) for one in dialogues]
        starts = np.cumsum([0, *lengths[:-1]])
        positions = np.concatenate([one.positions for one in dialogues], axis=1)
        unlearnt = np.full(sum(lengths[len(examples) :]), IGNORED)
        patches, grids = self.pixels.patchify_all([frame for example in examples for frame in example.frames])
        return {
            "input_ids": torch.from_numpy(np.concatenate([one.token_ids for one in dialogues]))[None],
            "labels": torch.from_numpy(np.concatenate([*(one.labels for one in examples), unlearnt]))[None],
            "position_ids": torch.from_numpy(positions)[:, None],
            "stretches": [
                *(one.stretches for one in examples),
                *((Stretch(0, len(one.token_ids)),) for one in others),
            ],
            "patches": torch.from_numpy(patches),
            "patch_grids": torch.tensor(grids),
            "truth": _truth_batch(examples, others, starts.tolist()),
        }


def _truth_batch(
    examples: Sequence[Example], others: Sequence[OtherDialogue], starts: Sequence[int]
) -> TruthBatch:
    """`starts`: where each begins in the sequence, the other dialogues behind the examples."""
    own_starts, other_starts = starts[: len(examples)], starts[len(examples) :]
    truths = [one.truth for one in examples]
    num_frames = [len(one.decisions) for one in examples]
    own_decisions = [start + one.decisions for start, one in zip(own_starts, examples, strict=True)]
    decisions = np.concatenate(own_decisions)
    first = np.zeros(len(decisions), dtype=bool)
    first[np.cumsum([0, *num_frames[:-1]])] = True
    asked = np.stack([truth.asked for truth in truths])
    dialogues: list[Example | OtherDialogue] = [*examples, *others]
    ends = np.array([start + one.num_pinned - 1 for start, one in zip(starts, dialogues, strict=True)])
    owners = [index for index, one in enumerate(examples) for _ in one.others]
    asking = None
    if others:
        asking = other_dialogue_batch(
            others,
            other_starts,
            [own_decisions[owner] for owner in owners],
            [int(ends[owner]) for owner in owners],
        )
    looks = {name: _placed([one.looks[name] for one in examples], own_starts) for name in examples[0].looks}
    asked_at_once = torch.from_numpy(asked)
    if asking is not None:
        of_others = np.stack((asking["decisions"].numpy(), ends[len(examples) :]))
        looks["instruction"] = np.concatenate((looks["instruction"], of_others), axis=1)
        asked_at_once = torch.cat((asked_at_once, asking["asked"]))
    times = [one.past_times for one in examples if one.past_times is not None]
    past_times = None
    if times:
        past_times = PastTimesBatch(
            places=torch.from_numpy(_placed([one.places for one in times], own_starts)),
            letters=torch.from_numpy(np.concatenate([one.letters for one in times])),
        )
    return TruthBatch(
        decisions=torch.from_numpy(decisions),
        is_first=torch.from_numpy(first),
        seen=torch.from_numpy(np.concatenate([truth.seen for truth in truths])),
        coordinates=torch.from_numpy(np.concatenate([truth.coordinates for truth in truths])),
        acts=torch.from_numpy(np.concatenate([truth.acts for truth in truths])),
        asked=torch.from_numpy(asked.repeat(num_frames, axis=0)),
        answers=torch.from_numpy(np.concatenate([truth.answers for truth in truths])),
        ends=torch.from_numpy(ends),
        asked_at_once=asked_at_once,
        others=asking,
        past_times=past_times,
        looks={name: torch.from_numpy(pairs) for name, pairs in looks.items()},
    )


def _placed(places: Sequence[np.ndarray], starts: Sequence[int]) -> np.ndarray:
    """Places in dialogues, [..., n] each, as places in the sequence."""
    return np.concatenate([start + of_one for start, of_one in zip(starts, places, strict=True)], axis=-1)
