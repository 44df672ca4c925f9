"""A session: the dialogue of one instruction with one stream, as tokens to feed and rounds to keep. Free of
torch.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np

from models.engine.config import SessionLimits
from models.engine.errors import IntegrityError, QueueFull
from models.engine.piece import PINNED, Piece
from models.engine.pinned_prefix import PinnedPrefix
from models.engine.round import Reply, Round, RoundInput, WindowView
from models.engine.slot_table import Eviction, SlotTable
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
        prefix: PinnedPrefix,
        past_rounds: Sequence[RoundInput],
        table: SlotTable,
        ticket: int,
        *,
        stream_id: str = "",
        sensitivity: float = 0.0,
    ) -> None:
        self.session_id = session_id
        self.stream_id = stream_id
        """Whose share of the steps the session uses; "": one of its own."""
        self.sensitivity = sensitivity
        self.prefix = prefix
        self.table = table
        self.ticket = ticket
        """Arrival of the oldest work: lower is served first."""
        self.deadline_ms = math.inf
        """By when the round under way is wanted; replays are never urgent."""
        self.num_due = 0
        self.rounds: deque[Round] = deque()
        self._dialogue = dialogue
        self._limits = limits
        self._past = deque(past_rounds)
        self._queue: deque[tuple[int, RoundInput]] = deque()
        self._next_index = 0
        self._next_position = prefix.first_position
        self._next_head: Piece | None = None
        self._pending: deque[Piece] = deque()
        self._num_pending = 0
        self._push_text(prefix.token_ids, PINNED)

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
        """The next round is there, and all that must precede it is known (and fed, if rounds have to go first)."""
        if self._past:
            return self.num_due == 0 or self.num_rounds_to_drop == 0
        return bool(self._queue) and self.num_due == 0

    @property
    def num_rounds_to_drop(self) -> int:
        """How many of the oldest rounds must go before the next may begin: it counts at its longest. Only when
        a round waits.
        """
        num_dropped = max(len(self.rounds) + 1 - self._limits.window_rounds, 0)
        room = self.table.capacity - len(self.prefix) - sum(kept.num_tokens for kept in self.rounds)
        room += sum(kept.num_tokens for kept in islice(self.rounds, num_dropped))
        while room < len(self._head()) + self._limits.max_rest_tokens:
            room += self.rounds[num_dropped].num_tokens
            num_dropped += 1
        return num_dropped

    @property
    def can_adopt_prefix(self) -> bool:
        """The pinned prefix is wanted, another session has fed it, and this one has not begun to."""
        return self.num_due > 0 and self.table.length == 0 and self.prefix.is_saved

    def append(self, round_input: RoundInput, ticket: int) -> int:
        """Queue a round and return its index. QueueFull if as many wait as may."""
        if not self.can_append:
            raise QueueFull(
                f"session {self.session_id} has {len(self._queue)} rounds waiting; step before appending"
            )
        self._queue.append((ticket, round_input))
        return self._next_index + len(self._past) + len(self._queue) - 1

    def begin_round(self) -> None:
        """Make the next round's head due. Only when `can_begin_round`, and no rounds have to go."""
        head = self._head()
        is_past = bool(self._past)
        if is_past:
            round_input = self._past.popleft()
        else:
            self.ticket, round_input = self._queue.popleft()
            self.deadline_ms = round_input.deadline_ms
        current = Round(self._next_index, self._next_position, is_past, round_input.forced_reply, len(head))
        self.rounds.append(current)
        self._next_index += 1
        self._next_position = int(head.positions[0, -1]) + 1  # a head ends with text
        self._next_head = None
        self._push(head)
        self.num_due = self._num_pending
        if is_past:
            self._force_reply(current)

    def plan_eviction(self) -> Eviction | None:
        """How to drop the rounds that have to go, None if there is room. Changes nothing."""
        num_dropped = self.num_rounds_to_drop
        if not num_dropped:
            return None
        is_any_left = num_dropped < len(self.rounds)
        return self.table.plan_eviction(self.rounds[num_dropped].index if is_any_left else self._next_index)

    def pinned_distance(self, eviction: Eviction) -> int:
        """How far from where it began the pinned prefix has to stand, to be right before the oldest round that
        the eviction leaves.
        """
        kept = [kept.first_position for kept in self.rounds if kept.index >= eviction.first_kept]
        oldest_kept = kept[0] if kept else self._next_position
        return oldest_kept - len(self.prefix) - self.prefix.first_position

    def evict(self, eviction: Eviction) -> int:
        """Take the rounds out of the window whose places have been filled; how many they were."""
        rounds = deque(kept for kept in self.rounds if kept.index >= eviction.first_kept)
        num_dropped = len(self.rounds) - len(rounds)
        # If no round is left, the end of the last one is still waiting to be fed.
        pending = deque(piece for piece in self._pending if piece.owner >= eviction.first_kept)
        num_pending = sum(len(piece) for piece in pending)
        # From here on nothing can fail or be interrupted halfway.
        self.table.evict(eviction)
        self.rounds, self._pending, self._num_pending = rounds, pending, num_pending
        return num_dropped

    def adopt_prefix(self) -> None:
        """The master copy of the pinned prefix has been copied into the session's slots: no need to feed it."""
        pinned = self._pending[0]
        self.table.extend([pinned])
        self.commit(len(pinned))

    def mark(self) -> Callable[[], None]:
        """How to take back whatever a step does to the session from now on, evictions excepted."""
        length, num_due = self.table.length, self.num_due
        ticket, deadline_ms = self.ticket, self.deadline_ms
        next_index, next_position = self._next_index, self._next_position
        past, queue, rounds = tuple(self._past), tuple(self._queue), tuple(self.rounds)
        pending, num_pending = tuple(self._pending), self._num_pending
        current = rounds[-1] if rounds else None
        current_before = replace(current, reply=list(current.reply)) if current else None

        def take_back() -> None:
            self.table.trim(length)
            self.num_due, self.ticket, self.deadline_ms = num_due, ticket, deadline_ms
            self._next_index, self._next_position, self._next_head = next_index, next_position, None
            self._past, self._queue, self.rounds = deque(past), deque(queue), deque(rounds)
            self._pending, self._num_pending = deque(pending), num_pending
            if current_before:
                self.rounds[-1] = current_before

        return take_back

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
        elif not self.table.is_pinned_in_place(len(self.prefix) - pinned_waiting):
            problem = "pinned prefix out of place"
        elif self.table.length + waiting != len(self.prefix) + sum(kept.num_tokens for kept in self.rounds):
            problem = "rounds and slots differ in tokens"
        elif not pinned_waiting and not self.prefix.is_saved:
            problem = "pinned prefix fed, its master copy not saved"
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
        self._push_reply(current.reply[:num_fed], current)
        self.num_due = self._num_pending
        self._close(current, current.reply[num_fed:])
        return self._reply(current, truncated=False)

    def _feed_reply_token(self) -> None:
        current = self.rounds[-1]
        self._push_reply(current.reply[-1:], current)
        self.num_due = self._num_pending

    def _close(self, current: Round, unfed: Sequence[int]) -> None:
        current.is_closed = True
        self._push_reply([*unfed, *self._dialogue.round_tail], current)

    def _reply(self, current: Round, truncated: bool) -> Reply:
        token_ids = tuple(current.reply[1:])
        text = self._dialogue.text(token_ids)
        if truncated:
            text = text.rstrip("\ufffd").rstrip()  # what is left of a character that was cut
        return Reply(self.session_id, current.index, token_ids, text, truncated)

    def _head(self) -> Piece:
        """The head of the next round: made once, asked for whenever there might be room for it."""
        if self._next_head is None:
            one = self._past[0] if self._past else self._queue[0][1]
            token_ids = self._dialogue.round_head(one.start_ms, one.end_ms, len(one.frame))
            image_id = self._dialogue.image_token_id
            positions, _ = round_positions(token_ids, image_id, one.grid, self._next_position, one.kept)
            frame_start = token_ids.index(image_id)
            self._next_head = Piece(
                np.asarray(token_ids), positions, self._next_index, one.frame, frame_start
            )
        return self._next_head

    def _push_reply(self, token_ids: Sequence[int], current: Round) -> None:
        self._push_text(token_ids, current.index)
        current.num_tokens += len(token_ids)

    def _push_text(self, token_ids: Sequence[int], owner: int) -> None:
        start, self._next_position = (self._next_position, self._next_position + len(token_ids))
        positions = np.broadcast_to(np.arange(start, self._next_position), (3, len(token_ids)))
        self._push(Piece(np.asarray(token_ids, dtype=np.int64), positions, owner))

    def _push(self, piece: Piece) -> None:
        self._pending.append(piece)
        self._num_pending += len(piece)
