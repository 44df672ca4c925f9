"""Two plain ways to say what the engine must come to. Neither uses anything of the engine.

`full_forward` is Hugging Face's own model over a whole chat at once: what holds while nothing has been
dropped. `Oracle` feeds one session with Hugging Face's own cache, token by token where the engine decodes,
keeps a dense list of keys and values a layer, and drops and turns them in the simplest way: what holds after
rounds have been dropped.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from engine_families import FAMILIES, Family, deepstack_inputs
from engine_support import Outcome
from transformers import DynamicCache

from models.engine.round import RoundInput
from models.vlm.model import LanguageModel
from models.vlm.state import State

# --- Hugging Face's model over a whole chat


def plain_positions(
    token_ids: Sequence[int],
    image_id: int,
    grid: tuple[int, int],
    start: int,
    kept: np.ndarray | None = None,
) -> list[list[int]]:
    """The definition, token by token."""
    positions, place, index = [], start, 0
    while index < len(token_ids):
        if token_ids[index] != image_id:
            positions.append([place] * 3)
            place, index = place + 1, index + 1
            continue
        for row in range(grid[0]):
            for col in range(grid[1]):
                if kept is None or kept[row * grid[1] + col]:
                    positions.append([place, place + row, place + col])
                    index += 1
        place += max(grid)
    return positions


def after(positions: Sequence[Sequence[int]]) -> int:
    return max(max(position) for position in positions) + 1


def family_of(model: LanguageModel) -> Family:
    return FAMILIES[model._text.config.model_type.removesuffix("_text")]


@cache
def hf_text_model(model: LanguageModel, attention: str) -> Any:
    """The same weights under Hugging Face's own attention and, for `sdpa`, its own rotary module."""
    config = copy.deepcopy(model._text.config)
    text = family_of(model).text_class._from_config(config, attn_implementation=attention).float().eval()
    text.load_state_dict(model._text.state_dict())
    return text


def full_forward(
    model: LanguageModel,
    instruction: str,
    rounds: Sequence[RoundInput],
    outcomes: Sequence[Outcome],
    sensitivity: float = 0.0,
) -> list[Outcome]:
    """What one forward over the whole chat says where the engine decided, given the same words."""
    dialogue = model.dialogue
    ids = list(dialogue.pinned_prefix(instruction))
    positions = plain_positions(ids, dialogue.image_token_id, (1, 1), 0)
    frames, state_places, reply_lengths = [], [], []
    for one, outcome in zip(rounds, outcomes, strict=True):
        head = dialogue.round_head(one.start_ms, one.end_ms, len(one.frame))
        state_places.append(len(ids) + len(head) - 1)
        reply = list(outcome.reply(dialogue))
        reply_lengths.append(len(reply))
        chunk = [*head, *reply, *dialogue.round_tail]
        positions += plain_positions(chunk, dialogue.image_token_id, one.grid, after(positions), one.kept)
        ids += chunk
        frames.append(one.frame)
    token_ids = torch.tensor([ids])
    text = hf_text_model(model, "sdpa")
    with torch.no_grad():
        position_ids = torch.tensor(positions).T[:, None]
        inputs = text_inputs(model, text, token_ids, torch.cat(frames))
        hidden = text(**inputs, position_ids=position_ids, use_cache=False).last_hidden_state
        logits = model.logits(hidden[0])

    expected = []
    for place, reply_length in zip(state_places, reply_lengths, strict=True):
        state_logits = logits[place, list(dialogue.state_token_ids)]
        outcome = Outcome(best_state(state_logits, sensitivity), tuple(state_logits.tolist()))
        if outcome.state is State.RESPONSE:
            limit = model.config.max_reply_tokens
            choices = [best_text_token(model, logits[place + 1 + i]) for i in range(reply_length)]
            outcome.text_ids, outcome.truncated = cut_reply(choices, dialogue.end_token_id, limit)
        expected.append(outcome)
    return expected


