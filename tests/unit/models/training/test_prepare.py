import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from tokenizers import Tokenizer
from transformers import AutoModelForImageTextToText, AutoTokenizer

from models.training.prepare import PreparedFrames, prepare_checkpoint
from models.vlm.dialogue import STATE_TOKENS
from models.vlm.frame_size import FrameBudget
from models.vlm.model import LanguageModel, VisionEncoder
from models.vlm.streamo_config import StreamoConfig
from tests.support.tiny_models import FAMILY_NAMES, FamilyName, write_tiny_model

STREAMO = StreamoConfig(window_rounds=120, max_reply_tokens=64, system_prompt="Say what is asked.")


def write_base(directory: Path, family: FamilyName, **options: Any) -> None:
    """A checkpoint as it comes: of no recipe, its tokenizer without the state tokens."""
    write_tiny_model(directory, family, **options)
    (directory / "streamo.json").unlink()
    path = directory / "tokenizer.json"
    spec = json.loads(path.read_text())
    spec["added_tokens"] = [t for t in spec["added_tokens"] if t["content"] not in STATE_TOKENS]
    vocab = spec["model"]["vocab"]
    spec["model"]["vocab"] = {token: i for token, i in vocab.items() if token not in STATE_TOKENS}
    path.write_text(json.dumps(spec))


def tensors_of(directory: Path) -> dict[str, torch.Tensor]:
    tensors = {}
    for path in directory.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return tensors


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("tied", [True, False])
def test_state_tokens_begin_as_the_mean_of_words(tmp_path: Path, family: FamilyName, tied: bool) -> None:
    base, out = tmp_path / "base", tmp_path / "out"
    write_base(base, family, tie_word_embeddings=tied, max_shard_size="40KB")
    assert len(list(base.glob("*.safetensors"))) > 2
    ids = prepare_checkpoint(base, out, STREAMO)

    before, after = tensors_of(base), tensors_of(out)
    assert before.keys() == after.keys()
    words = Tokenizer.from_file(str(base / "tokenizer.json"))
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert len(changed) == (1 if tied else 2) and all("embed" in n or "lm_head" in n for n in changed)
    for name in changed:
        source = words.encode(" standby wait waiting", add_special_tokens=False).ids
        torch.testing.assert_close(after[name][ids["</Standby>"]], before[name][source].mean(0))
        new = torch.tensor(sorted(ids.values()))
        rows = after[name][new]
        assert not torch.allclose(rows[0], rows[1]) and not torch.allclose(rows[1], rows[2])
        kept = torch.ones(len(before[name]), dtype=torch.bool)
        kept[new[new < len(kept)]] = False
        assert torch.equal(after[name][: len(kept)][kept], before[name][kept])


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_prepared_checkpoint_is_served_and_read_by_hugging_face(tmp_path: Path, family: FamilyName) -> None:
    base, out = tmp_path / "base", tmp_path / "out"
    write_base(base, family)
    ids = prepare_checkpoint(base, out, STREAMO, PreparedFrames(max_tokens=12))
    language, encoder = LanguageModel.load(out), VisionEncoder.load(out)
    assert language.config == STREAMO
    assert language.dialogue.state_token_ids == tuple(ids[token] for token in STATE_TOKENS)
    assert encoder.budget.max_pixels == FrameBudget.load(out).max_pixels == 12 * encoder.budget.unit**2
    assert encoder.budget.num_tokens(*encoder.budget.fit(480, 640)) == 12
    tokenizer = AutoTokenizer.from_pretrained(out)
    for token, token_id in ids.items():
        assert tokenizer.convert_tokens_to_ids(token) == token_id
    model = AutoModelForImageTextToText.from_pretrained(out)
    assert model.get_input_embeddings().num_embeddings == language.vocab_size
    assert {path.name for path in base.iterdir()} <= {path.name for path in out.iterdir()}


def test_the_embedding_grows_only_where_it_has_no_row_to_spare(tmp_path: Path) -> None:
    base = tmp_path / "base"
    write_base(base, "qwen2_5_vl", max_shard_size="40KB")
    num_rows = json.loads((base / "config.json").read_text())["text_config"]["vocab_size"]
    ids = prepare_checkpoint(base, tmp_path / "spare", STREAMO)
    assert max(ids.values()) < num_rows
    assert (
        json.loads((tmp_path / "spare" / "config.json").read_text())["text_config"]["vocab_size"] == num_rows
    )

    # The same with a tokenizer that fills the embedding up.
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    tokenizer.add_special_tokens([f"<|extra_{i}|>" for i in range(num_rows - min(ids.values()))])
    tokenizer.save(str(base / "tokenizer.json"))
    ids = prepare_checkpoint(base, tmp_path / "grown", STREAMO)
    assert min(ids.values()) == num_rows
    language = LanguageModel.load(tmp_path / "grown")
    assert language.vocab_size > max(ids.values()) and language.vocab_size % 64 == 0
    index = json.loads((tmp_path / "grown" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in tensors_of(tmp_path / "grown").values())


def test_what_cannot_be_prepared_is_refused(tmp_path: Path) -> None:
    base = tmp_path / "base"
    write_base(base, "qwen3_vl")
    prepare_checkpoint(base, tmp_path / "out", STREAMO)
    with pytest.raises(ValueError, match="exists already"):
        prepare_checkpoint(base, tmp_path / "out", STREAMO)
    with pytest.raises(ValueError, match="prepared before"):
        prepare_checkpoint(tmp_path / "out", tmp_path / "again", STREAMO)
    with pytest.raises(ValueError, match=r"config\.json is missing"):
        prepare_checkpoint(tmp_path, tmp_path / "none", STREAMO)
    shutil.copytree(base, tmp_path / "without_weights")
    (tmp_path / "without_weights" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"lacks model\.safetensors"):
        prepare_checkpoint(tmp_path / "without_weights", tmp_path / "none", STREAMO)
    shutil.copytree(base, tmp_path / "without_tokens")
    (tmp_path / "without_tokens" / "tokenizer_config.json").unlink()
    with pytest.raises(ValueError, match=r"tokenizer_config\.json is missing"):
        prepare_checkpoint(tmp_path / "without_tokens", tmp_path / "none", STREAMO)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "model_type": "llama"}))
    with pytest.raises(ValueError, match="'llama' is not supported"):
        prepare_checkpoint(base, tmp_path / "none", STREAMO)
    # Nothing half-made is left.
    assert {path.name for path in tmp_path.iterdir()} == {"base", "out", "without_weights", "without_tokens"}
