"""What one would write without this engine: Hugging Face's language model, its attention, its cache.

Three ways to keep a dialogue inside a window, none of them handicapped: embeddings and positions of a round
are made once, logits are taken at the last position only, nothing is copied that Hugging Face does not copy.
`batch_size` equal dialogues can be run side by side, all of them in step, which no padding has to pay for.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import DynamicCache
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLRotaryEmbedding, Qwen2_5_VLTextModel

from models.engine.round import RoundInput
from models.vlm.dialogue import Dialogue
from models.vlm.model import LanguageModel
from models.vlm.positions import round_positions


@dataclass(frozen=True, eq=False)
class Run:
    """Tokens ready to be fed: embeddings [n, hidden_size], positions [3, n] from 0, and what follows them."""

    embeds: torch.Tensor
    positions: torch.Tensor
    advance: int


class HuggingFaceModel:
    """The text model as transformers makes it, with its own attention (sdpa) and rotary module."""

    def __init__(self, text: Any, lm_head: torch.Tensor, dialogue: Dialogue) -> None:
        self.text = text
        self.lm_head = lm_head
        self.dialogue = dialogue

    @classmethod
    def of(cls, model: LanguageModel) -> HuggingFaceModel:
        """The same weights, not copied. ValueError for any family but Qwen2.5-VL."""
        config = copy.deepcopy(model._text.config)
        if config.model_type != "qwen2_5_vl_text":
            raise ValueError(f"the baselines are written for qwen2_5_vl, not {config.model_type}")
        with torch.device("meta"):
            text = Qwen2_5_VLTextModel._from_config(config, attn_implementation="sdpa")
        text.rotary_emb = Qwen2_5_VLRotaryEmbedding(config).to(model.device)
        text.load_state_dict(model._text.state_dict(), strict=True, assign=True)
        return cls(text.eval().requires_grad_(False), model._lm_head, model.dialogue)

    def round_head(self, one: RoundInput) -> Run:
        ids = self.dialogue.round_head(one.start_ms, one.end_ms, len(one.frame))
        run = self._run(ids, one.grid)
        first = ids.index(self.dialogue.image_token_id)
        run.embeds[first : first + len(one.frame)] = one.frame
        return run

    def text_run(self, token_ids: Sequence[int]) -> Run:
        return self._run(token_ids, (1, 1))

    def _run(self, token_ids: Sequence[int], grid: tuple[int, int]) -> Run:
        positions, advance = round_positions(token_ids, self.dialogue.image_token_id, grid, 0)
        embeds = self.text.embed_tokens(torch.tensor(token_ids, device=self.lm_head.device))
        return Run(embeds, torch.from_numpy(positions).to(self.lm_head.device), advance)


class Chat:
    """One dialogue: `decide` a round, perhaps `say` some tokens of its reply, then `end_round`."""

    def __init__(
        self, model: HuggingFaceModel, instruction: str, window_rounds: int, batch_size: int = 1
    ) -> None:
        self.window_rounds = window_rounds
        self._model = model
        self._batch_size = batch_size
        self._pinned = model.text_run(model.dialogue.pinned_prefix(instruction))
        self._cache: DynamicCache | None = None
        self._next_position = 0
        self._num_said = 0

    def decide(self, one: RoundInput) -> torch.Tensor:
        """Logits [batch_size, vocab_size] where the state of the round is decided."""
        raise NotImplementedError

    def end_round(self, reply: Sequence[int]) -> None:
        """The reply is whole; state token first. Nothing is computed: it is fed with the next round."""
        raise NotImplementedError

    def fill(self, rounds: Iterable[RoundInput]) -> None:
        """Take rounds decided before, with their forced replies."""
        raise NotImplementedError

    def say(self, token_id: int) -> torch.Tensor:
        """Feed the next token of the reply; logits [batch_size, vocab_size] of the one after it."""
        self._num_said += 1
        return self._feed([self._model.text_run([token_id])])

    def _feed(self, runs: Iterable[Run]) -> torch.Tensor:
        """Run the model over these, after what the cache holds. Logits [batch_size, vocab_size] at the end."""
        embeds, positions = [], []
        for run in runs:
            embeds.append(run.embeds)
            positions.append(run.positions + self._next_position)
            self._next_position += run.advance
        with torch.inference_mode():
            output = self._model.text(
                inputs_embeds=torch.cat(embeds).expand(self._batch_size, -1, -1),
                position_ids=torch.cat(positions, dim=1)[:, None].expand(-1, self._batch_size, -1),
                past_key_values=self._cache,
                use_cache=self._cache is not None,
            )
            return F.linear(output.last_hidden_state[:, -1], self._model.lm_head)


class ResendWindow(Chat):
    """Baseline (i), the published loop: the window is sent anew each round, its oldest round left out.

    `keeps_cache` keeps keys and values of the prefill, so that a reply can be decoded from it; quiet rounds
    are cheaper without.
    """

    def __init__(
        self,
        model: HuggingFaceModel,
        instruction: str,
        window_rounds: int,
        batch_size: int = 1,
        keeps_cache: bool = False,
    ) -> None:
        super().__init__(model, instruction, window_rounds, batch_size)
        self._keeps_cache = keeps_cache
        self._rounds: deque[list[Run]] = deque(maxlen=window_rounds)

    def decide(self, one: RoundInput) -> torch.Tensor:
        self._rounds.append([self._model.round_head(one)])
        self._next_position = 0
        self._cache = DynamicCache() if self._keeps_cache else None
        return self._feed([self._pinned, *(run for kept in self._rounds for run in kept)])

    def end_round(self, reply: Sequence[int]) -> None:
        self._rounds[-1].append(self._model.text_run([*reply, *self._model.dialogue.round_tail]))

    def fill(self, rounds: Iterable[RoundInput]) -> None:
        """Take rounds and their forced replies; nothing is computed."""
        for one in rounds:
            self._rounds.append([self._model.round_head(one)])
            self.end_round(one.forced_reply or ())


class EvictMany(Chat):
    """Baseline (ii): incremental while the window fills; when it is full, the oldest `num_dropped` rounds go
    at once and the rest is prefilled anew.
    """

    def __init__(
        self,
        model: HuggingFaceModel,
        instruction: str,
        window_rounds: int,
        num_dropped: int,
        batch_size: int = 1,
    ) -> None:
        super().__init__(model, instruction, window_rounds, batch_size)
        self.num_dropped = num_dropped
        self._rounds: deque[list[Run]] = deque()
        self._unfed = [self._pinned]
        self._cache = DynamicCache()

    @property
    def num_rounds(self) -> int:
        """Rounds in the window."""
        return len(self._rounds)

    def decide(self, one: RoundInput) -> torch.Tensor:
        head = self._model.round_head(one)
        if len(self._rounds) < self.window_rounds:
            self._rounds.append([head])
            fed = [*self._unfed, head]
        else:
            for _ in range(self.num_dropped):
                self._rounds.popleft()
            self._rounds.append([head])
            self._cache = DynamicCache()
            self._next_position = 0
            fed = [self._pinned, *(run for kept in self._rounds for run in kept)]
        self._num_said = 0
        return self._feed(fed)

    def end_round(self, reply: Sequence[int]) -> None:
        tail = self._model.dialogue.round_tail
        self._rounds[-1].append(self._model.text_run([*reply, *tail]))
        self._unfed = [self._model.text_run([*reply[self._num_said :], *tail])]

    def fill(self, rounds: Iterable[RoundInput]) -> None:
        """Have a whole window of rounds and their forced replies, and nothing else; nothing is computed before the next
        drops."""
        self._rounds.clear()
        for one in rounds:
            self._rounds.append([self._model.round_head(one)])
            self.end_round(one.forced_reply or ())
        if len(self._rounds) != self.window_rounds:
            raise ValueError(f"fill takes a whole window of {self.window_rounds} rounds")


class CroppedCache(Chat):
    """Incremental decoding with the cache held at the window's length by cutting its oldest entries off.

    Cheaper than what is wanted, since it forgets the instruction: keeping that would take another copy.
    """

    def __init__(
        self, model: HuggingFaceModel, instruction: str, window_rounds: int, batch_size: int = 1
    ) -> None:
        super().__init__(model, instruction, window_rounds, batch_size)
        self._cache: DynamicCache = DynamicCache()
        self._unfed = [self._pinned]
        self._round_lengths: deque[int] = deque()

    @property
    def num_tokens(self) -> int:
        """Entries of the cache."""
        return self._cache.get_seq_length()

    def decide(self, one: RoundInput) -> torch.Tensor:
        if len(self._round_lengths) == self.window_rounds:
            self._crop(self._round_lengths.popleft())
        head = self._model.round_head(one)
        self._round_lengths.append(len(head.embeds))
        self._num_said = 0
        return self._feed([*self._unfed, head])

    def end_round(self, reply: Sequence[int]) -> None:
        tail = self._model.dialogue.round_tail
        self._round_lengths[-1] += len(reply) + len(tail)
        self._unfed = [self._model.text_run([*reply[self._num_said :], *tail])]

    def fill(self, rounds: Iterable[RoundInput]) -> None:
        """Prefill rounds and their forced replies in one forward."""
        for one in rounds:
            head = self._model.round_head(one)
            text = self._model.text_run([*(one.forced_reply or ()), *self._model.dialogue.round_tail])
            self._unfed += [head, text]
            self._round_lengths.append(len(head.embeds) + len(text.embeds))
        last = self._unfed.pop()
        self._feed(self._unfed)
        self._unfed = [last]

    def _crop(self, num_tokens: int) -> None:
        for layer in self._cache.layers:
            layer.keys, layer.values = layer.keys[:, :, num_tokens:], layer.values[:, :, num_tokens:]


class PrefilledWindow:
    """Keys and values of a whole window, computed once, from which an `EvictMany` can go on at any length."""

    def __init__(
        self,
        model: HuggingFaceModel,
        instruction: str,
        rounds: Sequence[RoundInput],
    ) -> None:
        self._model = model
        self._instruction = instruction
        self._rounds = rounds
        whole = CroppedCache(model, instruction, len(rounds))
        whole.fill(rounds)
        self._layers = [(layer.keys, layer.values) for layer in whole._cache.layers]

    def chat(self, num_rounds: int, batch_size: int) -> EvictMany:
        """`batch_size` dialogues that hold the first `num_rounds` rounds, and are about to be given one more."""
        chat = EvictMany(self._model, self._instruction, num_rounds + 1, 1, batch_size)
        for one in self._rounds[:num_rounds]:
            chat._rounds.append([self._model.round_head(one)])
            chat.end_round(one.forced_reply or ())
        runs = [chat._pinned, *(run for kept in chat._rounds for run in kept)]
        chat._next_position = sum(run.advance for run in runs[:-1])
        num_tokens = sum(len(run.embeds) for run in runs[:-1])
        for index, (keys, values) in enumerate(self._layers):
            held = (tensor[:, :, :num_tokens].repeat(batch_size, 1, 1, 1) for tensor in (keys, values))
            chat._cache.update(*held, index)
        return chat


def best_state(dialogue: Dialogue, logits: torch.Tensor) -> int:
    """Which of the three states logits [vocab_size] say."""
    return int(np.argmax(logits[list(dialogue.state_token_ids)].numpy(force=True)))