def text_inputs(
    model: LanguageModel, text: Any, token_ids: torch.Tensor, frames: torch.Tensor
) -> dict[str, Any]:
    """Embeddings of ids [1, T] with visual tokens [n, visual_size] in their places, as Hugging Face takes them."""
    is_visual = token_ids == model.dialogue.image_token_id
    embeds = text.embed_tokens(token_ids).detach().clone()
    if len(frames):
        embeds[is_visual] = frames[:, : model.hidden_size]
    extra = deepstack_inputs(family_of(model), is_visual, frames, model.hidden_size)
    return {"inputs_embeds": embeds, **extra}


def best_state(state_logits: torch.Tensor, sensitivity: float) -> State:
    silence, standby, response = state_logits.tolist()
    biased = [silence, standby + sensitivity, response + sensitivity]
    return State(biased.index(max(biased)))


def best_text_token(model: LanguageModel, logits: torch.Tensor) -> int:
    allowed = logits.clone()
    allowed[sorted(model.dialogue.control_token_ids - {model.dialogue.end_token_id})] = float("-inf")
    return int(allowed.argmax())


def cut_reply(choices: Sequence[int], end_token_id: int, limit: int) -> tuple[tuple[int, ...], bool]:
    text: list[int] = []
    for choice in choices[:limit]:
        if choice == end_token_id:
            return tuple(text), False
        text.append(choice)
    return tuple(text), True


# --- one session with a dense cache, in the plainest way


