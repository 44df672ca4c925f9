from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.data.sample import NO_ANSWER, OtherInstruction, Sample
from models.training.collator import Collator
from models.training.dataset import ClipPlan, Example, ExampleDataset, SampleMaker, drop_rounds, make_example
from models.training.loss import IGNORED
from models.training.other_dialogue import OtherDialogue
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
        plan=plan,
        dialogue=dialogue,
        pixels=pixels,
    )


def num_learnt(example: Example, dialogue: Dialogue) -> int:
    """Rounds with a label on their state."""
    return int(np.isin(example.labels, dialogue.state_token_ids).sum())


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


def test_rounds_before_the_instruction_carry_no_loss(
    make_sample: SampleMaker, dialogue: Dialogue, pixels: PixelFormat
) -> None:
    sample = replace(make_sample(1, "train", 6), first_live=3)
    assert num_learnt(make_example(sample, dialogue, pixels), dialogue) == 3
    assert num_learnt(make_example(drop_rounds(sample, 2), dialogue, pixels), dialogue) == 3
    assert num_learnt(make_example(drop_rounds(sample, 4), dialogue, pixels), dialogue) == 2


def test_a_reply_that_names_what_has_left_the_window_is_not_learnt(
    make_sample: SampleMaker, dialogue: Dialogue, pixels: PixelFormat
) -> None:
    sample = replace(make_sample(1, "train", 6), since=(0, 1, 2, 3, 1, 5))
    assert num_learnt(make_example(sample, dialogue, pixels), dialogue) == 6
    assert num_learnt(make_example(drop_rounds(sample, 1), dialogue, pixels), dialogue) == 5
    assert num_learnt(make_example(drop_rounds(sample, 2), dialogue, pixels), dialogue) == 3


def test_an_example_depends_on_its_index_alone(
    make_sample: SampleMaker, dialogue: Dialogue, pixels: PixelFormat
) -> None:
    plan = ClipPlan(num_rounds=(3, 5), joined_late=1.0, max_dropped=2, overlap_rounds=1)
    first, second = (make_dataset(make_sample, dialogue, pixels, plan) for _ in range(2))
    _ = first[3]
    for index in (0, 7, 2):
        assert np.array_equal(first[index].token_ids, second[index].token_ids)
        assert np.array_equal(first[index].frames, second[index].frames)
    assert [len(first[i].frames) for i in range(4)] == [3, 5, 3, 5]
    assert num_learnt(first[0], dialogue) == 3  # a session's start is all learnt
    assert num_learnt(first[1], dialogue) == 4  # a window that slid has context
    with pytest.raises(IndexError):
        first[12]


def test_a_share_of_samples_is_calm(
    make_sample: SampleMaker, dialogue: Dialogue, pixels: PixelFormat
) -> None:
    asked: list[dict[str, Any]] = []

    def noting(seed: int, split: str, num_frames: int, **wanted: Any) -> Sample:
        asked.append(wanted)
        return make_sample(seed, split, num_frames, **wanted)

    plan = ClipPlan(num_rounds=(3,), joined_late=0.0, drills=True, calm=0.5)
    dataset = make_dataset(noting, dialogue, pixels, plan, length=40)
    _ = [dataset[index] for index in range(40)]
    assert all(one["drills"] for one in asked)
    assert 10 <= sum(one["is_calm"] for one in asked) <= 30


def test_wrong_words_stand_in_what_is_said_and_not_in_what_is_learnt(
    make_sample: SampleMaker, dialogue: Dialogue, pixels: PixelFormat
) -> None:
    def telling(seed: int, split: str, num_frames: int, **asked: Any) -> Sample:
        sample = make_sample(seed, split, num_frames, **asked)
        told = (replace(one, state=State.RESPONSE, text="a b car") for one in sample.rounds)
        return replace(sample, rounds=tuple(told))

    plan = ClipPlan(num_rounds=(4,), joined_late=0.0)
    right = make_dataset(telling, dialogue, pixels, plan)
    wrong = make_dataset(telling, dialogue, pixels, replace(plan, wrong_words=("b", "c")))
    pairs = [(right[index], wrong[index]) for index in range(12)]
    assert all(np.array_equal(one.labels, other.labels) for one, other in pairs)
    num_wrong = sum(int((one.token_ids != other.token_ids).any()) for one, other in pairs)
    assert 4 <= num_wrong < 12


def test_what_a_window_that_slid_teaches(
    make_sample: SampleMaker, dialogue: Dialogue, pixels: PixelFormat
) -> None:
    def of_task(task: str, first_live: int) -> SampleMaker:
        return lambda seed, split, n, **asked: replace(
            make_sample(seed, split, n, **asked), task=task, first_live=first_live
        )

    plan = ClipPlan((6,), joined_late=1.0, max_dropped=1, overlap_rounds=2, full_rounds=4)

    def learnt(task: str, first_live: int = 0) -> int:
        return num_learnt(make_dataset(of_task(task, first_live), dialogue, pixels, plan)[0], dialogue)

    assert learnt("event") == 4
    assert learnt("qa") == learnt("grounding") == 2
    # Asked within what is left of the window: a session that truly begins.
    assert learnt("qa", first_live=3) == learnt("event", first_live=3) == 4


