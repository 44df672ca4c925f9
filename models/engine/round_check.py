"""What a round has to be like before a session takes it. Free of torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral

from models.engine.config import MAX_MEDIA_TIME_MS, SessionLimits
from models.engine.round import RoundInput
from models.vlm.dialogue import Dialogue
from models.vlm.state import State


@dataclass(frozen=True)
class RoundCheck:
    """Raises ValueError, naming the field, for a round that cannot be fed."""

    limits: SessionLimits
    dialogue: Dialogue
    visual_size: int
    vocab_size: int

    def check(self, one: RoundInput) -> None:
        if one.frame.ndim != 2:
            raise ValueError(f"frame must be [tokens, values], got {list(one.frame.shape)}")
        if len(one.grid) != 2:
            raise ValueError(f"grid must be rows and columns, got {one.grid}")
        rows, cols = one.grid
        for name, number in (
            ("grid", rows),
            ("grid", cols),
            ("start_ms", one.start_ms),
            ("end_ms", one.end_ms),
        ):
            if not isinstance(number, Integral):
                raise ValueError(f"{name} must be of whole numbers, got {number!r}")
        num_tokens = len(one.frame)
        if one.kept is None:
            num_kept = rows * cols
        elif one.kept.dtype == bool and one.kept.shape == (rows * cols,) and one.kept.any():
            num_kept = int(one.kept.sum())
        else:
            raise ValueError(
                f"kept must be bool [{rows * cols}] for a grid of {rows}x{cols} and keep a token, "
                f"got {one.kept.dtype} {list(one.kept.shape)}"
            )
        if rows < 1 or cols < 1 or num_kept != num_tokens:
            raise ValueError(
                f"frame of shape {tuple(one.frame.shape)} does not fill {num_kept} places of a grid of "
                f"{rows}x{cols}"
            )
        if one.frame.shape[1] != self.visual_size:
            raise ValueError(
                f"frame has tokens of {one.frame.shape[1]} values, the model's have {self.visual_size}"
            )
        if num_tokens > self.limits.max_frame_tokens:
            raise ValueError(
                f"frame has {num_tokens} tokens, max_frame_tokens is {self.limits.max_frame_tokens}"
            )
        if not 0 <= one.start_ms <= one.end_ms <= MAX_MEDIA_TIME_MS:
            raise ValueError(
                f"a round needs 0 <= start_ms <= end_ms <= {MAX_MEDIA_TIME_MS}, "
                f"got {one.start_ms} and {one.end_ms}"
            )
        if math.isnan(one.deadline_ms):
            raise ValueError("deadline_ms must be a number; leave it out if there is none")
        if one.forced_reply is not None:
            self._check_reply(one.forced_reply)

    def check_past(self, past_rounds: Sequence[RoundInput]) -> None:
        """The same for rounds that were decided before, which need their replies."""
        for index, past_round in enumerate(past_rounds):
            if past_round.forced_reply is None:
                raise ValueError(
                    f"past_rounds[{index}] has no forced_reply; append it if it is to be decided"
                )
            self.check(past_round)

    def _check_reply(self, reply: Sequence[int]) -> None:
        states = self.dialogue.state_token_ids
        if not reply or reply[0] not in states:
            raise ValueError("forced_reply must begin with one of the three state tokens")
        if len(reply) > 1 and reply[0] != states[State.RESPONSE]:
            raise ValueError("forced_reply has text after a state other than Response")
        if len(reply) - 1 > self.limits.max_reply_tokens:
            raise ValueError(
                f"forced_reply has {len(reply) - 1} text tokens, "
                f"max_reply_tokens is {self.limits.max_reply_tokens}"
            )
        unknown = [token_id for token_id in reply[1:] if not 0 <= token_id < self.vocab_size]
        if unknown:
            raise ValueError(
                f"forced_reply has the token id {unknown[0]}, the model has {self.vocab_size}; was it said by "
                "another model?"
            )
        if forbidden := self.dialogue.control_token_ids & set(reply[1:]):
            raise ValueError(f"forced_reply has control tokens {sorted(forbidden)} in its text")
