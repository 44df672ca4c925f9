"""A small random model, random rounds, and two plain ways to say what the engine must come to.

`full_forward` is Hugging Face's own model over a whole chat at once: what holds while nothing has been
dropped. `Oracle` feeds one session with Hugging Face's own cache, token by token where the engine decodes,
and drops and turns keys in the simplest way: what holds after rounds have been dropped. Neither uses anything
of the engine.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import DynamicCache
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLTextModel

from models.engine.engine import Engine
from models.engine.round import Decision, Reply, RoundInput
from models.training.tokenizer import train_tokenizer
from models.vlm.dialogue import Dialogue
from models.vlm.model import LanguageModel
from models.vlm.state import State
from models.vlm.streamo_config import StreamoConfig

TOLERANCE = 1e-4
INSTRUCTIONS = ("Tell me when a person arrives.", "Report deliveries.", "How many cars?")
GRIDS = ((1, 1), (1, 3), (2, 2), (3, 2), (2, 5))


@cache
def tokenizer() -> Tokenizer:
    texts = ["system user assistant", *INSTRUCTIONS, "<12s-13.5s>\n"]
    return train_tokenizer(texts * 3, vocab_size=300)


@cache
def make_model(
    *,
    seed: int = 0,
    window_rounds: int = 64,
    max_reply_tokens: int = 5,
    hidden_size: int = 64,
    num_layers: int = 3,
    intermediate_size: int = 96,
    num_heads: int = 4,
    num_kv_heads: int = 2,
    mrope_section: tuple[int, int, int] = (2, 3, 3),
) -> LanguageModel:
    """Weights are large, so that decisions hang on every token and a mistake shows."""
    vocab_size = tokenizer().get_vocab_size()
    config = Qwen2_5_VLTextConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=num_kv_heads,
        max_position_embeddings=32_768,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10_000.0,
            "mrope_section": list(mrope_section),
        },
        initializer_range=1.6 / hidden_size**0.5,
        use_cache=True,  # as in real checkpoints: the engine must ask for none itself
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text = Qwen2_5_VLTextModel._from_config(config, attn_implementation="sdpa").float()
        lm_head = torch.randn(vocab_size, hidden_size) * 2.0 / hidden_size**0.5
    streamo = StreamoConfig(window_rounds, max_reply_tokens, system_prompt="Watch.")
    dialogue = Dialogue(tokenizer(), streamo.system_prompt)
    lm_head[dialogue.end_token_id] *= 3.0  # so that some replies end and some are cut
    return LanguageModel(text, lm_head, dialogue, streamo, torch.float32, torch.device("cpu"))


def make_rounds(
    model: LanguageModel, seed: int, num_rounds: int, grids: Sequence[tuple[int, int]] = GRIDS
) -> list[RoundInput]:
    rng = np.random.default_rng(seed)
    rounds, time_ms = [], 1000 * int(rng.integers(0, 120))
    for _ in range(num_rounds):
        rows, cols = grids[rng.integers(len(grids))]
        end_ms = time_ms + 100 * int(rng.integers(1, 30))
        frame = torch.from_numpy(rng.standard_normal((rows * cols, model.hidden_size), dtype=np.float32))
        rounds.append(RoundInput(time_ms, end_ms, frame, (rows, cols)))
        time_ms = end_ms
    return rounds


@dataclass
class Outcome:
    """What was decided in one round."""

    state: State
    state_logits: tuple[float, ...]
    text_ids: tuple[int, ...] = ()
    truncated: bool = False

    def reply(self, dialogue: Dialogue) -> tuple[int, ...]:
        return (dialogue.state_token_ids[self.state], *self.text_ids)


def forced(rounds: Sequence[RoundInput], outcomes: Sequence[Outcome], dialogue: Dialogue) -> list[RoundInput]:
    return [replace(r, forced_reply=o.reply(dialogue)) for r, o in zip(rounds, outcomes, strict=True)]


def collect(
    outputs: Sequence[Decision | Reply], into: dict[str, dict[int, Outcome]]
) -> dict[str, dict[int, Outcome]]:
    """Add a step's outputs to what is known, by session and round."""
    for output in outputs:
        rounds = into.setdefault(output.session_id, {})
        if isinstance(output, Decision):
            assert output.round_index not in rounds, "decided twice"
            rounds[output.round_index] = Outcome(output.state, output.state_logits)
        else:
            outcome = rounds[output.round_index]
            assert outcome.state is State.RESPONSE
            outcome.text_ids, outcome.truncated = output.token_ids, output.truncated
    return into


def run_all(
    engine: Engine, feeds: dict[str, Sequence[RoundInput]], check_integrity: bool = True
) -> dict[str, list[Outcome]]:
    """Append every round of every session as soon as its queue takes it, and step until all is done."""
    outcomes: dict[str, dict[int, Outcome]] = {session_id: {} for session_id in feeds}
    waiting = {session_id: list(rounds) for session_id, rounds in feeds.items()}
    while any(waiting.values()) or engine.has_work:
        for session_id, rounds in waiting.items():
            while rounds and engine.can_append(session_id):
                engine.append(session_id, rounds.pop(0))
        collect(engine.step(), outcomes)
        if check_integrity:
            engine.check_integrity()
    return {session_id: [found[i] for i in sorted(found)] for session_id, found in outcomes.items()}


def assert_same(actual: Sequence[Outcome], expected: Sequence[Outcome], tolerance: float = TOLERANCE) -> None:
    assert len(actual) == len(expected)
    for index, (ours, theirs) in enumerate(zip(actual, expected, strict=True)):
        np.testing.assert_allclose(
            ours.state_logits, theirs.state_logits, atol=tolerance, rtol=0, err_msg=f"round {index}"
        )
        assert (ours.state, ours.text_ids, ours.truncated) == (
            theirs.state,
            theirs.text_ids,
            theirs.truncated,
        ), f"round {index}"


