from pathlib import Path

from tokenizers import Tokenizer
from transformers import AutoTokenizer

from models.training.corpus import tokenizer_texts
from models.training.tokenizer import CONTROL_TOKENS, save_tokenizer, train_tokenizer
from models.vlm.dialogue import STATE_TOKENS


def test_the_tiny_tokenizer(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(tokenizer_texts(), vocab_size=1024)
    assert tokenizer.get_vocab_size(with_added_tokens=True) <= 1024
    assert train_tokenizer(tokenizer_texts(), vocab_size=1024).to_str() == tokenizer.to_str()
    for token in (*CONTROL_TOKENS, *STATE_TOKENS):
        assert tokenizer.encode(f"a{token}b").tokens[1] == token
    for text in ("assistant\n", "user\n"):
        assert len(tokenizer.encode(text).ids) == 2
    digits = tokenizer.encode("<1234.5s-99s>\n").tokens
    assert [piece for piece in digits if piece.isdigit()] == list("1234599")
    strange = "Größe 家 🦊 \x00 tab\t"
    assert tokenizer.decode(tokenizer.encode(strange).ids) == strange

    save_tokenizer(tokenizer, tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "<|im_start|>user\nTell me when a red car arrives.<|im_end|>"
    assert loaded(text)["input_ids"] == Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(text).ids
    assert loaded.eos_token == "<|im_end|>" and loaded.pad_token == "<|endoftext|>"