def test_a_batch_is_its_examples_one_behind_the_other(
    make_sample: SampleMaker, dialogue: Dialogue, pixels: PixelFormat
) -> None:
    examples = [make_example(make_sample(seed, "train", n), dialogue, pixels) for seed, n in ((0, 2), (1, 4))]
    batch = Collator(pixels)(examples)
    first, second = examples
    length = len(first.token_ids)
    assert batch["input_ids"].shape == (1, length + len(second.token_ids))
    assert batch["input_ids"][0, length:].tolist() == second.token_ids.tolist()
    assert batch["labels"][0, :length].tolist() == first.labels.tolist()
    assert batch["position_ids"][:, 0, length:].tolist() == second.positions.tolist()
    assert batch["patches"].shape == (6 * 8, 588) and len(batch["patch_grids"]) == 6
    truth = batch["truth"]
    assert truth["decisions"].tolist() == [*first.decisions, *(length + second.decisions)]
    assert truth["is_first"].tolist() == [True, False, True, False, False, False]
    assert torch.equal(truth["seen"], torch.from_numpy(np.concatenate([e.truth.seen for e in examples])))
    assert torch.equal(truth["acts"], torch.from_numpy(np.concatenate([e.truth.acts for e in examples])))
    assert truth["asked"].tolist() == 2 * [first.truth.asked.tolist()] + 4 * [second.truth.asked.tolist()]
    assert truth["asked_at_once"].tolist() == [first.truth.asked.tolist(), second.truth.asked.tolist()]
    # Where a state is decided the end of the own instruction is looked at.
    ends = [first.num_pinned - 1, length + second.num_pinned - 1]
    assert truth["ends"].tolist() == ends
    assert truth["looks"]["instruction"].tolist() == [
        truth["decisions"].tolist(),
        2 * ends[:1] + 4 * ends[1:],
    ]
    # Where the state before was decided in the same dialogue, and from a reply's tokens where its own was.
    assert truth["looks"]["before"].tolist() == [
        [*first.decisions[1:], *(length + second.decisions[1:])],
        [*first.decisions[:-1], *(length + second.decisions[:-1])],
    ]
    token_ids = torch.from_numpy(np.concatenate((first.token_ids, second.token_ids)))
    says, decided = truth["looks"]["reply"]
    assert set(token_ids[decided + 1].tolist()) == {dialogue.state_token_ids[State.RESPONSE]}
    labels = torch.from_numpy(np.concatenate((first.labels, second.labels)))
    assert (labels[says + 1] != IGNORED).all() and len(says.unique()) == len(says) > len(decided.unique())
    # And all of its own frame.
    is_image = token_ids == dialogue.image_token_id
    from_, to = truth["looks"]["frame"]
    assert to.tolist() == is_image.nonzero().flatten().tolist()
    own = torch.searchsorted(truth["decisions"], to)
    assert from_.tolist() == truth["decisions"][own].tolist() and set(own.tolist()) == set(range(6))
    assert truth["past_times"] is None and set(truth["looks"]) == {"instruction", "before", "reply", "frame"}


def test_where_to_look_for_times_is_placed_with_its_example(
    make_sample: SampleMaker, dialogue: Dialogue, pixels: PixelFormat
) -> None:
    examples = [
        make_example(make_sample(seed, "train", n), dialogue, pixels, asks_past_times=True)
        for seed, n in ((0, 5), (1, 6))
    ]
    first, second = examples
    truth = Collator(pixels)(examples)["truth"]
    mine, other = first.past_times, second.past_times
    assert mine is not None and other is not None
    length = len(first.token_ids)
    assert truth["past_times"]["places"].tolist() == [*mine.places, *(length + other.places)]
    assert truth["past_times"]["letters"].tolist() == [*mine.letters, *other.letters]
    assert set(truth["looks"]) == {"instruction", "before", "reply", "frame", "time", "state", "change"}
    for name, looks in truth["looks"].items():
        expected = np.concatenate((first.looks[name], length + second.looks[name]), axis=1)
        assert looks.shape[1] and looks.tolist() == expected.tolist()


