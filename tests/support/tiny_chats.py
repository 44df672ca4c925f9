"""Random chats with frames, our halves' logits for them, and those of Hugging Face's whole model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from models.vlm.dialogue import Dialogue
from models.vlm.frame_size import FrameBudget
from models.vlm.model import LanguageModel, VisionEncoder
from models.vlm.positions import round_positions
from models.vlm.state import State

INSTRUCTIONS = ("Tell me when a person arrives.", "A red car?", "12")


@dataclass(frozen=True)
class Chat:
    ids: torch.Tensor
    """int64 [1, T]"""
    positions: torch.Tensor
    """int64 [3, 1, T], put together piece by piece"""
    frames: list[np.ndarray]
    grids: list[tuple[int, int]]


def random_frames(budget: FrameBudget, grids: list[tuple[int, int]], seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    unit = budget.unit
    return [rng.integers(0, 256, (rows * unit, cols * unit, 3), dtype=np.uint8) for rows, cols in grids]


def random_grids(num_frames: int, seed: int) -> list[tuple[int, int]]:
    """Grids of up to 20 visual tokens."""
    rng = np.random.default_rng(seed)
    return [(int(rng.integers(1, 5)), int(rng.integers(1, 6))) for _ in range(num_frames)]


def make_chat(dialogue: Dialogue, budget: FrameBudget, grids: list[tuple[int, int]], seed: int = 0) -> Chat:
    rng = np.random.default_rng(seed)
    pieces = [(dialogue.pinned_prefix(INSTRUCTIONS[rng.integers(3)]), (1, 1))]
    for index, (rows, cols) in enumerate(grids):
        state = State(int(rng.integers(3)))
        reply = dialogue.reply(state, "A red car." if state is State.RESPONSE else "")
        head = dialogue.round_head(index * 1000, index * 1000 + 1000, rows * cols)
        pieces.append((head + reply + dialogue.round_tail, (rows, cols)))
    start, positions = 0, []
    for ids, grid in pieces:
        piece_positions, start = round_positions(ids, dialogue.image_token_id, grid, start)
        positions.append(piece_positions)
    return Chat(
        ids=torch.tensor([[token_id for ids, _ in pieces for token_id in ids]]),
        positions=torch.from_numpy(np.concatenate(positions, axis=1))[:, None],
        frames=random_frames(budget, grids, seed),
        grids=grids,
    )


def our_logits(encoder: VisionEncoder, language: LanguageModel, chat: Chat) -> torch.Tensor:
    """[T, vocab_size], from one forward over the whole chat."""
    index = (chat.ids[0] == language.dialogue.image_token_id).nonzero().flatten()
    embeddings, features = language.split_visual(torch.cat(encoder.encode(chat.frames)))
    embeds = language.embed(chat.ids)
    embeds[0, index] = embeddings
    return language.logits(language.forward(embeds, chat.positions, visual=(index, features))[0])


def hf_inputs(model_dir: Path, chat: Chat) -> dict[str, torch.Tensor]:
    """What the whole model is called with; pixels by Hugging Face's own processor."""
    image_token_id = Dialogue.load(model_dir, "").image_token_id
    return {
        "input_ids": chat.ids,
        "mm_token_type_ids": (chat.ids == image_token_id).int(),
        **hf_pixels(model_dir, chat.frames),
    }


def hf_pixels(model_dir: Path, frames: list[np.ndarray]) -> dict[str, torch.Tensor]:
    processor: Any = Qwen2VLImageProcessorPil.from_pretrained(model_dir)
    return processor(list(frames), return_tensors="pt", input_data_format="channels_last", do_resize=False)
