"""One packed forward of the language model: rows in, logits reduced to what the sessions ask for out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from models.engine.attention import ATTENTION_NAME, AttentionBackend, AttentionRow
from models.engine.device_copy import to_device
from models.engine.kv_cache import KVCache
from models.engine.scheduler import Row
from models.engine.step_input import StepInput
from models.vlm.last_layer import Wanted
from models.vlm.model import LanguageModel

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """What the logits after a row's last token say."""

    state_logits: tuple[float, float, float]
    best_token: int
    best_text_token: int
    """Best of all tokens but those a reply's text may not hold."""


class ModelRunner:
    """Runs the rows of a step as one sequence [1, T], so that all weights are read once for all sessions.

    On a GPU with paged attention as a recorded graph, if it can be recorded.
    """

    def __init__(
        self,
        model: LanguageModel,
        kv_cache: KVCache,
        attention: AttentionBackend,
        max_tokens: int,
        max_rows: int,
    ) -> None:
        """`max_tokens`, `max_rows`: the most that a step has."""
        model.use_attention(ATTENTION_NAME)
        dialogue = model.dialogue
        self._model = model
        self._kv_cache = kv_cache
        self._attention = attention
        self._state_ids = torch.tensor(dialogue.state_token_ids, device=model.device)
        no_text_ids = sorted(dialogue.control_token_ids - {dialogue.end_token_id})
        self._no_text_ids = torch.tensor(no_text_ids, device=model.device)
        self._forward: Callable[[StepInput], torch.Tensor] = self._forward_anew
        if model.device.type == "cuda":
            # Only here: a machine without a GPU need not have Triton.
            from models.engine.attention.paged import PagedAttention
            from models.engine.step_graphs import StepGraphs

            if isinstance(attention, PagedAttention):
                try:
                    graphs = StepGraphs(model, kv_cache, attention, max_tokens, max_rows, self._reduced)
                    self._forward = graphs.forward
                except RuntimeError:
                    _log.warning(
                        "steps could not be recorded; their kernels are queued one by one", exc_info=True
                    )

    @torch.inference_mode()
    def run(self, rows: Sequence[Row]) -> list[Choice]:
        """A Choice for each row that reads logits, in their order.

        Takes slots for the rows' tokens and writes their keys and values; to commit or trim them is the
        caller's.
        """
        new_slots = np.concatenate([row.session.table.extend(row.pieces) for row in rows])
        embeds, visual = self._embed(rows)
        step = StepInput(
            embeds,
            visual,
            np.concatenate([piece.positions for row in rows for piece in row.pieces], axis=1),
            new_slots,
            [
                AttentionRow(row.num_tokens, table.slots, table.first_slot, table.blocks)
                for row in rows
                for table in (row.session.table,)
            ],
            [place for place, row in enumerate(rows) if row.reads_logits],
        )
        reduced = self._forward(step)
        if not step.reading:
            return []
        # One copy to the host for the whole step.
        return [
            Choice((silence, standby, response), int(token), int(text_token))
            for silence, standby, response, token, text_token in reduced.tolist()
        ]

    def _forward_anew(self, step: StepInput) -> torch.Tensor:
        """What `_reduced` makes of the rows that read logits."""
        model = self._model
        attention_step = self._attention.begin(self._kv_cache, step.new_slots, step.rows, model.num_heads)
        wanted = self._wanted(step)
        hidden = model.forward(
            step.embeds,
            to_device(step.positions, model.device).unsqueeze(1),
            visual=step.visual,
            wanted=wanted,
            attention_step=attention_step,
        )[0]
        return self._reduced(hidden if wanted else hidden[step.last_tokens])

    def _wanted(self, step: StepInput) -> Wanted | None:
        """That of the rows that read logits only the last tokens matter in the last layer; None where nothing can be
        left out."""
        if len(step.reading) in (0, len(step.new_slots)):
            return None
        last = self._attention.begin(self._kv_cache, step.new_slots, step.last_queries, self._model.num_heads)
        return Wanted(to_device(step.last_tokens, self._model.device), {"attention_step": last})

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

    def _reduced(self, hidden: torch.Tensor) -> torch.Tensor:
        """Final hidden states [n, H] to float64 [n, 5], the numbers of a `Choice`; it holds any token id exactly."""
        logits = self._model.logits(hidden).float()
        state_logits = logits[:, self._state_ids]
        best = logits.argmax(dim=1)
        best_text = logits.index_fill_(1, self._no_text_ids, float("-inf")).argmax(dim=1)
        return torch.cat((state_logits.double(), best[:, None].double(), best_text[:, None].double()), dim=1)
