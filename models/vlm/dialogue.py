"""The chat that a session is: the one place that turns instructions, frames and replies into token ids.

Training, evaluation and serving all speak through `Dialogue`, so a model is served exactly what it was
trained on. A whole chat is `pinned_prefix`, then for each round `round_head` + `reply` + `round_tail`. Every
round ends with the opening of the next user turn, so after any rounds have been dropped from the front the
ids are those of a fresh chat.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from models.vlm.state import State
from models.vlm.time_tag import format_seconds

STATE_TOKENS = ("</Silence>", "</Standby>", "</Response>")
MAX_INSTRUCTION_TOKENS = 256


class Dialogue:
    """Token ids of the parts of a chat. Immutable after construction and free of torch.

    `tokenizer` holds the control tokens of Qwen's chat format and the three state tokens, each a single
    added token; ValueError names the first one it lacks. `system_prompt` is trusted text of the checkpoint:
    state tokens in it count as such. Instructions and reply texts are data: whatever they say, they yield no
    control token.
    """

    def __init__(
        self, tokenizer: Tokenizer, system_prompt: str, max_instruction_tokens: int = MAX_INSTRUCTION_TOKENS
    ) -> None:
        self.system_prompt = system_prompt
        self.max_instruction_tokens = max_instruction_tokens
        self._tokenizer = tokenizer
        self.vocabulary = _vocabulary(tokenizer)
        """Names what the token ids stand for: the same for equal tokens with equal ids."""
        spec = json.loads(tokenizer.to_str())
        self._control_ids = frozenset(int(token["id"]) for token in spec["added_tokens"])
        self._data_tokenizer = _without_added_tokens(spec)

        self._start_id = self._control_id("<|im_start|>")
        self.end_token_id = self._control_id("<|im_end|>")
        self.image_token_id = self._control_id("<|image_pad|>")
        self._vision_start_id = self._control_id("<|vision_start|>")
        self._vision_end_id = self._control_id("<|vision_end|>")
        silence, standby, response = (self._control_id(token) for token in STATE_TOKENS)
        self.state_token_ids = (silence, standby, response)

        newline = self._encode_data("\n")
        prompt_ids = self._encode_trusted(f"system\n{system_prompt}")
        if not set(prompt_ids) & self._control_ids <= set(self.state_token_ids):
            raise ValueError(
                "system_prompt contains a control token other than the state tokens; take it out"
            )
        self._system_turn = [self._start_id, *prompt_ids, self.end_token_id, *newline]
        self._assistant_opening = [
            self.end_token_id,
            *newline,
            self._start_id,
            *self._encode_data("assistant\n"),
        ]
        self.round_tail: list[int] = [
            self.end_token_id,
            *newline,
            self._start_id,
            *self._encode_data("user\n"),
        ]

    @classmethod
    def load(
        cls, model_dir: str | Path, system_prompt: str, max_instruction_tokens: int = MAX_INSTRUCTION_TOKENS
    ) -> Dialogue:
        """Build from `tokenizer.json` of a model directory."""
        tokenizer = Tokenizer.from_file(str(Path(model_dir) / "tokenizer.json"))
        return cls(tokenizer, system_prompt, max_instruction_tokens)

    @property
    def control_token_ids(self) -> frozenset[int]:
        """Ids that the text of a reply never holds: chat, vision and state tokens, and whatever else was added."""
        return self._control_ids

    @property
    def vocab_size(self) -> int:
        """One more than the highest token id."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    def check_instruction(self, instruction: str) -> None:
        """Raise ValueError, naming the fix, if the instruction is empty, too long or not valid Unicode."""
        self._instruction_ids(instruction)

    def pinned_prefix(self, instruction: str) -> list[int]:
        """System turn and instruction, up to the first round. ValueError as `check_instruction`."""
        return [*self._system_turn, self._start_id, *self._instruction_ids(instruction)]

    def round_head(self, start_ms: int, end_ms: int, num_frame_tokens: int) -> list[int]:
        """Time tag, frame, and the opening of the assistant turn; the next token is a state token.

        `start_ms` and `end_ms` are media time; the tag gives seconds with at most one decimal.
        """
        if num_frame_tokens < 1:
            raise ValueError(f"num_frame_tokens must be at least 1, got {num_frame_tokens}")
        return [
            *self._time_tag(start_ms, end_ms),
            self._vision_start_id,
            *[self.image_token_id] * num_frame_tokens,
            self._vision_end_id,
            *self._assistant_opening,
        ]

    def frameless_round_head(self, start_ms: int, end_ms: int) -> list[int]:
        """A round's head without a frame, which is never served: only to practise reading instructions on."""
        return [*self._time_tag(start_ms, end_ms), *self._assistant_opening]

    def num_tokens_before_end(self, start_ms: int) -> int:
        """Of a round's head those that stand before its end time, which is a token for each letter."""
        return len(self._encode_data(f"<{format_seconds(start_ms)}s-"))

    def reply(self, state: State, text: str = "") -> list[int]:
        """One state token; after Response a space and the text. ValueError for text on another state."""
        ids = [self.state_token_ids[state]]
        text = text.strip()
        if text and state is not State.RESPONSE:
            raise ValueError(f"only Response carries text, got {state.name} with {text!r}")
        if text:
            ids += self._encode_data(f" {text}")
        return ids

    def text(self, token_ids: Sequence[int]) -> str:
        """Reply text of token ids, control and state tokens left out, stripped."""
        plain = [token_id for token_id in token_ids if token_id not in self._control_ids]
        return self._tokenizer.decode(plain, skip_special_tokens=False).strip()

    def _time_tag(self, start_ms: int, end_ms: int) -> list[int]:
        if start_ms < 0 or end_ms < start_ms:
            raise ValueError(f"a round needs 0 <= start_ms <= end_ms, got {start_ms} and {end_ms}")
        return self._encode_data(f"<{format_seconds(start_ms)}s-{format_seconds(end_ms)}s>\n")

    def _instruction_ids(self, instruction: str) -> list[int]:
        text = instruction.strip()
        if not text:
            raise ValueError("instruction is empty; say in plain words what to watch for")
        ids = self._encode_data(f"user\n{text}\n")
        num_tokens = len(ids) - len(self._encode_data("user\n"))
        if num_tokens > self.max_instruction_tokens:
            raise ValueError(
                f"instruction has {num_tokens} tokens, at most {self.max_instruction_tokens} fit; shorten it"
            )
        return ids

    def _encode_trusted(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def _encode_data(self, text: str) -> list[int]:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError("text holds a lone surrogate, which is not valid Unicode; remove it") from error
        return list(self._data_tokenizer.encode(text, add_special_tokens=False).ids)

    def _control_id(self, token: str) -> int:
        token_id = self._tokenizer.token_to_id(token)
        if token_id is None or token_id not in self._control_ids:
            raise ValueError(f"the tokenizer has no added token {token}; use a checkpoint made by the recipe")
        return token_id


def _vocabulary(tokenizer: Tokenizer) -> str:
    tokens = tokenizer.get_vocab(with_added_tokens=True)
    listed = json.dumps(sorted((token_id, token) for token, token_id in tokens.items()))
    return hashlib.sha256(listed.encode()).hexdigest()[:16]


def _without_added_tokens(spec: dict[str, Any]) -> Tokenizer:
    """The same tokenizer for plain text: it knows no added token, neither by matching nor by merging."""
    added = {token["content"] for token in spec["added_tokens"]}
    plain = dict(spec, added_tokens=[], post_processor=None, truncation=None, padding=None)
    # Some tokenizers have control tokens in the vocabulary too, where a whole-word lookup finds them.
    vocab = {token: token_id for token, token_id in spec["model"]["vocab"].items() if token not in added}
    plain["model"] = dict(spec["model"], vocab=vocab)
    return Tokenizer.from_str(json.dumps(plain))
