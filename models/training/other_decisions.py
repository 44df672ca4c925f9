"""What a small model would decide if another instruction had been given: many of them learnt from the same frames."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from models.training.other_dialogue import OtherDialogueBatch
from models.vlm.last_layer import Wanted, attend_rows, with_mlp


class OtherDecisions:
    """Decides rounds again, with another instruction in the place of their own.

    Where a state is decided, one head reads the instruction off its last token (`Look` shows it where that is). Only
    what this head brings is exchanged, and the deciding token alone goes on from there, through the layers above, among
    all else as it stands; itself it sees as it was. Under its own instruction a round is decided as the model does. So
    a frame teaches under as many instructions as there are, each for a few tokens, where a dialogue of its own would
    have all of the frame's.
    """

    def __init__(self, layers: nn.ModuleList, reader: tuple[int, int]) -> None:
        """`layers`: of a language model that runs over packed sequences. `reader`: layer and head that read."""
        self._layers = layers
        self._number, self._head = reader
        self._inputs: dict[int, torch.Tensor] = {}
        self._given: dict[str, Any] = {}
        self._attended = torch.empty(0)
        for number in range(self._number, len(layers)):
            self._keep_input(number)
        reading: Any = layers[self._number]
        reading.self_attn.register_forward_hook(self._keep_attended)

    def hidden_states(self, dialogues: OtherDialogueBatch) -> dict[int, torch.Tensor]:
        """[m, H] of the m decisions of the forward pass before, as each layer from the reading one on gives them, by
        its number. Differentiable."""
        reading: Any = self._layers[self._number]
        places = dialogues["places"]
        rows = self._inputs[self._number][:, places] + self._attended[:, places] + self._exchanged(dialogues)
        rows = with_mlp(reading, rows)
        found = {self._number: rows[0]}
        wanted = Wanted(places, {"packing": self._given["packing"].only(places)})
        rotation = self._given["position_embeddings"]
        for number in range(self._number + 1, len(self._layers)):
            layer: Any = self._layers[number]
            asking, seen = layer.input_layernorm(rows), layer.input_layernorm(self._inputs[number])
            rows = with_mlp(layer, rows + attend_rows(layer, asking, seen, rotation, wanted))
            found[number] = rows[0]
        return found

    def forget(self) -> None:
        """Lets go of what was kept of the last forward pass."""
        self._inputs.clear()
        self._given.clear()
        self._attended = torch.empty(0)

    def _exchanged(self, dialogues: OtherDialogueBatch) -> torch.Tensor:
        """[m, H]: what the head brings from the other instruction's end, less what it brought from that of the own."""
        ends, of_end = torch.stack((dialogues["other_ends"], dialogues["own_ends"])).unique(
            return_inverse=True
        )
        reading: Any = self._layers[self._number]
        attention = reading.self_attn
        value = attention.v_proj(reading.input_layernorm(self._inputs[self._number][0, ends]))
        key_head = self._head // attention.num_key_value_groups
        of_head = value.unflatten(-1, (-1, attention.head_dim))[:, key_head]
        first = self._head * attention.head_dim
        brought = F.linear(of_head, attention.o_proj.weight[:, first : first + attention.head_dim])
        others, own = brought[of_end]
        return others - own

    def _keep_input(self, number: int) -> None:
        def keep(layer: nn.Module, inputs: tuple[Any, ...], given: dict[str, Any]) -> None:
            self._inputs[number] = inputs[0]
            self._given = given

        self._layers[number].register_forward_pre_hook(keep, with_kwargs=True)

    def _keep_attended(self, attention: nn.Module, inputs: Any, output: Any) -> None:
        self._attended = output[0]
