"""A session: the dialogue of one instruction with one stream, as tokens to feed and rounds to keep. Free of
torch.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import numpy as np

from models.engine.config import MAX_MEDIA_TIME_MS, SessionLimits
from models.engine.errors import IntegrityError, QueueFull
from models.engine.piece import PINNED, Piece
from models.engine.round import Reply, Round, RoundInput, WindowView
from models.engine.slot_table import SlotTable
from models.vlm.dialogue import Dialogue
from models.vlm.positions import round_positions
from models.vlm.state import State


class Session:
    """Knows which tokens come next, which rounds are kept, and what the model has said.

    Tokens wait in `_pending` from when they are known until the step that feeds them has succeeded. `num_due`
    of them lead up to a logit that is wanted; those behind it (a whole reply and the opening of the next
    turn) ride with the next round, so that a quiet round costs one forward.
    """

    def __init__(
        self,
        session_id: str,
        dialogue: Dialogue,
        limits: SessionLimits,
        pinned_prefix: Sequence[int],
        past_rounds: Sequence[RoundInput],
        table: SlotTable,
        ticket: int,
        first_position: int,
        *,
        stream_id: str = "",
        sensitivity: float = 0.0,
    ) -> None:
        self.session_id = session_id
        self.stream_id = stream_id
        """Whose share of the steps the session uses; "": one of its own."""
        self.sensitivity = sensitivity
        self.table = table
        self.ticket = ticket
        """Arrival of the oldest work: lower is served first."""
        self.deadline_ms = math.inf
        """By when the round under way is wanted; replays are never urgent."""
        self.num_due = 0
        self.num_pinned = len(pinned_prefix)
        self.is_pinned_saved = False
        self.rounds: deque[Round] = deque()
        self._dialogue = dialogue
        self._limits = limits
        self._past = deque(past_rounds)
        self._queue: deque[tuple[int, RoundInput]] = deque()
        self._next_index = 0
        self._first_position = self._next_position = first_position
        self._pending: deque[Piece] = deque()
        self._num_pending = 0
        self._push_text(pinned_prefix, PINNED)

    @property
    def is_replaying(self) -> bool:
        """Past rounds are still to be fed; nothing is decided meanwhile."""
        return bool(self._past) or (self.num_due > 0 and self.rounds[-1].is_past)

    @property
    def is_replying(self) -> bool:
        return bool(self.rounds) and self.rounds[-1].state is not None and not self.rounds[-1].is_closed

    @property
    def awaits_logits(self) -> bool:
        """The logits after the last due token decide something."""
        return bool(self.rounds) and not self.rounds[-1].is_closed

    @property
    def has_work(self) -> bool:
        return self.num_due > 0 or bool(self._past) or bool(self._queue)

    @property
    def can_append(self) -> bool:
        return len(self._queue) < self._limits.max_pending_rounds

    @property
    def can_begin_round(self) -> bool:
        """The next round is there, and all that must precede it is known (and fed, if a round has to go
        first).
        """
        if self._past:
            return not (self.is_window_full and self.num_due)
        return bool(self._queue) and self.num_due == 0

    @property
    def is_window_full(self) -> bool:
        return len(self.rounds) == self._limits.window_rounds

    def check_round(self, round_input: RoundInput) -> None:
        """Raise ValueError, naming the field, for a round that cannot be fed."""
        rows, cols = round_input.grid
        num_tokens = len(round_input.frame)
        if round_input.frame.ndim != 2 or rows < 1 or cols < 1 or rows * cols != num_tokens:
            raise ValueError(
                f"frame of shape {tuple(round_input.frame.shape)} does not fill a grid of {rows}x{cols}"
            )
        if num_tokens > self._limits.max_frame_tokens:
            raise ValueError(
                f"frame has {num_tokens} tokens, max_frame_tokens is {self._limits.max_frame_tokens}"
            )
        if not 0 <= round_input.start_ms <= round_input.end_ms <= MAX_MEDIA_TIME_MS:
            raise ValueError(
                f"a round needs 0 <= start_ms <= end_ms <= {MAX_MEDIA_TIME_MS}, "
                f"got {round_input.start_ms} and {round_input.end_ms}"
            )
        if math.isnan(round_input.deadline_ms):
            raise ValueError("deadline_ms must be a number; leave it out if there is none")
        if round_input.forced_reply is not None:
            self._check_reply(round_input.forced_reply)

    def append(self, round_input: RoundInput, ticket: int) -> int:
        """Queue a round and return its index. QueueFull if as many wait as may."""
        if not self.can_append:
            raise QueueFull(
                f"session {self.session_id} has {len(self._queue)} rounds waiting; step before appending"
            )
        self._queue.append((ticket, round_input))
        return self._next_index + len(self._past) + len(self._queue) - 1

    def begin_round(self) -> None:
        """Make the next round's head due. Only when `can_begin_round`, and with room in the window."""
        is_past = bool(self._past)
        if is_past:
            round_input = self._past.popleft()
        else:
            self.ticket, round_input = self._queue.popleft()
            self.deadline_ms = round_input.deadline_ms
        head = self._dialogue.round_head(round_input.start_ms, round_input.end_ms, len(round_input.frame))
        current = Round(self._next_index, self._next_position, is_past, round_input.forced_reply)
        positions, self._next_position = round_positions(
            head, self._dialogue.image_token_id, round_input.grid, self._next_position
        )
        frame_start = head.index(self._dialogue.image_token_id)
        self.rounds.append(current)
        self._next_index += 1
        self._push(Piece(np.asarray(head), positions, current.index, round_input.frame, frame_start))
        self.num_due = self._num_pending
        if is_past:
            self._force_reply(current)

    def drop_first_round(self) -> None:
        """Take the oldest round out of the window."""
        dropped = self.rounds.popleft()
        # With a window of one round, the end of that round is still waiting to be fed.
        self._pending = deque(piece for piece in self._pending if piece.owner != dropped.index)
        self._num_pending = sum(len(piece) for piece in self._pending)

    @property
    def pinned_shift_after_drop(self) -> int:
        """How far from where it began the pinned prefix stands once the oldest round is gone.

        It stands right before the oldest round that is left.
        """
        oldest_left = self.rounds[1].first_position if len(self.rounds) > 1 else self._next_position
        return oldest_left - self.num_pinned - self._first_position

    def take(self, num_tokens: int) -> list[Piece]:
        """The first `num_tokens` due tokens, still pending until `commit`."""
        pieces: list[Piece] = []
        for piece in self._pending:
            if num_tokens < len(piece):
                if num_tokens:
                    pieces.append(piece.cut(num_tokens)[0])
                break
            pieces.append(piece)
            num_tokens -= len(piece)
        return pieces

    def commit(self, num_tokens: int) -> None:
        """The step that fed the first `num_tokens` pending tokens has succeeded."""
        self.table.commit()
        self.num_due -= num_tokens
        self._num_pending -= num_tokens
        while num_tokens:
            piece = self._pending.popleft()
            if num_tokens < len(piece):
                self._pending.appendleft(piece.cut(num_tokens)[1])
                break
            num_tokens -= len(piece)

    def decide(self, state: State) -> tuple[State, Reply | None]:
        """Take the model's state for the round whose head was fed; a forced reply overrules it and is whole
        at once.
        """
        current = self.rounds[-1]
        if current.forced_reply is not None:
            reply = self._force_reply(current)
            assert current.state is not None
            return current.state, reply
        current.state = state
        current.reply.append(self._dialogue.state_token_ids[state])
        if state is State.RESPONSE:
            self._feed_reply_token()
        else:
            self._close(current, current.reply)
        return state, None

    def accept(self, token_id: int) -> Reply | None:
        """Take the next token of the running reply; the Reply if that ends it."""
        current = self.rounds[-1]
        if token_id == self._dialogue.end_token_id:
            self._close(current, ())
            return self._reply(current, truncated=False)
        current.reply.append(token_id)
        if len(current.reply) - 1 < self._limits.max_reply_tokens:
            self._feed_reply_token()
            return None
        self._close(current, current.reply[-1:])
        return self._reply(current, truncated=True)

    def view(self) -> WindowView:
        closed = [kept for kept in self.rounds if kept.is_closed]
        return WindowView(
            first_round=closed[0].index if closed else self._next_index - len(self.rounds),
            states=tuple(kept.state for kept in closed if kept.state is not None),
            replies=tuple(tuple(kept.reply) for kept in closed),
            num_tokens=self.table.length,
        )

    def check_integrity(self) -> None:
        """Raise IntegrityError unless slots, rounds and waiting tokens agree. Between steps only."""
        problem = None
        waiting = sum(len(piece) for piece in self._pending)
        pinned_waiting = sum(len(piece) for piece in self._pending if piece.owner == PINNED)
        kept = {kept.index for kept in self.rounds}
        if self.table.end != self.table.length:
            problem = "a step was neither committed nor trimmed"
        elif waiting != self._num_pending or not 0 <= self.num_due <= waiting:
            problem = f"{waiting} tokens wait, {self._num_pending} are booked, {self.num_due} due"
        elif len(kept) > self._limits.window_rounds:
            problem = f"{len(kept)} rounds kept, window_rounds is {self._limits.window_rounds}"
        elif self.table.owners() - {PINNED} - kept:
            problem = "slots of rounds that are not kept"
        elif not self.table.is_pinned_in_place(self.num_pinned - pinned_waiting):
            problem = "pinned prefix out of place"
        if problem:
            raise IntegrityError(f"session {self.session_id}: {problem}")

    def _force_reply(self, current: Round) -> Reply | None:
        assert current.forced_reply is not None
        current.reply = list(current.forced_reply)
        current.state = State(self._dialogue.state_token_ids.index(current.reply[0]))
        if current.state is not State.RESPONSE:
            self._close(current, current.reply)
            return None
        # As when it was live: what was fed to get the text comes before the next round and what it drops.
        num_fed = self._limits.max_reply_tokens
        self._push_text(current.reply[:num_fed], current.index)
        self.num_due = self._num_pending
        self._close(current, current.reply[num_fed:])
        return self._reply(current, truncated=False)

    def _feed_reply_token(self) -> None:
        current = self.rounds[-1]
        self._push_text(current.reply[-1:], current.index)
        self.num_due = self._num_pending

    def _close(self, current: Round, unfed: Sequence[int]) -> None:
        current.is_closed = True
        self._push_text([*unfed, *self._dialogue.round_tail], current.index)

    def _reply(self, current: Round, truncated: bool) -> Reply:
        token_ids = tuple(current.reply[1:])
        return Reply(self.session_id, current.index, token_ids, self._dialogue.text(token_ids), truncated)

    def _push_text(self, token_ids: Sequence[int], owner: int) -> None:
        start, self._next_position = (self._next_position, self._next_position + len(token_ids))
        positions = np.broadcast_to(np.arange(start, self._next_position), (3, len(token_ids)))
        self._push(Piece(np.asarray(token_ids, dtype=np.int64), positions, owner))

    def _push(self, piece: Piece) -> None:
        self._pending.append(piece)
        self._num_pending += len(piece)

    def _check_reply(self, reply: Sequence[int]) -> None:
        states = self._dialogue.state_token_ids
        if not reply or reply[0] not in states:
            raise ValueError("forced_reply must begin with one of the three state tokens")
        if len(reply) > 1 and reply[0] != states[State.RESPONSE]:
            raise ValueError("forced_reply has text after a state other than Response")
        if len(reply) - 1 > self._limits.max_reply_tokens:
            raise ValueError(
                f"forced_reply has {len(reply) - 1} text tokens, "
                f"max_reply_tokens is {self._limits.max_reply_tokens}"
            )
        if forbidden := self._dialogue.control_token_ids & set(reply[1:]):
            raise ValueError(f"forced_reply has control tokens {sorted(forbidden)} in its text")
