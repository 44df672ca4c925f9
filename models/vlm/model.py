"""The two halves of a Qwen2.5-VL checkpoint: the vision encoder and the language model.

Each loads only its own weights from a directory of the standard format (config.json, model.safetensors or its
shards, tokenizer.json, preprocessor_config.json) plus `streamo.json`. Only safetensors are read, and no code
is ever taken from a checkpoint. The outer Hugging Face model is not used: it keeps position state between
calls.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import nn
from transformers import Qwen2_5_VLConfig
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as qwen

from models.vlm import vision_tower
from models.vlm.dialogue import Dialogue
from models.vlm.frame_size import FrameBudget
from models.vlm.pixels import PixelFormat
from models.vlm.streamo_config import StreamoConfig

__all__ = ["LanguageModel", "StreamoConfig", "VisionEncoder"]


class VisionEncoder:
    """Frames to visual tokens. Stateless but for a small cache of index tensors; not thread-safe."""

    def __init__(
        self, visual: Any, pixel_format: PixelFormat, dtype: torch.dtype, device: torch.device
    ) -> None:
        vision_tower.adapt(visual)
        self._visual: Any = visual.eval().requires_grad_(False)
        self._pixels = pixel_format
        self.dtype = dtype
        self.device = device
        self.hidden_size: int = visual.config.out_hidden_size

    @classmethod
    def load(
        cls, model_dir: str | Path, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
    ) -> VisionEncoder:
        device = torch.device(device)
        config: Any = _load_config(model_dir).vision_config
        with torch.device("meta"):
            visual = qwen.Qwen2_5_VisionTransformerPretrainedModel._from_config(
                config, attn_implementation="sdpa"
            )
        visual.rotary_pos_emb = qwen.Qwen2_5_VLVisionRotaryEmbedding(config).to(device)
        weights = _read_weights(model_dir, _vision_name, dtype, device)
        visual.load_state_dict(weights, strict=True, assign=True)
        return cls(visual, PixelFormat.load(model_dir), dtype, device)

    @property
    def budget(self) -> FrameBudget:
        return self._pixels.budget

    def check_device(self) -> None:
        """Raises what the device raises where it no longer answers."""
        torch.zeros(1, device=self.device).item()

    @torch.no_grad()
    def encode(self, frames: Sequence[np.ndarray]) -> list[torch.Tensor]:
        """Visual tokens [rows * cols, hidden_size] of each frame, in order; frames do not see each other.

        A frame is uint8 [height, width, 3] of a size that `budget.fit` gives; sizes may differ within a call.
        ValueError otherwise. Blocks until the device has been given the work.
        """
        if not frames:
            return []
        rows, grids = self._pixels.patchify_all(frames)
        patches = torch.from_numpy(rows).to(self.device, self.dtype)
        tokens = vision_tower.visual_tokens(self._visual, patches, tuple(grids))
        area = self.budget.merge_size**2
        return list(tokens.split([grid_rows * grid_cols // area for grid_rows, grid_cols in grids]))


class ExactRotary(nn.Module):
    """Rotary cosines and sines from angles in float64, so that positions may grow for the life of a stream.

    In float32 an angle is wrong by position * 6e-8 rad. At small positions equal to Hugging Face's module.
    """

    def __init__(
        self, inv_freq: torch.Tensor, mrope_section: Sequence[int], attention_scaling: float
    ) -> None:
        super().__init__()
        self.inv_freq = nn.Buffer(inv_freq.to(torch.float64), persistent=False)
        self.mrope_section = tuple(mrope_section)
        self.attention_scaling = attention_scaling
        # Which of the three axes each frequency follows.
        axes = [index % 3 for index, size in enumerate(self.mrope_section) for _ in range(size)]
        self._axis_of_freq = nn.Buffer(torch.tensor(axes), persistent=False)

    @torch.no_grad()
    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin, each [B, T, head_dim] in x's dtype, of positions [3, B, T]."""
        positions = position_ids.expand(3, -1, -1).movedim(0, -1)[..., self._axis_of_freq]
        angles = positions.to(torch.float64) * self.inv_freq
        angles = torch.cat((angles, angles), dim=-1)
        cos, sin = angles.cos() * self.attention_scaling, angles.sin() * self.attention_scaling
        return cos.to(x.dtype), sin.to(x.dtype)