def test_other_dialogues_are_instructions_without_a_frame(
    make_sample: SampleMaker, dialogue: Dialogue, pixels: PixelFormat
) -> None:
    plan = ClipPlan(num_rounds=(3,), joined_late=0.0, num_others=2)
    asking, again = (make_dataset(make_sample, dialogue, pixels, plan) for _ in range(2))
    silent = make_dataset(make_sample, dialogue, pixels, replace(plan, num_others=0))
    _ = again[0]
    for mine, theirs in zip(asking[2].others, again[2].others, strict=True):
        assert np.array_equal(mine.token_ids, theirs.token_ids)
    for other in asking[1].others:
        prefix = dialogue.pinned_prefix("Tell me when it was dark.")
        assert other.token_ids[: other.num_pinned].tolist() == prefix
        assert other.asked.tolist() == [0] and dialogue.image_token_id not in other.token_ids

    examples, without = [asking[0], asking[1]], [silent[0], silent[1]]
    batch, plain = Collator(pixels)(examples), Collator(pixels)(without)
    num_tokens = len(plain["input_ids"][0])
    truth = batch["truth"]
    assert plain["truth"]["others"] is None
    for name in ("input_ids", "labels", "position_ids"):
        assert torch.equal(batch[name][..., :num_tokens], plain[name])
    assert (batch["labels"][0, num_tokens:] == IGNORED).all()
    others = [other for example in examples for other in example.others]
    ends = num_tokens + np.cumsum([len(other.token_ids) for other in others])
    assert truth["others"]["decisions"].tolist() == (ends - 1).tolist()
    assert truth["others"]["asked"].tolist() == [other.asked.tolist() for other in others]
    assert torch.equal(truth["asked_at_once"][2:], truth["others"]["asked"])
    # Instructions end alike, whoever asks them, and each is looked at from its own round.
    assert len({int(batch["input_ids"][0, at]) for at in truth["ends"]}) == 1
    assert len(truth["ends"]) == 6
    assert truth["looks"]["instruction"][:, -4:].tolist() == [(ends - 1).tolist(), truth["ends"][2:].tolist()]
    # As far from the round as earlier rounds would make it.
    places = zip(truth["ends"][2:].tolist(), ends.tolist(), others, strict=True)
    for at, end, other in places:
        far = batch["position_ids"][:, 0, end - 1] - batch["position_ids"][:, 0, at]
        assert far.tolist() == 3 * [end - 1 - at + other.gap]
    assert len({other.gap for other in others}) == len(others)


def test_each_learnt_round_is_decided_under_each_other_instruction(
    make_sample: SampleMaker, dialogue: Dialogue, pixels: PixelFormat
) -> None:
    plan = ClipPlan(num_rounds=(5,), joined_late=1.0, max_dropped=1, overlap_rounds=2, num_others=2)
    examples = [make_dataset(make_sample, dialogue, pixels, plan)[index] for index in (0, 1)]
    # What is learnt is what the sample says of the rounds that are left.
    for seed, example in enumerate(examples):
        states = make_sample(seed, "train", 6, num_others=1).others[0].states[1:]
        expected = [IGNORED, IGNORED, *states[2:]]
        assert [other.states.tolist() for other in example.others] == 2 * [expected]
    truth = Collator(pixels)(examples)["truth"]
    put = truth["others"]
    # Of two examples three rounds each, each under two other instructions.
    assert put["places"].tolist() == [
        int(at) for at in truth["decisions"][[2, 3, 4, 7, 8, 9]] for _ in (0, 1)
    ]
    assert put["own_ends"].tolist() == 6 * [int(truth["ends"][0])] + 6 * [int(truth["ends"][1])]
    assert put["other_ends"].tolist() == 3 * truth["ends"][2:4].tolist() + 3 * truth["ends"][4:].tolist()
    states = [state for example in examples for state in example.others[0].states[2:] for _ in (0, 1)]
    assert put["states"].tolist() == states
    # What is told in the first round after a late instruction depends on what went before.
    late = replace(make_sample(0, "train", 5, num_others=1), first_live=2)
    dataset = make_dataset(lambda *_, **__: late, dialogue, pixels, replace(plan, joined_late=0.0))
    assert (dataset[0].others[0].states == IGNORED).tolist() == [True, True, True, False, False]


def test_to_another_question_an_answer_is_owed_until_the_window_is_full(dialogue: Dialogue) -> None:
    states = np.array([State.RESPONSE, State.SILENCE, State.RESPONSE, State.SILENCE, State.SILENCE])
    answers = np.array([1, 1, 0, 0, 0])
    question = OtherInstruction("Was it dark?", np.array([0]), answers, states)
    watch = replace(question, answers=np.full(5, NO_ANSWER))
    for other, expected in (
        (question, [IGNORED, IGNORED, State.RESPONSE, IGNORED, State.SILENCE]),
        (watch, [IGNORED, State.SILENCE, State.RESPONSE, State.SILENCE, State.SILENCE]),
    ):
        drawn = OtherDialogue.draw(other, 1, 4, dialogue, np.random.default_rng(0))
        assert drawn.states.tolist() == expected


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
