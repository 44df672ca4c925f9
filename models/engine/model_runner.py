"""One packed forward of the language model: rows in, logits reduced to what the sessions ask for out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from models.engine.attention import ATTENTION_NAME, AttentionBackend, AttentionRow, AttentionStep
from models.engine.device_copy import to_device
from models.engine.kv_cache import KVCache
from models.engine.scheduler import Row
from models.vlm.last_layer import Wanted
from models.vlm.model import LanguageModel


@dataclass(frozen=True)
class Choice:
    """What the logits after a row's last token say."""

    state_logits: tuple[float, float, float]
    best_token: int
    best_text_token: int
    """Best of all tokens but those a reply's text may not hold."""


class ModelRunner:
    """Runs the rows of a step as one sequence [1, T], so that all weights are read once for all sessions."""

    def __init__(self, model: LanguageModel, kv_cache: KVCache, attention: AttentionBackend) -> None:
        model.use_attention(ATTENTION_NAME)
        dialogue = model.dialogue
        self._model = model
        self._kv_cache = kv_cache
        self._attention = attention
        self._state_ids = torch.tensor(dialogue.state_token_ids, device=model.device)
        no_text_ids = sorted(dialogue.control_token_ids - {dialogue.end_token_id})
        self._no_text_ids = torch.tensor(no_text_ids, device=model.device)

    @torch.inference_mode()
    def run(self, rows: Sequence[Row]) -> list[Choice]:
        """A Choice for each row that reads logits, in their order.

        Takes slots for the rows' tokens and writes their keys and values; to commit or trim them is the
        caller's.
        """
        new_slots = np.concatenate([row.session.table.extend(row.pieces) for row in rows])
        attended = [
            AttentionRow(row.num_tokens, table.slots, table.first_slot, table.blocks)
            for row in rows
            for table in (row.session.table,)
        ]
        embeds, visual = self._embed(rows)
        ends = np.cumsum([row.num_tokens for row in rows])
        reading = [place for place, row in enumerate(rows) if row.reads_logits]
        wanted = self._wanted(new_slots, [attended[place] for place in reading], ends[reading] - 1)
        hidden = self._model.forward(
            embeds,
            self._positions(rows),
            visual=visual,
            wanted=wanted,
            attention_step=self._begin(new_slots, attended),
        )
        if not reading:
            return []
        return self._choices(hidden[0] if wanted else hidden[0, ends[reading] - 1])

    def _begin(self, new_slots: np.ndarray, rows: Sequence[AttentionRow]) -> AttentionStep:
        return self._attention.begin(self._kv_cache, new_slots, rows, self._model.num_heads)

    def _wanted(
        self, new_slots: np.ndarray, rows: Sequence[AttentionRow], last_tokens: np.ndarray
    ) -> Wanted | None:
        """That of these rows only the last tokens matter in the last layer; None where nothing can be left out."""
        if len(rows) in (0, len(new_slots)):
            return None
        # All new tokens of a row are there before its last one looks.
        step = self._begin(new_slots, [replace(row, num_queries=1) for row in rows])
        index = to_device(last_tokens, self._model.device)
        return Wanted(index, {"attention_step": step})

    def _embed(self, rows: Sequence[Row]) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor] | None]:
        """Embeddings [1, T, hidden_size] with the frames in their places; those places and the frames'
        DeepStack features, as `LanguageModel.forward` takes them.
        """
        model = self._model
        pieces = [piece for row in rows for piece in row.pieces]
        token_ids = np.concatenate([piece.token_ids for piece in pieces])
        embeds = model.embed(to_device(token_ids, model.device))
        places, frames, start = [], [], 0
        for piece in pieces:
            if piece.frame is not None and len(piece.frame):
                first = start + piece.frame_start
                places.append(np.arange(first, first + len(piece.frame)))
                frames.append(piece.frame.to(model.device, model.dtype, non_blocking=True))
            start += len(piece)
        if not frames:
            return embeds.unsqueeze(0), None
        index = to_device(np.concatenate(places), model.device)
        embeddings, features = model.split_visual(torch.cat(frames))
        embeds.index_copy_(0, index, embeddings)
        return embeds.unsqueeze(0), (index, features)

    def _positions(self, rows: Sequence[Row]) -> torch.Tensor:
        positions = np.concatenate([piece.positions for row in rows for piece in row.pieces], axis=1)
        return to_device(positions, self._model.device).unsqueeze(1)

    def _choices(self, hidden: torch.Tensor) -> list[Choice]:
        logits = self._model.logits(hidden).float()
        state_logits = logits[:, self._state_ids]
        best = logits.argmax(dim=1)
        best_text = logits.index_fill_(1, self._no_text_ids, float("-inf")).argmax(dim=1)
        # One copy to the host for the whole step; float64 holds any token id exactly.
        reduced = torch.cat(
            (state_logits.double(), best[:, None].double(), best_text[:, None].double()), dim=1
        )
        return [
            Choice((silence, standby, response), int(token), int(text_token))
            for silence, standby, response, token, text_token in reduced.tolist()
        ]
