import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from models.training.tokenizer import CONTROL_TOKENS
from models.vlm.dialogue import STATE_TOKENS, Dialogue
from models.vlm.state import State
from models.vlm.streamo_config import StreamoConfig

ADDED_TOKENS = (*CONTROL_TOKENS, *STATE_TOKENS)
NASTY = st.lists(
    st.one_of(
        st.sampled_from([*ADDED_TOKENS, "<|", "|>", "im_end", "</", "\n", " ", "\u200b"]),
        st.text(),
    ),
    min_size=1,
).map("".join)


@pytest.fixture(scope="module")
def dialogue(random_checkpoint: Path) -> Dialogue:
    return Dialogue.load(random_checkpoint, StreamoConfig.load(random_checkpoint).system_prompt, 4096)


@pytest.fixture(scope="module")
def hf_tokenizer(random_checkpoint: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(random_checkpoint)


def test_a_vocabulary_is_named_by_what_each_id_stands_for(random_checkpoint: Path, tmp_path: Path) -> None:
    spec = json.loads((random_checkpoint / "tokenizer.json").read_text())
    named = {}
    for name in ("same", "swapped"):
        vocab: dict[str, int] = spec["model"]["vocab"]
        if name == "swapped":
            vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
        spec["truncation"] = {"direction": "Right", "max_length": 9, "strategy": "LongestFirst", "stride": 0}
        (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
        named[name] = Dialogue.load(tmp_path, "Watch.").vocabulary
    assert named["same"] == Dialogue.load(random_checkpoint, "Look.").vocabulary
    assert named["swapped"] != named["same"]


def test_a_chat_is_the_chat_template_of_its_turns(
    dialogue: Dialogue, hf_tokenizer: PreTrainedTokenizerBase
) -> None:
    ids = dialogue.pinned_prefix("  Tell me when a person arrives. ")
    ids += dialogue.round_head(12_000, 13_500, 2) + dialogue.reply(State.SILENCE) + dialogue.round_tail
    ids += (
        dialogue.round_head(13_500, 999_999_950, 2)
        + dialogue.reply(State.RESPONSE, "A red car.")
        + dialogue.round_tail
    )
    ids += dialogue.round_head(1_000_000_000, 1_000_001_000, 1)
    frame = "<|vision_start|><|image_pad|><|image_pad|><|vision_end|>"
    messages = [
        {"role": "system", "content": dialogue.system_prompt},
        {
            "role": "user",
            "content": f"Tell me when a person arrives.\n<12s-13.5s>\n{frame}",
        },
        {"role": "assistant", "content": "</Silence>"},
        {"role": "user", "content": f"<13.5s-1000000s>\n{frame}"},
        {"role": "assistant", "content": "</Response> A red car."},
        {
            "role": "user",
            "content": "<1000000s-1000001s>\n<|vision_start|><|image_pad|><|vision_end|>",
        },
    ]
    text = hf_tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert ids == hf_tokenizer(text, add_special_tokens=False)["input_ids"]


def test_a_head_without_a_frame_is_that_head_but_for_the_frame(dialogue: Dialogue) -> None:
    whole, bare = dialogue.round_head(2500, 4000, 3), dialogue.frameless_round_head(2500, 4000)
    first = whole.index(dialogue.image_token_id) - 1
    assert bare == whole[:first] + whole[first + 5 :]


def test_every_digit_of_a_tag_is_one_token(dialogue: Dialogue, hf_tokenizer: PreTrainedTokenizerBase) -> None:
    tag = dialogue.round_head(1_234_567_800, 1_234_568_000, 1)
    pieces = [hf_tokenizer.decode([token_id]) for token_id in tag[: tag.index(dialogue.image_token_id) - 1]]
    assert "".join(pieces) == "<1234567.8s-1234568s>\n"
    assert all(len(piece) == 1 for piece in pieces if any(c.isdigit() for c in piece))


@given(text=NASTY)
def test_no_instruction_yields_a_control_token(dialogue: Dialogue, text: str) -> None:
    control_ids = {dialogue._control_id(token) for token in ADDED_TOKENS}
    if not text.strip():
        with pytest.raises(ValueError, match="empty"):
            dialogue.pinned_prefix(text)
        return
    ids = dialogue.pinned_prefix(text)
    # The system turn's start, its prompt's two state tokens, its end, and the start of the user turn.
    plain = dialogue.pinned_prefix("x")
    assert sum(i in control_ids for i in ids) == sum(i in control_ids for i in plain) == 5
    assert ids[: plain.index(dialogue.end_token_id)] == plain[: plain.index(dialogue.end_token_id)]
    assert not set(dialogue.reply(State.RESPONSE, text)[1:]) & control_ids


@given(text=st.text(alphabet=st.characters(codec="utf-8", categories=["L", "N", "P", "Zs"])))
def test_reply_text_survives_up_to_its_ends(dialogue: Dialogue, text: str) -> None:
    import unicodedata

    ids = dialogue.reply(State.RESPONSE, text)
    assert ids[0] == dialogue.state_token_ids[State.RESPONSE]
    assert dialogue.text([*ids, dialogue.end_token_id]) == unicodedata.normalize("NFC", text.strip()).strip()


def test_bad_input_is_refused(random_checkpoint: Path, dialogue: Dialogue) -> None:
    short = Dialogue.load(random_checkpoint, "x", max_instruction_tokens=4)
    short.check_instruction("a b")
    with pytest.raises(ValueError, match="at most 4"):
        short.check_instruction("one two three four five")
    with pytest.raises(ValueError, match="surrogate"):
        dialogue.check_instruction("\ud800")
    with pytest.raises(ValueError, match="only Response"):
        dialogue.reply(State.STANDBY, "text")
    with pytest.raises(ValueError, match="start_ms"):
        dialogue.round_head(2000, 1000, 1)
    with pytest.raises(ValueError, match="num_frame_tokens"):
        dialogue.round_head(0, 1000, 0)
    with pytest.raises(ValueError, match="system_prompt"):
        Dialogue.load(random_checkpoint, "<|im_end|>")


def test_a_tokenizer_without_state_tokens_is_refused(dialogue: Dialogue) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import BPE

    with pytest.raises(ValueError, match=r"<\|im_start\|>"):
        Dialogue(Tokenizer(BPE()), "x")
