"""A base checkpoint made ready for training: three state tokens, a pixel budget for frames, and `streamo.json`."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer

from models.vlm.dialogue import STATE_TOKENS, Dialogue
from models.vlm.model import FAMILIES
from models.vlm.streamo_config import StreamoConfig
from models.vlm.weights import language_name

# What each state token means, in words that a base model knows; its embedding starts as their mean.
_MEANINGS = dict(
    zip(
        STATE_TOKENS,
        (" silence silent nothing", " standby wait waiting", " response respond answer"),
        strict=True,
    )
)
_EMBEDDINGS = ("embed_tokens.weight", "lm_head.weight")
# Grown embeddings have a number of rows that devices multiply well.
_ROWS_MULTIPLE = 64
_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class PreparedFrames:
    """Visual tokens that a frame may have, least and most (the paper's: 3,136 to 100,352 px of 784 px a token)."""

    min_tokens: int = 4
    max_tokens: int = 128

    def __post_init__(self) -> None:
        if not 1 <= self.min_tokens <= self.max_tokens:
            raise ValueError(
                f"min_tokens {self.min_tokens} must be at least 1 and at most max_tokens {self.max_tokens}"
            )


def prepare_checkpoint(
    base: Path, out: Path, streamo: StreamoConfig, frames: PreparedFrames | None = None
) -> dict[str, int]:
    """Write `out`, a copy of the Qwen2.5-VL or Qwen3-VL checkpoint `base` with the state tokens; returns their ids.

    The embeddings (and, where it is not tied, the rows of the output head) of the new tokens start as the mean of
    those of words that say what the token means. They stand behind the tokenizer's last id; the embedding grows only
    if it has no row to spare there. Tensors that do not change keep their bytes. Everything of the folder is copied
    but what is replaced. `out` appears whole or not at all. ValueError if it exists, if `base` is no checkpoint of a
    known family with safetensors weights, or has a state token already.
    """
    if out.exists():
        raise ValueError(f"{out} exists already; name a new folder")
    config = _read_json(base / "config.json")
    if config.get("model_type") not in FAMILIES:
        raise ValueError(
            f"{base / 'config.json'}: model_type {config.get('model_type')!r} is not supported; known are "
            f"{sorted(FAMILIES)}"
        )
    tokenizer = _tokenizer(base)
    sources = {
        token: tokenizer.encode(text, add_special_tokens=False).ids for token, text in _MEANINGS.items()
    }
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in STATE_TOKENS]
    )
    added = tokenizer.get_added_tokens_decoder()
    ids = {token.content: token_id for token_id, token in added.items() if token.content in STATE_TOKENS}
    Dialogue(tokenizer, streamo.system_prompt, streamo.max_instruction_tokens)  # which other tokens it needs

    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        num_rows = _write_weights(base, partial, {ids[token]: source for token, source in sources.items()})
        _set_vocab_size(config, num_rows)
        _write_json(partial / "config.json", config)
        tokenizer.save(str(partial / "tokenizer.json"))
        _write_tokenizer_config(base, partial, ids)
        _write_preprocessor_config(base, partial, frames if frames is not None else PreparedFrames())
        streamo.save(partial)
        for path in sorted(base.iterdir()):
            if path.is_file() and path.suffix != ".safetensors" and not (partial / path.name).exists():
                shutil.copy2(path, partial / path.name)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return ids


def _tokenizer(base: Path) -> Tokenizer:
    path = base / "tokenizer.json"
    if not path.is_file():
        raise ValueError(f"{path} is missing; save the tokenizer of the base in the fast format first")
    tokenizer = Tokenizer.from_file(str(path))
    for token in STATE_TOKENS:
        if tokenizer.token_to_id(token) is not None:
            raise ValueError(
                f"{path} has {token} already: this checkpoint was prepared before; train it as it is"
            )
    return tokenizer


def _write_weights(base: Path, out: Path, sources: dict[int, list[int]]) -> int:
    """Copy all weight files, with a row for each new id in the embeddings; returns the rows there are then."""
    index_path = base / _INDEX
    index = _read_json(index_path) if index_path.is_file() else None
    names = sorted(set(index["weight_map"].values())) if index is not None else ["model.safetensors"]
    num_rows, growth_bytes = 0, 0
    for name in names:
        if not (base / name).is_file():
            raise ValueError(f"{base} lacks {name}; only safetensors weights are read")
        with safe_open(base / name, framework="pt") as file:
            embeddings = [key for key in file.keys() if language_name(key) in _EMBEDDINGS]  # noqa: SIM118
            if not embeddings:
                shutil.copy2(base / name, out / name)
                continue
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            metadata = file.metadata()
        for key in embeddings:
            grown = _with_rows(tensors[key], sources)
            growth_bytes += grown.nbytes - tensors[key].nbytes
            tensors[key], num_rows = grown, len(grown)
        save_file(tensors, out / name, metadata)
    if not num_rows:
        raise ValueError(f"{base} holds no embed_tokens.weight")
    if index is not None:
        metadata = index.setdefault("metadata", {})
        metadata["total_size"] = metadata.get("total_size", 0) + growth_bytes
        _write_json(out / _INDEX, index)
    return num_rows


def _with_rows(embedding: torch.Tensor, sources: dict[int, list[int]]) -> torch.Tensor:
    num_rows = len(embedding)
    if max(sources) >= num_rows:
        num_rows = -(-(max(sources) + 1) // _ROWS_MULTIPLE) * _ROWS_MULTIPLE
    rows = torch.zeros(num_rows, embedding.shape[1], dtype=embedding.dtype)
    rows[: len(embedding)] = embedding
    for token_id, source in sources.items():
        rows[token_id] = embedding[source].float().mean(0).to(embedding.dtype)
    return rows


def _set_vocab_size(config: dict[str, Any], num_rows: int) -> None:
    # Older files have the text model's sizes at the top.
    holders = [holder for holder in (config, config.get("text_config", {})) if "vocab_size" in holder]
    for holder in holders or [config.setdefault("text_config", {})]:
        holder["vocab_size"] = num_rows


def _write_tokenizer_config(base: Path, out: Path, ids: dict[str, int]) -> None:
    """So that Hugging Face's own tokenizer classes know the tokens as well."""
    path = base / "tokenizer_config.json"
    config = _read_json(path)
    if "added_tokens_decoder" in config:
        flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
        for token, token_id in ids.items():
            config["added_tokens_decoder"][str(token_id)] = {"content": token, **flags}
    _write_json(out / path.name, config)


def _write_preprocessor_config(base: Path, out: Path, frames: PreparedFrames) -> None:
    path = base / "preprocessor_config.json"
    config = _read_json(path)
    area = (int(config.get("patch_size", 14)) * int(config.get("merge_size", 2))) ** 2
    least, most = frames.min_tokens * area, frames.max_tokens * area
    config |= {
        "min_pixels": least,
        "max_pixels": most,
        "size": {"shortest_edge": least, "longest_edge": most},
    }
    _write_json(out / path.name, config)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path} is missing: {path.parent} is no checkpoint of the standard format")
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
