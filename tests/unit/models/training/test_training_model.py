"""The loss of a packed batch is that of its examples, and that of Hugging Face's whole model."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

from models.data.sample import NO_ANSWER, Round
from models.training.collator import Collator
from models.training.dataset import Example, make_example
from models.training.loss import IGNORED, state_focal_loss
from models.training.other_dialogue import OtherDialogue
from models.training.training_model import LossConfig, TrainingModel
from models.training.truth_heads import TruthShape
from models.vlm.dialogue import Dialogue
from models.vlm.pixels import PixelFormat
from models.vlm.state import State
from models.vlm.streamo_config import StreamoConfig
from tests.support.random_sample import SIZES, random_sample
from tests.support.tiny_chats import hf_pixels
from tests.support.tiny_models import write_tiny_model


def load_parts(model_dir: Path) -> tuple[Dialogue, PixelFormat, list[Example]]:
    dialogue = Dialogue.load(model_dir, StreamoConfig.load(model_dir).system_prompt)
    pixels = PixelFormat.load(model_dir)
    samples = [random_sample(pixels, n, seed=n) for n in (3, 5)]
    return (
        dialogue,
        pixels,
        [make_example(sample, dialogue, pixels, asks_past_times=True) for sample in samples],
    )


def with_seen(example: Example, seen: np.ndarray) -> Example:
    return replace(example, truth=replace(example.truth, seen=seen))


def make_model(
    model_dir: Path,
    dialogue: Dialogue,
    *,
    trims_last_layer: bool = False,
    truth: TruthShape | None = None,
    text_weight: float = 1.0,
) -> TrainingModel:
    vlm = AutoModelForImageTextToText.from_pretrained(model_dir, dtype=torch.float32)
    torch.manual_seed(0)
    loss = LossConfig(text_weight=text_weight)
    return TrainingModel(vlm, dialogue.state_token_ids, loss, truth, trims_last_layer=trims_last_layer)


@pytest.mark.parametrize("trims_last_layer", [False, True])
def test_a_packed_batch_has_the_loss_of_hugging_faces_model(family_dir: Path, trims_last_layer: bool) -> None:
    dialogue, pixels, examples = load_parts(family_dir)
    whole = AutoModelForImageTextToText.from_pretrained(family_dir, dtype=torch.float32).eval()
    logits, labels = [], []
    for example in examples:
        ids = torch.from_numpy(example.token_ids)[None]
        with torch.no_grad():
            output = whole(
                input_ids=ids,
                mm_token_type_ids=(ids == dialogue.image_token_id).int(),
                **hf_pixels(family_dir, list(example.frames)),
            )
        # The first label of an example has no logit before it, and is ignored.
        logits.append(output.logits)
        labels.append(torch.from_numpy(example.labels)[None])
    expected = state_focal_loss(torch.cat(logits, 1), torch.cat(labels, 1), dialogue.state_token_ids)

    model = make_model(family_dir, dialogue, trims_last_layer=trims_last_layer)
    batch = Collator(pixels)(examples)
    torch.testing.assert_close(model(**batch)["loss"], expected, rtol=1e-4, atol=1e-5)
    num_targets = int((batch["labels"] != -100).sum())
    torch.testing.assert_close(
        model(**batch, num_items_in_batch=2 * num_targets)["loss"], expected / 2, rtol=1e-4, atol=1e-5
    )


def test_a_step_without_a_target_has_no_loss(tmp_path: Path) -> None:
    write_tiny_model(tmp_path, "qwen2_5_vl")
    dialogue, pixels, examples = load_parts(tmp_path)
    batch = Collator(pixels)([replace(one, labels=np.full_like(one.labels, IGNORED)) for one in examples])
    for num_items in (None, 0, torch.tensor(0)):
        assert make_model(tmp_path, dialogue)(**batch, num_items_in_batch=num_items)["loss"] == 0


def test_words_weigh_as_much_as_is_asked(tmp_path: Path) -> None:
    write_tiny_model(tmp_path, "qwen2_5_vl")
    dialogue, pixels, examples = load_parts(tmp_path)
    batch = Collator(pixels)(examples)
    targets = batch["labels"][batch["labels"] != -100]
    num_words = int((~torch.isin(targets, torch.tensor(dialogue.state_token_ids))).sum())
    assert 0 < num_words < len(targets)
    once, three_times = (make_model(tmp_path, dialogue, text_weight=weight) for weight in (1.0, 3.0))
    gained = (three_times(**batch)["loss"] - once(**batch)["loss"]).item() * len(targets)
    assert gained == pytest.approx(2 * once.last_parts["text"].item() * num_words, rel=1e-4)
    assert three_times.last_parts["text"] == once.last_parts["text"]


def test_trimming_the_last_layer_changes_no_gradient(family_dir: Path) -> None:
    dialogue, pixels, examples = load_parts(family_dir)
    batch = Collator(pixels)(examples)
    truth = TruthShape(SIZES, tokens_per_frame=6)
    if "qwen3" in str(family_dir):
        truth = None  # the heads are for models that are trained from nothing
    gradients = []
    for trims in (False, True):
        model = make_model(family_dir, dialogue, trims_last_layer=trims, truth=truth)
        model(**batch)["loss"].backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert gradient is not None, name
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-3, atol=1e-5)


def test_times_are_asked_where_the_history_tells_one(tmp_path: Path) -> None:
    write_tiny_model(tmp_path, "qwen2_5_vl")
    dialogue, pixels, examples = load_parts(tmp_path)
    model = make_model(tmp_path, dialogue, truth=TruthShape(SIZES, tokens_per_frame=6))
    model.eval()

    def loss(which: Sequence[Example]) -> float:
        with torch.no_grad():
            model(**Collator(pixels)(which))
        return float(model.last_parts["times"])

    def without_times(example: Example) -> Example:
        times = example.past_times
        assert times is not None
        return replace(example, past_times=replace(times, letters=np.full_like(times.letters, IGNORED)))

    first, second = examples
    num_asked = [int((one.past_times.letters != IGNORED).sum()) for one in examples if one.past_times]
    assert all(num_asked)
    # Each letter counts the same, wherever its example stands; what the history does not tell does not count.
    alone = [loss([one]) for one in examples]
    assert loss([without_times(first), second]) == pytest.approx(alone[1], rel=1e-5)
    assert loss(examples) == pytest.approx(np.average(alone, weights=num_asked), rel=1e-5)
    assert loss([without_times(first)]) == 0


def test_a_frame_is_compared_with_the_one_before_it_in_its_own_example(tmp_path: Path) -> None:
    write_tiny_model(tmp_path, "qwen2_5_vl")
    dialogue, pixels, examples = load_parts(tmp_path)
    model = make_model(tmp_path, dialogue, truth=TruthShape(SIZES, tokens_per_frame=6))
    model.eval()

    def losses(which: Sequence[Example]) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            model(**Collator(pixels)(which))
        return {name: model.last_parts[name] for name in ("before", "changed")}

    first, second = (with_seen(one, np.zeros_like(one.truth.seen)) for one in examples)
    # All alike within each: between the two nothing is compared, or this would count as a change.
    other = with_seen(second, np.full_like(second.truth.seen, 2))
    for name, loss in losses([first, other]).items():
        parts = [losses([one])[name] * (len(one.frames) - 1) for one in (first, other)]
        torch.testing.assert_close(loss, sum(parts) / (len(first.frames) + len(other.frames) - 2))
    # A single change among many weighs as much as all that stayed.
    moved = with_seen(second, second.truth.seen.copy())
    moved.truth.seen[-1, 0] = 1
    for name, loss in losses([moved]).items():
        assert loss > 1.2 * losses([second])[name]


def test_what_goes_on_and_what_is_asked_are_read_where_the_state_is_decided(tmp_path: Path) -> None:
    write_tiny_model(tmp_path, "qwen2_5_vl")
    dialogue, pixels, examples = load_parts(tmp_path)
    model = make_model(tmp_path, dialogue, truth=TruthShape(SIZES, tokens_per_frame=6))
    model.eval()

    def losses(which: Sequence[Example]) -> dict[str, float]:
        with torch.no_grad():
            model(**Collator(pixels)(which))
        return {name: float(part) for name, part in model.last_parts.items()}

    def with_truth(example: Example, **rows: np.ndarray) -> Example:
        return replace(example, truth=replace(example.truth, **rows))

    first, second = (with_truth(one, acts=np.zeros_like(one.truth.acts)) for one in examples)
    still = losses([first, second])
    other = losses([with_truth(first, asked=np.array([0])), second])
    assert [name for name in still if other[name] != pytest.approx(still[name], rel=1e-6)] == [
        "asked",
        "understood",
    ]
    # What is asked counts in every round of its example.
    alone = [losses([one])["asked"] * len(one.frames) for one in (first, second)]
    assert still["asked"] == pytest.approx(sum(alone) / (len(first.frames) + len(second.frames)), rel=1e-5)
    # Other dialogues beside them are read as well, and change nothing else.
    other = OtherDialogue(
        first.token_ids[: first.num_pinned + 3],
        first.num_pinned,
        7,
        np.array([0]),
        np.full(len(first.frames), State.SILENCE),
        np.full(len(first.frames), 1),
    )
    beside = losses([replace(first, others=(other,)), second])
    assert all(beside.pop(name) > 0 for name in ("alone", "others", "other_answers"))
    changed = [name for name in still if beside[name] != pytest.approx(still[name], rel=1e-5)]
    assert sorted(changed) == ["look_instruction", "understood"]
    of_other = losses([with_truth(first, asked=np.array([0]))])["understood"]
    # What is asked for weighs as much as what is not.
    assert beside["understood"] == pytest.approx(still["understood"] + of_other, rel=1e-5)
    # What a frame answers counts where a question is asked.
    answers = np.full(len(second.frames), NO_ANSWER)
    unasked = losses([first, with_truth(second, answers=answers)])
    assert [name for name in still if unasked[name] != pytest.approx(still[name], rel=1e-6)] == ["answers"]
    assert losses([with_truth(second, answers=answers)])["answers"] == 0
    # One act weighs as much as all that does not go on: no sixteenth of the mean.
    acts = np.zeros_like(second.truth.acts)
    acts[-1, 0] = 2
    once = losses([first, with_truth(second, acts=acts)])
    assert [name for name in still if once[name] != pytest.approx(still[name], rel=1e-6)] == ["acts"]
    assert once["acts"] > 1.3 * still["acts"]


def test_a_saved_model_is_a_checkpoint_of_its_family(family_dir: Path, tmp_path: Path) -> None:
    dialogue, pixels, examples = load_parts(family_dir)
    model = make_model(family_dir, dialogue, trims_last_layer=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.01)
    model.save(tmp_path)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.float32)
    batch = Collator(pixels)(examples)
    again = TrainingModel(loaded, dialogue.state_token_ids, LossConfig())
    torch.testing.assert_close(again(**batch)["loss"], model(**batch)["loss"], rtol=1e-5, atol=1e-6)
    fresh = make_model(family_dir, dialogue)
    assert not torch.allclose(fresh(**batch)["loss"], model(**batch)["loss"])
    fresh.load(tmp_path)
    torch.testing.assert_close(fresh(**batch)["loss"], model(**batch)["loss"], rtol=1e-5, atol=1e-6)


def test_a_state_unlike_the_one_before_weighs_as_much_as_all_that_goes_on(tmp_path: Path) -> None:
    write_tiny_model(tmp_path, "qwen2_5_vl")
    dialogue, pixels, _ = load_parts(tmp_path)
    model = make_model(tmp_path, dialogue, truth=TruthShape(SIZES, tokens_per_frame=6)).eval()
    assert model.truth_heads is not None
    # Whatever is read, the states have these logits.
    torch.nn.init.zeros_(model.truth_heads.turn.linear.weight)
    model.truth_heads.turn.linear.bias.data = torch.tensor([2.0, 1.0, 0.0])

    def loss(states: Sequence[State], first_live: int = 0, given: Sequence[State] | None = None) -> float:
        sample = random_sample(pixels, len(states), seed=0)

        def rounds(of: Sequence[State]) -> tuple[Round, ...]:
            return tuple(
                replace(one, state=state, text="") for one, state in zip(sample.rounds, of, strict=True)
            )

        sample = replace(sample, rounds=rounds(states), first_live=first_live)
        example = make_example(sample, dialogue, pixels, given=given and rounds(given))
        # Behind another, which goes on waiting and begins afresh.
        with torch.no_grad():
            model(
                **Collator(pixels)([make_example(replace(sample, first_live=9), dialogue, pixels), example])
            )
        return float(model.last_parts["turn"])

    silence, standby, response = -torch.tensor([2.0, 1.0, 0.0]).log_softmax(0)
    s, b, r = State.SILENCE, State.STANDBY, State.RESPONSE
    assert loss([s, s, b, b, r]) == pytest.approx(
        float((2 * silence + standby) / 3 + (standby + response) / 2)
    )
    assert loss([b, b, b]) == pytest.approx(float(standby + standby))
    # What was asked late has not been silent by its own choice, and teaches from then on.
    assert loss([s, b, b, r], first_live=2) == pytest.approx(float(standby + response))
    # Before is what stands in the dialogue.
    assert loss([s, b, b], given=[s, s, b]) == pytest.approx(float(silence + standby))
