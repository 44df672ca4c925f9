from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models.training.dataset import (
    ClipPlan,
    Collator,
    ExampleDataset,
    SampleMaker,
    drop_rounds,
    make_example,
)
from models.training.loss import IGNORED
from models.training.recipes import ScratchRecipe
from models.vlm.dialogue import Dialogue
from models.vlm.pixels import PixelFormat
from models.vlm.state import State


@pytest.fixture(scope="module")
def dialogue(model_dir: Path, recipe: ScratchRecipe) -> Dialogue:
    return Dialogue.load(model_dir, recipe.streamo.system_prompt)


@pytest.fixture(scope="module")
def pixels(model_dir: Path) -> PixelFormat:
    return PixelFormat.load(model_dir)


def make_dataset(
    make_sample: SampleMaker,
    dialogue: Dialogue,
    pixels: PixelFormat,
    plan: ClipPlan,
    length: int = 12,
) -> ExampleDataset:
    return ExampleDataset(
        make_sample,
        "train",
        length,
        batch_size=2,
        plan=plan,
        dialogue=dialogue,
        pixels=pixels,
    )


def test_labels_are_the_replies_and_their_end(
    make_sample: SampleMaker, dialogue: Dialogue, pixels: PixelFormat
) -> None:
    sample = make_sample(1, "train", 6)
    example = make_example(sample, dialogue, pixels)
    expected: list[int] = []
    for turn in sample.rounds:
        expected += [*dialogue.reply(turn.state, turn.text), dialogue.end_token_id]
    assert example.labels[example.labels != IGNORED].tolist() == expected
    learnt = example.labels != IGNORED
    assert np.array_equal(example.labels[learnt], example.token_ids[learnt])
    assert (example.token_ids == dialogue.image_token_id).sum() == 6 * 2
    assert example.positions.shape == (3, len(example.token_ids))


def test_context_rounds_carry_no_loss(
    make_sample: SampleMaker, dialogue: Dialogue, pixels: PixelFormat
) -> None:
    sample = make_sample(1, "train", 6)
    whole = make_example(sample, dialogue, pixels)
    part = make_example(sample, dialogue, pixels, first_learnt_round=4)
    assert np.array_equal(whole.token_ids, part.token_ids)
    states = [i for i in part.labels.tolist() if i in dialogue.state_token_ids]
    assert states == [dialogue.state_token_ids[turn.state] for turn in sample.rounds[4:]]


def test_a_window_that_slid_is_a_fresh_chat_of_what_is_left(
    make_sample: SampleMaker, dialogue: Dialogue, pixels: PixelFormat
) -> None:
    sample = make_sample(1, "train", 6)
    whole, window = (
        make_example(s, dialogue, pixels).token_ids.tolist() for s in (sample, drop_rounds(sample, 2))
    )
    prefix = dialogue.pinned_prefix(sample.instruction)
    assert window[: len(prefix)] == prefix == whole[: len(prefix)]
    kept = window[len(prefix) :]
    assert whole[-len(kept) :] == kept


def test_an_example_depends_on_its_index_alone(
    make_sample: SampleMaker, dialogue: Dialogue, pixels: PixelFormat
) -> None:
    plan = ClipPlan(num_rounds=(3, 5), joined_late=1.0, max_dropped=2, overlap_rounds=1)
    first, second = (make_dataset(make_sample, dialogue, pixels, plan) for _ in range(2))
    _ = first[3]
    for index in (0, 7, 2):
        assert np.array_equal(first[index].token_ids, second[index].token_ids)
        assert np.array_equal(first[index].frames, second[index].frames)
    assert [len(first[i].frames) for i in range(6)] == [
        3,
        3,
        5,
        5,
        3,
        3,
    ]  # whole batches are of one length
    assert (
        len(first[0].labels[first[0].labels == dialogue.end_token_id]) == 3
    )  # a session's start is all learnt
    assert (
        len(first[2].labels[first[2].labels == dialogue.end_token_id]) == 4
    )  # a window that slid has context
    with pytest.raises(IndexError):
        first[12]


def test_batches_are_padded_on_the_right(
    make_sample: SampleMaker, dialogue: Dialogue, pixels: PixelFormat
) -> None:
    examples = [make_example(make_sample(seed, "train", n), dialogue, pixels) for seed, n in ((0, 2), (1, 4))]
    batch = Collator(pixels, pad_token_id=0)(examples)
    short = len(examples[0].token_ids)
    assert batch["input_ids"].shape == (2, len(examples[1].token_ids))
    assert batch["input_ids"][0, :short].tolist() == examples[0].token_ids.tolist()
    assert (batch["input_ids"][0, short:] == 0).all() and (batch["labels"][0, short:] == IGNORED).all()
    assert batch["patches"].shape == (6 * 8, 588) and len(batch["patch_grids"]) == 6
    assert torch.equal(batch["truth"], torch.from_numpy(np.concatenate([e.truth for e in examples])))


def test_text_on_silence_is_refused(
    make_sample: SampleMaker, dialogue: Dialogue, pixels: PixelFormat
) -> None:
    sample = make_sample(1, "train", 2)
    bad = replace(
        sample,
        rounds=tuple(replace(turn, state=State.SILENCE, text="x") for turn in sample.rounds),
    )
    with pytest.raises(ValueError, match="only Response"):
        make_example(bad, dialogue, pixels)
