"""Settings of an engine, and what a session may hold under them. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from models.vlm.dialogue import Dialogue
from models.vlm.streamo_config import StreamoConfig

# A time tag grows with media time; what a session reserves is worked out for tags up to 10^10 s (317 years).
MAX_MEDIA_TIME_MS = 9_999_999_999_900
# Angles are computed in float64, which tells whole numbers apart up to here.
MAX_POSITION = 2**53

PinnedPositions = Literal["move", "keep"]


@dataclass(frozen=True)
class EngineConfig:
    """What the engine may use. ValueError, naming the field, for a value that cannot work."""

    max_sessions: int
    max_kv_tokens: int
    """Token slots of the KV cache, all of them allocated at start; sessions are refused rather than go
    beyond.
    """
    max_batch_tokens: int
    """Most tokens in one forward: the bound on how long a step takes."""
    max_pending_rounds: int = 4
    """Rounds that may wait in a session's queue."""
    window_rounds: int | None = None
    """Rounds a session keeps; None: what the checkpoint was trained with."""
    max_window_tokens: int | None = None
    """Most tokens a session's window holds, pinned prefix included. Rounds leave, oldest first and whole, before
    a new one that might not fit; None: what `window_rounds` rounds can come to at most.
    """
    pinned_positions: PinnedPositions = "move"
    """Where the pinned prefix stands once rounds have left. "move": right before the oldest round that is left,
    as in a fresh chat; "keep": where it began, with a growing gap behind it.
    """
    max_reply_tokens: int | None = None
    """Text tokens of a reply before it is cut; None: what the checkpoint was trained with."""
    max_frame_tokens: int = 128
    """Most visual tokens of a frame, by which a session's window is reserved; 128 are 100,352 pixels of
    Qwen2.5-VL, whose visual tokens are 28 pixels wide, and 131,072 of Qwen3-VL."""
    block_tokens: int = 16
    """Token slots in a block, the unit in which the KV cache is handed out."""

    def __post_init__(self) -> None:
        for name, least in (
            ("max_sessions", 1),
            ("max_kv_tokens", 1),
            ("max_batch_tokens", 8),
            ("max_pending_rounds", 1),
            ("window_rounds", 1),
            ("max_window_tokens", 1),
            ("max_reply_tokens", 1),
            ("max_frame_tokens", 1),
            ("block_tokens", 1),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if self.pinned_positions not in get_args(PinnedPositions):
            raise ValueError(
                f"pinned_positions must be one of {get_args(PinnedPositions)}, got {self.pinned_positions!r}"
            )
        if self.max_kv_tokens < self.block_tokens:
            raise ValueError(
                f"max_kv_tokens ({self.max_kv_tokens}) is less than a block of {self.block_tokens}; raise it"
            )


@dataclass(frozen=True)
class SessionLimits:
    """What one session may hold, all of it known before the session opens."""

    window_rounds: int
    window_tokens: int | None
    max_reply_tokens: int
    max_frame_tokens: int
    max_pending_rounds: int
    max_round_tokens: int
    max_rest_tokens: int
    """Of these, what may follow the head: a reply and the opening of the next turn."""

    @classmethod
    def of(cls, config: EngineConfig, checkpoint: StreamoConfig, dialogue: Dialogue) -> SessionLimits:
        max_reply_tokens = config.max_reply_tokens or checkpoint.max_reply_tokens
        head = dialogue.round_head(MAX_MEDIA_TIME_MS - 100, MAX_MEDIA_TIME_MS, config.max_frame_tokens)
        max_rest_tokens = 1 + max_reply_tokens + len(dialogue.round_tail)
        return cls(
            window_rounds=config.window_rounds or checkpoint.window_rounds,
            window_tokens=config.max_window_tokens,
            max_reply_tokens=max_reply_tokens,
            max_frame_tokens=config.max_frame_tokens,
            max_pending_rounds=config.max_pending_rounds,
            max_round_tokens=len(head) + max_rest_tokens,
            max_rest_tokens=max_rest_tokens,
        )

    def max_window_tokens(self, num_pinned_tokens: int) -> int:
        """Most tokens of a session that are attended to at once: what it reserves.

        ValueError if not even one round is sure to fit beside the pinned prefix.
        """
        by_rounds = num_pinned_tokens + self.window_rounds * self.max_round_tokens
        if self.window_tokens is None:
            return by_rounds
        if num_pinned_tokens + self.max_round_tokens > self.window_tokens:
            raise ValueError(
                f"max_window_tokens ({self.window_tokens}) cannot hold a pinned prefix of {num_pinned_tokens} "
                f"tokens and a round of up to {self.max_round_tokens}; raise it, or shorten the instruction"
            )
        return min(by_rounds, self.window_tokens)
