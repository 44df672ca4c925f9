"""The two halves of a Qwen-VL checkpoint: the vision encoder and the language model.

Each loads only its own weights from a directory of the standard format (config.json, model.safetensors or its
shards, tokenizer.json, preprocessor_config.json) plus `streamo.json`. Only safetensors are read, and no code
is ever taken from a checkpoint. The outer Hugging Face model is not used: it keeps position state between
calls. Which family a checkpoint is of, `config.json` says; what differs stands in `models.vlm.family`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from models.vlm import vision_tower
from models.vlm.cuda_capture import CudaCapture
from models.vlm.dialogue import Dialogue
from models.vlm.family import Family, num_deepstack
from models.vlm.frame_size import FrameBudget
from models.vlm.fused_norm import fuse_norms
from models.vlm.inference_tower import for_inference
from models.vlm.last_layer import LastLayer, Wanted
from models.vlm.pixels import PixelFormat
from models.vlm.qwen2_5 import QWEN2_5
from models.vlm.qwen3 import QWEN3
from models.vlm.rotary import ExactRotary
from models.vlm.streamo_config import StreamoConfig
from models.vlm.tower_graphs import TowerGraphs
from models.vlm.weights import language_name, put_weights, read_weights, vision_name

__all__ = ["LanguageModel", "StreamoConfig", "VisionEncoder"]

FAMILIES = {family.model_type: family for family in (QWEN2_5, QWEN3)}


class VisionEncoder:
    """Frames to visual tokens. Not thread-safe.

    Stateless but for a cache of index tensors and, on a CUDA device, of graphs of the tower: the first pass over a
    grid of patches and a number of frames takes longer than the ones after it.
    """

    def __init__(
        self, visual: Any, pixel_format: PixelFormat, dtype: torch.dtype, device: torch.device
    ) -> None:
        """`visual` is the tower of one of the families; it is changed into what inference runs."""
        config, budget = visual.config, pixel_format.budget
        if (config.patch_size, config.spatial_merge_size) != (budget.patch_size, budget.merge_size):
            raise ValueError(
                f"preprocessor_config.json has patch_size {budget.patch_size} and merge_size "
                f"{budget.merge_size}, the model {config.patch_size} and {config.spatial_merge_size}"
            )
        self._visual: Any = for_inference(visual)
        self._graphs = TowerGraphs(self._visual, CudaCapture(device)) if device.type == "cuda" else None
        self._pixels = pixel_format
        self.dtype = dtype
        self.device = device
        self.visual_size: int = config.out_hidden_size * (1 + num_deepstack(config))
        """Values of a visual token: as many as `LanguageModel.visual_size` of the same checkpoint."""

    @classmethod
    def load(
        cls, model_dir: str | Path, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
    ) -> VisionEncoder:
        device = torch.device(device)
        family, config = _load_config(model_dir)
        visual = family.empty_tower(config.vision_config, device)
        put_weights(visual, read_weights(model_dir, vision_name, dtype, device), model_dir)
        return cls(visual, PixelFormat.load(model_dir), dtype, device)

    @property
    def budget(self) -> FrameBudget:
        return self._pixels.budget

    def check_device(self) -> None:
        """Raises what the device raises where it no longer answers."""
        torch.zeros(1, device=self.device).item()

    def encode(self, frames: Sequence[np.ndarray]) -> list[torch.Tensor]:
        """Visual tokens [rows * cols, visual_size] of each frame, in order; frames do not see each other.

        A frame is uint8 [height, width, 3] of a size that `budget.fit` gives; sizes may differ within a call.
        ValueError otherwise. Blocks until the device has been given the work.
        """
        if not frames:
            return []
        return self.encode_patches(*self.patches(frames))

    def patches(self, frames: Sequence[np.ndarray]) -> tuple[torch.Tensor, list[tuple[int, int]]]:
        """What the host does of `encode`: patch rows of the frames in the encoder's dtype, on its device, and each
        frame's grid of them.
        """
        rows, grids = self._pixels.patchify_all(frames)
        return torch.from_numpy(rows).to(self.device, self.dtype), grids

    @torch.no_grad()
    def encode_patches(self, patches: torch.Tensor, grids: Sequence[tuple[int, int]]) -> list[torch.Tensor]:
        """What the device does of `encode`."""
        if self._graphs is not None:
            return self._graphs.tokens(patches, grids)
        tokens = vision_tower.visual_tokens(self._visual, patches, tuple(grids))
        area = self.budget.merge_size**2
        return list(tokens.split([grid_rows * grid_cols // area for grid_rows, grid_cols in grids]))


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
        num_deepstack: int = 0,
    ) -> None:
        """`text` is the text model of one of the families; its rotary embedding is replaced by an exact one, its
        norms by fused ones, its last layer by one that can leave out what is not wanted.
        """
        fuse_norms(text)
        self._text = text.eval().requires_grad_(False)
        self._lm_head = lm_head
        self.dialogue = dialogue
        self.config = config
        self.dtype = dtype
        self.device = device
        sizes = text.config
        self.rotary: ExactRotary = FAMILIES[sizes.model_type.removesuffix("_text")].rotary(sizes).to(device)
        self._text.rotary_emb = self.rotary
        self._text.layers[-1] = LastLayer(self._text.layers[-1])
        self.hidden_size: int = sizes.hidden_size
        self.num_layers: int = sizes.num_hidden_layers
        self.num_heads: int = sizes.num_attention_heads
        self.num_kv_heads: int = sizes.num_key_value_heads
        self.head_dim: int = getattr(sizes, "head_dim", None) or sizes.hidden_size // self.num_heads
        self.vocab_size: int = sizes.vocab_size
        self.num_deepstack = num_deepstack
        """Decoder layers after which features of the frames are added."""
        self.visual_size: int = self.hidden_size * (1 + num_deepstack)
        """Values of a visual token: its embedding, then its DeepStack features side by side."""

    @classmethod
    def load(
        cls, model_dir: str | Path, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
    ) -> LanguageModel:
        device = torch.device(device)
        family, config = _load_config(model_dir)
        text = family.empty_text_model(config.text_config)
        weights = read_weights(model_dir, language_name, dtype, device)
        lm_head = weights.pop("lm_head.weight", None)
        # The tensor of a tied head is sometimes stored as well.
        if config.tie_word_embeddings:
            lm_head = weights.get("embed_tokens.weight")
        put_weights(text, weights, model_dir)
        if lm_head is None:
            raise ValueError(f"{model_dir} has no lm_head.weight, and config.json does not tie it")
        shape = (config.text_config.vocab_size, config.text_config.hidden_size)
        if tuple(lm_head.shape) != shape:
            raise ValueError(
                f"{model_dir}: lm_head.weight is {list(lm_head.shape)}, config.json says {list(shape)}"
            )
        streamo = StreamoConfig.load(model_dir)
        dialogue = Dialogue.load(model_dir, streamo.system_prompt, streamo.max_instruction_tokens)
        if dialogue.vocab_size > config.text_config.vocab_size:
            raise ValueError(
                f"{model_dir}: the tokenizer has {dialogue.vocab_size} ids, the model "
                f"{config.text_config.vocab_size}; the two are not of one checkpoint"
            )
        return cls(text, lm_head, dialogue, streamo, dtype, device, num_deepstack(config.vision_config))

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Embeddings [..., hidden_size] of int64 token ids; those of image tokens are to be replaced."""
        embeddings: torch.Tensor = self._text.embed_tokens(token_ids)
        return embeddings

    def split_visual(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Visual tokens [n, visual_size] as embeddings [n, hidden_size] and DeepStack features
        [num_deepstack, n, hidden_size]; views, no copies.
        """
        levels = tokens.unflatten(1, (1 + self.num_deepstack, self.hidden_size))
        return levels[:, 0], levels[:, 1:].transpose(0, 1)

    def forward(
        self,
        inputs_embeds: torch.Tensor,
        positions: torch.Tensor,
        *,
        visual: tuple[torch.Tensor, torch.Tensor] | None = None,
        wanted: Wanted | None = None,
        **attention: Any,
    ) -> torch.Tensor:
        """Final hidden states [1, T, H] of embeddings [1, T, H] at integer positions [3, 1, T]; with `wanted`
        [1, n, H], of those tokens only.

        `visual` tells which of the T tokens are visual ones, int64 [n] without repeats, and their DeepStack
        features [num_deepstack, n, H]; a model without DeepStack does not look at it. Without `use_attention`
        the attention is plain causal over the T tokens. Builds no gradient graph.
        """
        if visual is not None and self.num_deepstack:
            index, features = visual
            attention.update(visual_pos_masks=index, deepstack_visual_embeds=features)
        # Features that are added after the last layer still need all of its tokens.
        leaves_out = wanted is not None and self.num_deepstack < self.num_layers
        with torch.no_grad():
            output = self._text(
                inputs_embeds=inputs_embeds,
                position_ids=positions,
                use_cache=False,
                wanted=wanted if leaves_out else None,
                **attention,
            )
        hidden: torch.Tensor = output.last_hidden_state
        return hidden if wanted is None or leaves_out else hidden.index_select(1, wanted.index)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits [N, vocab_size] of hidden states [N, H]."""
        return F.linear(hidden, self._lm_head)

    def use_attention(self, name: str) -> None:
        """Attend with the function registered under this name from now on. ValueError for an unknown name."""
        self._text.set_attn_implementation(name)


def _load_config(model_dir: str | Path) -> tuple[Family, Any]:
    path = Path(model_dir) / "config.json"
    if not path.is_file():
        raise ValueError(f"{model_dir} is not a model directory: it has no config.json")
    model_type = json.loads(path.read_text(encoding="utf-8")).get("model_type")
    family = FAMILIES.get(model_type)
    if family is None:
        raise ValueError(f"{path}: model_type {model_type!r} is not supported; known are {sorted(FAMILIES)}")
    return family, family.config_class.from_json_file(str(path))
