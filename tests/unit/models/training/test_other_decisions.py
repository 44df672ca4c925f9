"""A decision under another instruction is the model's own, but for what one head reads."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForImageTextToText

from models.data.sample import OtherInstruction
from models.training.collator import Collator
from models.training.dataset import Example, make_example
from models.training.loss import IGNORED
from models.training.other_decisions import OtherDecisions
from models.training.other_dialogue import OtherDialogue, OtherDialogueBatch
from models.training.training_model import LossConfig, TrainingModel
from models.vlm.dialogue import Dialogue
from models.vlm.pixels import PixelFormat
from models.vlm.state import State
from models.vlm.streamo_config import StreamoConfig
from tests.support.random_sample import random_sample

WINDOW_ROUNDS = 4


class Case:
    """Two examples, one of which slides, each with two other dialogues, in a model of which one head is read."""

    def __init__(self, model_dir: Path, *, trims_last_layer: bool = True) -> None:
        dialogue = Dialogue.load(model_dir, StreamoConfig.load(model_dir).system_prompt)
        pixels = PixelFormat.load(model_dir)
        rng = np.random.default_rng(0)

        def example(num_rounds: int) -> Example:
            asked = (
                OtherInstruction(
                    text, np.array([0]), np.arange(num_rounds) % 2, np.full(num_rounds, State.STANDBY)
                )
                for text in ("Say when the lamp goes out.", "Is there a red car?")
            )
            others = tuple(OtherDialogue.draw(other, 1, 0, dialogue, rng) for other in asked)
            sample = random_sample(pixels, num_rounds, seed=num_rounds)
            own = make_example(sample, dialogue, pixels, window_rounds=WINDOW_ROUNDS)
            return replace(own, others=others)

        self.batch = Collator(pixels)([example(num_rounds) for num_rounds in (3, 7)])
        self.others: OtherDialogueBatch = self.batch.pop("truth")["others"]
        vlm = AutoModelForImageTextToText.from_pretrained(model_dir, dtype=torch.float32)
        self.model = TrainingModel(
            vlm, dialogue.state_token_ids, LossConfig(), trims_last_layer=trims_last_layer
        ).eval()
        self.trims_last_layer = trims_last_layer
        self.layers: nn.ModuleList = vlm.model.language_model.layers
        self.last: list[torch.Tensor] = []
        self.layers[-1].register_forward_hook(lambda layer, inputs, output: self.last.append(output[0]))

    @property
    def decided(self) -> torch.Tensor:
        """What the last layer gave where the others are put, [m, H]."""
        places = self.others["places"]
        if not self.trims_last_layer:
            return self.last[-1][places]
        wanted = (self.batch["labels"][0] != IGNORED).nonzero().flatten() - 1
        return self.last[-1][torch.searchsorted(wanted, places)]


def of_last_layer(hidden: dict[int, torch.Tensor]) -> torch.Tensor:
    return hidden[max(hidden)]


@pytest.mark.parametrize("head", [0, 1])
def test_under_its_own_instruction_a_round_is_decided_as_it_was(family_dir: Path, head: int) -> None:
    case = Case(family_dir)
    others = OtherDecisions(case.layers, (1, head))
    case.model(**case.batch)
    assert len(case.others["places"]) == 2 * 2 + 6 * 2
    own: OtherDialogueBatch = {**case.others, "other_ends": case.others["own_ends"]}
    torch.testing.assert_close(of_last_layer(others.hidden_states(own)), case.decided, rtol=1e-5, atol=1e-5)
    assert (of_last_layer(others.hidden_states(case.others)) - case.decided).abs().max() > 1e-3


@pytest.mark.parametrize("trims_last_layer", [False, True])
def test_only_what_the_head_brings_is_exchanged(family_dir: Path, trims_last_layer: bool) -> None:
    """Against whole forward passes, each with another instruction's end in the head at a single decision."""
    case, reader = Case(family_dir, trims_last_layer=trims_last_layer), (1, 1)
    others = OtherDecisions(case.layers, reader)
    exchange = Exchange(case.layers, *reader)
    with torch.no_grad():
        case.model(**case.batch)
        found = of_last_layer(others.hidden_states(case.others))
        for index in (0, 3, 4, len(found) - 1):
            exchange.at = tuple(
                int(case.others[name][index])  # type: ignore[literal-required]
                for name in ("places", "own_ends", "other_ends")
            )
            case.model(**case.batch)
            torch.testing.assert_close(found[index], case.decided[index], rtol=1e-4, atol=1e-4)


class Exchange:
    """At one place, of `at`, a head brings what it would from another instruction's end; the place itself is seen as it
    was in the first forward pass."""

    def __init__(self, layers: nn.ModuleList, number: int, head: int) -> None:
        self.at: tuple[int, ...] | None = None
        self._layer: Any = layers[number]
        self._head = head
        self._before: dict[tuple[int, str], torch.Tensor] = {}
        self._input = torch.empty(0)
        self._layer.register_forward_pre_hook(self._keep_input)
        self._layer.self_attn.o_proj.register_forward_pre_hook(self._exchange)
        for above in range(number + 1, len(layers)):
            attention: Any = layers[above].self_attn
            for name in ("k_proj", "v_proj"):
                getattr(attention, name).register_forward_hook(self._as_it_was((above, name)))

    def _keep_input(self, layer: nn.Module, given: Any) -> None:
        self._input = given[0][0]

    def _exchange(self, projection: nn.Module, given: Any) -> Any:
        """Of the heads' outputs side by side, before they are put together."""
        if self.at is None:
            return None
        place, own, other = self.at
        attention = self._layer.self_attn
        size, heads = attention.head_dim, given[0].clone()
        values = attention.v_proj(self._layer.input_layernorm(self._input[[own, other]]))
        of_head = values.unflatten(-1, (-1, size))[:, self._head // attention.num_key_value_groups]
        heads[0, place, self._head * size : (self._head + 1) * size] += of_head[1] - of_head[0]
        return (heads,)

    def _as_it_was(self, key: tuple[int, str]) -> Callable[[nn.Module, Any, torch.Tensor], torch.Tensor]:
        def restore(projection: nn.Module, given: Any, output: torch.Tensor) -> torch.Tensor:
            if self.at is None:
                # A copy: what asks elsewhere runs through the same projections.
                self._before.setdefault(key, output.clone())
                return output
            output = output.clone()
            output[0, self.at[0]] = self._before[key][0, self.at[0]]
            return output

        return restore


def test_what_is_learnt_of_others_reaches_their_words_and_the_frames(family_dir: Path) -> None:
    case = Case(family_dir)
    others = OtherDecisions(case.layers, (1, 0))
    embeddings = case.model.vlm.get_input_embeddings()
    case.model(**case.batch)
    of_last_layer(others.hidden_states(case.others)).square().sum().backward()
    other_ids = case.batch["input_ids"][0, case.others["other_ends"]]
    assert embeddings.weight.grad[other_ids].abs().sum() > 0
    merger = case.model.vlm.model.visual.merger
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in merger.parameters())
    others.forget()
    with pytest.raises(KeyError):
        others.hidden_states(case.others)