# --- Hugging Face's model over a whole chat


def plain_positions(
    token_ids: Sequence[int], image_id: int, grid: tuple[int, int], start: int
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
                positions.append([place, place + row, place + col])
                index += 1
        place += max(grid)
    return positions


def after(positions: Sequence[Sequence[int]]) -> int:
    return max(max(position) for position in positions) + 1


@cache
def hf_text_model(model: LanguageModel, attention: str) -> Qwen2_5_VLTextModel:
    """The same weights under Hugging Face's own attention and, for `sdpa`, its own rotary module."""
    config = copy.deepcopy(model._text.config)
    text = Qwen2_5_VLTextModel._from_config(config, attn_implementation=attention).float().eval()
    text.load_state_dict(model._text.state_dict())
    return text


def full_forward(
    model: LanguageModel, instruction: str, rounds: Sequence[RoundInput], outcomes: Sequence[Outcome]
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
        positions += plain_positions(chunk, dialogue.image_token_id, one.grid, after(positions))
        ids += chunk
        frames.append(one.frame)
    token_ids = torch.tensor([ids])
    text = hf_text_model(model, "sdpa")
    with torch.no_grad():
        embeds = text.embed_tokens(token_ids)
        embeds[token_ids == dialogue.image_token_id] = torch.cat(frames)
        position_ids = torch.tensor(positions).T[:, None]
        hidden = text(inputs_embeds=embeds, position_ids=position_ids, use_cache=False).last_hidden_state
        logits = model.logits(hidden[0])

    expected = []
    for place, reply_length in zip(state_places, reply_lengths, strict=True):
        state_logits = logits[place, list(dialogue.state_token_ids)]
        outcome = Outcome(State(int(state_logits.argmax())), tuple(state_logits.tolist()))
        if outcome.state is State.RESPONSE:
            limit = model.config.max_reply_tokens
            choices = [best_text_token(model, logits[place + 1 + i]) for i in range(reply_length)]
            outcome.text_ids, outcome.truncated = cut_reply(choices, dialogue.end_token_id, limit)
        expected.append(outcome)
    return expected


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
        config = model._text.config
        dim = config.hidden_size // config.num_attention_heads
        # Hugging Face's frequencies are float32 numbers.
        self.frequencies = (1.0 / (10_000.0 ** (torch.arange(0, dim, 2).float() / dim))).double()
        self.sections = config.rope_parameters["mrope_section"]

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        parts, low = [], 0
        for axis, size in enumerate(self.sections):
            parts.append(position_ids[axis, 0, :, None].double() * self.frequencies[low : low + size])
            low += size
        angles = torch.cat([*parts, *parts], dim=-1)[None]
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


class Oracle:
    """One session, round after round; keeps a column of keys and values for each token."""

    def __init__(
        self, model: LanguageModel, instruction: str, window_rounds: int, first_position: int = 0
    ) -> None:
        self.model, self.dialogue = model, model.dialogue
        self.window_rounds = window_rounds
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
        if len(self.window) == self.window_rounds:
            self._drop_oldest()
        pieces = [
            (owner, ids, self._place(ids), torch.zeros(0))
            for owner, ids in self.unfed
            if self._is_kept(owner)
        ]
        self.unfed = []
        head = self.dialogue.round_head(one.start_ms, one.end_ms, len(one.frame))
        self.window.append((index, self.position))
        positions = self._place(head, one.grid)
        logits = self._feed([*pieces, (index, head, positions, one.frame)])
        state_logits = logits[list(self.dialogue.state_token_ids)]
        model_outcome = Outcome(State(int(state_logits.argmax())), tuple(state_logits.tolist()))
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

    def _place(self, ids: Sequence[int], grid: tuple[int, int] = (1, 1)) -> list[list[int]]:
        positions = plain_positions(ids, self.dialogue.image_token_id, grid, self.position)
        self.position = after(positions)
        return positions

    def _is_kept(self, owner: object) -> bool:
        return owner == "pinned" or owner in [index for index, _ in self.window]

    def _feed(
        self, pieces: Sequence[tuple[object, list[int], list[list[int]], torch.Tensor]]
    ) -> torch.Tensor:
        ids = torch.tensor([[i for _, chunk, _, _ in pieces for i in chunk]])
        positions = torch.tensor([p for _, _, chunk, _ in pieces for p in chunk]).T[:, None]
        embeds = self.text.embed_tokens(ids).detach().clone()
        frames = [frame for _, _, _, frame in pieces if len(frame)]
        if frames:
            embeds[ids == self.dialogue.image_token_id] = torch.cat(frames)
        past = DynamicCache()
        for layer, (keys, values) in enumerate(self.columns):
            past.update(keys[None], values[None], layer)
        with torch.no_grad():
            output = self.text(
                inputs_embeds=embeds, position_ids=positions, past_key_values=past, use_cache=True
            )
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
        distance = first_kept - self.num_pinned - self.first_position
        for (keys, _), master in zip(self.columns, self.pinned_master, strict=True):
            keys[:, pinned] = self._turn(master, distance)

    def _turn(self, key: torch.Tensor, distance: int) -> torch.Tensor:
        half = key.shape[-1] // 2
        turned = torch.complex(key[..., :half].double(), key[..., half:].double())
        turned = turned * torch.polar(torch.ones(half).double(), self.text.rotary_emb.frequencies * distance)
        return torch.cat([turned.real, turned.imag], dim=-1).float()