class PlainRotary(torch.nn.Module):
    """Rotary angles in float64, written out axis by axis."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        dim = model.head_dim
        # Hugging Face's frequencies are float32 numbers.
        self.frequencies = (1.0 / (10_000.0 ** (torch.arange(0, dim, 2).float() / dim))).double()
        sections = model._text.config.rope_parameters["mrope_section"]
        self.axes = family_of(model).axes(sections, dim // 2)

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        columns = [
            position_ids[axis, 0].double() * frequency
            for axis, frequency in zip(self.axes, self.frequencies, strict=True)
        ]
        angles = torch.stack([*columns, *columns], dim=-1)[None]
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


class Oracle:
    """One session, round after round; keeps a column of keys and values for each token."""

    def __init__(
        self,
        model: LanguageModel,
        instruction: str,
        window_rounds: int,
        first_position: int = 0,
        *,
        max_window_tokens: float = float("inf"),
        pinned_positions: str = "move",
        sensitivity: float = 0.0,
    ) -> None:
        self.model, self.dialogue = model, model.dialogue
        self.window_rounds, self.max_window_tokens = window_rounds, max_window_tokens
        self.moves_pinned = pinned_positions == "move"
        self.sensitivity = sensitivity
        self.text = copy.deepcopy(hf_text_model(model, "eager"))
        self.text.rotary_emb = PlainRotary(model)
        self.owners: list[object] = []  # of each column
        # Of each layer, keys and values [heads, tokens, dim].
        self.columns: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.pinned_master: list[torch.Tensor] | None = None
        self.window: list[tuple[int, int]] = []  # round index, first position
        self.first_position = first_position
        self.position = first_position
        self.unfed: list[tuple[object, list[int]]] = [
            ("pinned", list(self.dialogue.pinned_prefix(instruction)))
        ]
        self.num_pinned = len(self.unfed[0][1])
        self.next_index = 0

    def round(self, one: RoundInput) -> Outcome:
        assert one.forced_reply is None, "the oracle decides for itself"
        index, self.next_index = self.next_index, self.next_index + 1
        head = self.dialogue.round_head(one.start_ms, one.end_ms, len(one.frame))
        longest = len(head) + 1 + self.model.config.max_reply_tokens + len(self.dialogue.round_tail)
        while len(self.window) == self.window_rounds or self._num_tokens() + longest > self.max_window_tokens:
            self._drop_oldest()
        pieces = [
            (owner, ids, self._place(ids), torch.zeros(0))
            for owner, ids in self.unfed
            if self._is_kept(owner)
        ]
        self.unfed = []
        self.window.append((index, self.position))
        positions = self._place(head, one.grid, one.kept)
        logits = self._feed([*pieces, (index, head, positions, one.frame)])
        state_logits = logits[list(self.dialogue.state_token_ids)]
        model_outcome = Outcome(best_state(state_logits, self.sensitivity), tuple(state_logits.tolist()))
        self._reply(index, model_outcome)
        return model_outcome

    def _reply(self, index: int, outcome: Outcome) -> None:
        reply = [self.dialogue.state_token_ids[outcome.state]]
        if outcome.state is State.RESPONSE:
            text: list[int] = []
            outcome.truncated = True
            while len(text) < self.model.config.max_reply_tokens:
                fed = reply.pop()
                logits = self._feed([(index, [fed], self._place([fed]), torch.zeros(0))])
                token = best_text_token(self.model, logits)
                if token == self.dialogue.end_token_id:
                    outcome.truncated = False
                    break
                text.append(token)
                reply = [token]
            outcome.text_ids = tuple(text)
        self.unfed = [(index, [*reply, *self.dialogue.round_tail])]

    def _place(
        self, ids: Sequence[int], grid: tuple[int, int] = (1, 1), kept: np.ndarray | None = None
    ) -> list[list[int]]:
        positions = plain_positions(ids, self.dialogue.image_token_id, grid, self.position, kept)
        self.position = after(positions)
        return positions

    def _num_tokens(self) -> int:
        return len(self.owners) + sum(len(ids) for owner, ids in self.unfed if self._is_kept(owner))

    def _is_kept(self, owner: object) -> bool:
        return owner == "pinned" or owner in [index for index, _ in self.window]

    def _feed(
        self, pieces: Sequence[tuple[object, list[int], list[list[int]], torch.Tensor]]
    ) -> torch.Tensor:
        ids = torch.tensor([[i for _, chunk, _, _ in pieces for i in chunk]])
        positions = torch.tensor([p for _, _, chunk, _ in pieces for p in chunk]).T[:, None]
        frames = [frame for _, _, _, frame in pieces if len(frame)]
        inputs = text_inputs(self.model, self.text, ids, torch.cat(frames) if frames else torch.zeros(0))
        past = DynamicCache()
        for layer, (keys, values) in enumerate(self.columns):
            past.update(keys[None], values[None], layer)
        with torch.no_grad():
            output = self.text(**inputs, position_ids=positions, past_key_values=past, use_cache=True)
        self.columns = [(layer.keys[0], layer.values[0]) for layer in past.layers]
        self.owners += [owner for owner, chunk, _, _ in pieces for _ in chunk]
        return self.model.logits(output.last_hidden_state[0, -1:])[0]

    def _drop_oldest(self) -> None:
        pinned = [place for place, owner in enumerate(self.owners) if owner == "pinned"]
        assert pinned == list(range(self.num_pinned))
        if self.pinned_master is None:
            self.pinned_master = [keys[:, pinned].clone() for keys, _ in self.columns]
        oldest, _ = self.window.pop(0)
        kept = [place for place, owner in enumerate(self.owners) if owner != oldest]
        self.columns = [(keys[:, kept], values[:, kept]) for keys, values in self.columns]
        self.owners = [self.owners[place] for place in kept]
        if not self.window:  # what was never fed is gone with its round, but its positions are used up
            for owner, ids in self.unfed:
                if owner == oldest:
                    self._place(ids)
        first_kept = self.window[0][1] if self.window else self.position
        if not self.moves_pinned:
            return
        distance = first_kept - self.num_pinned - self.first_position
        for (keys, _), master in zip(self.columns, self.pinned_master, strict=True):
            keys[:, pinned] = self._turn(master, distance)

    def _turn(self, key: torch.Tensor, distance: int) -> torch.Tensor:
        half = key.shape[-1] // 2
        turned = torch.complex(key[..., :half].double(), key[..., half:].double())
        turned = turned * torch.polar(torch.ones(half).double(), self.text.rotary_emb.frequencies * distance)
        return torch.cat([turned.real, turned.imag], dim=-1).float()