class LanguageModel:
    """The language half: embeddings, decoder, output head; positions and attention are the caller's.

    Holds no key-value cache and no position state; an attention function registered with Hugging Face's
    `AttentionInterface` and chosen by `use_attention` receives whatever `forward` is given besides.
    """

    def __init__(
        self,
        text: Any,
        lm_head: torch.Tensor,
        dialogue: Dialogue,
        config: StreamoConfig,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._text = text.eval().requires_grad_(False)
        self._lm_head = lm_head
        self.dialogue = dialogue
        self.config = config
        self.dtype = dtype
        self.device = device
        self.hidden_size: int = text.config.hidden_size
        self.num_layers: int = text.config.num_hidden_layers
        self.num_heads: int = text.config.num_attention_heads
        self.num_kv_heads: int = text.config.num_key_value_heads
        self.head_dim: int = text.config.hidden_size // text.config.num_attention_heads
        self.vocab_size: int = text.config.vocab_size

    @classmethod
    def load(
        cls, model_dir: str | Path, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
    ) -> LanguageModel:
        device = torch.device(device)
        outer = _load_config(model_dir)
        config = outer.text_config
        with torch.device("meta"):
            text = qwen.Qwen2_5_VLTextModel._from_config(config, attn_implementation="sdpa")
        rotary = qwen.Qwen2_5_VLRotaryEmbedding(config)
        text.rotary_emb = ExactRotary(rotary.inv_freq, rotary.mrope_section, rotary.attention_scaling).to(
            device
        )
        weights = _read_weights(model_dir, _language_name, dtype, device)
        lm_head = weights.pop("lm_head.weight", None)
        if lm_head is None or outer.tie_word_embeddings:
            lm_head = weights["embed_tokens.weight"]
        text.load_state_dict(weights, strict=True, assign=True)
        streamo = StreamoConfig.load(model_dir)
        dialogue = Dialogue.load(model_dir, streamo.system_prompt, streamo.max_instruction_tokens)
        if dialogue.vocab_size > config.vocab_size:
            raise ValueError(
                f"{model_dir}: the tokenizer has {dialogue.vocab_size} ids, the model {config.vocab_size}; "
                "the two are not of one checkpoint"
            )
        return cls(text, lm_head, dialogue, streamo, dtype, device)

    @property
    def rotary(self) -> ExactRotary:
        rotary = self._text.rotary_emb
        assert isinstance(rotary, ExactRotary)
        return rotary

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Embeddings [..., hidden_size] of int64 token ids; those of image tokens are to be replaced."""
        embeddings: torch.Tensor = self._text.embed_tokens(token_ids)
        return embeddings

    def forward(self, inputs_embeds: torch.Tensor, positions: torch.Tensor, **attention: Any) -> torch.Tensor:
        """Final hidden states [1, T, H] of embeddings [1, T, H] at integer positions [3, 1, T].

        Without `use_attention` the attention is plain causal over the T tokens. Builds no gradient graph.
        """
        with torch.no_grad():
            output = self._text(
                inputs_embeds=inputs_embeds, position_ids=positions, use_cache=False, **attention
            )
        hidden: torch.Tensor = output.last_hidden_state
        return hidden

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits [N, vocab_size] of hidden states [N, H]."""
        return F.linear(hidden, self._lm_head)

    def use_attention(self, name: str) -> None:
        """Attend with the function registered under this name from now on. ValueError for an unknown name."""
        self._text.set_attn_implementation(name)


def _load_config(model_dir: str | Path) -> Qwen2_5_VLConfig:
    path = Path(model_dir) / "config.json"
    if not path.is_file():
        raise ValueError(f"{model_dir} is not a model directory: it has no config.json")
    config: Qwen2_5_VLConfig = Qwen2_5_VLConfig.from_json_file(str(path))
    if config.model_type != "qwen2_5_vl":
        raise ValueError(
            f"{path}: model_type {config.model_type!r} is not supported; use a qwen2_5_vl checkpoint"
        )
    return config


def _vision_name(name: str) -> str | None:
    """The tower's own name of a checkpoint tensor, None if it belongs to the other half."""
    for prefix in ("model.visual.", "visual."):
        if name.startswith(prefix):
            return name.removeprefix(prefix)
    return None


def _language_name(name: str) -> str | None:
    if _vision_name(name) is not None:
        return None
    # Checkpoints from before transformers 4.52 have the text model right under "model.".
    for prefix in ("model.language_model.", "language_model.model.", "model."):
        if name.startswith(prefix):
            return name.removeprefix(prefix)
    return name


def _read_weights(
    model_dir: str | Path, rename: Callable[[str], str | None], dtype: torch.dtype, device: torch.device
) -> dict[str, torch.Tensor]:
    """The tensors that `rename` gives a name, under that name; nothing else is read from disk."""
    directory = Path(model_dir)
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        files = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    else:
        files = ["model.safetensors"]
    weights = {}
    for file in files:
        if not (directory / file).is_file():
            raise ValueError(f"{directory} lacks {file}; only safetensors weights are read")
        with safe_open(directory / file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (safe_open is no mapping)
                if (own_name := rename(name)) is not None:
                    weights[own_name] = tensors.get_tensor(name).to(device, dtype)
    return weights
