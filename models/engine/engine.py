"""The streaming engine: many sessions, each extended by one round at a time, in one forward per step.

Knows embeddings, token ids and positions; knows nothing of streams, clocks, threads or files. A quiet round
costs a session one share of one forward: its state token and the opening of the next turn ride with the next
round. What it costs does not grow with the age of the stream, since a session keeps a window of whole rounds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from models.engine.attention import AttentionBackend, SdpaAttention
from models.engine.block_pool import BlockPool
from models.engine.config import EngineConfig, SessionLimits
from models.engine.errors import BadLogits, EngineFull, IntegrityError, SessionExists, UnknownSession
from models.engine.kv_cache import KVCache
from models.engine.model_runner import Choice, ModelRunner
from models.engine.round import Decision, Reply, RoundInput, WindowView
from models.engine.scheduler import Row, Scheduler
from models.engine.session import Session
from models.engine.slot_table import SlotTable
from models.vlm.model import LanguageModel
from models.vlm.state import State


class Engine:
    """Sessions over one language model. Synchronous and deterministic; one thread may use it.

    A session's pinned prefix stays for good. Of its rounds the last `window_rounds` are kept, whole: before
    one too many begins, the oldest is dropped, and the pinned keys are turned to stand right before the
    oldest round that is left. Ids and positions of what is kept are then those of a fresh chat over those
    rounds, up to one shift of all positions; what the kept rounds had seen of dropped ones stays in their
    keys and values.
    """

    def __init__(
        self, model: LanguageModel, config: EngineConfig, attention: AttentionBackend | None = None
    ) -> None:
        self.config = config
        self._model = model
        self._limits = SessionLimits.of(config, model.config, model.dialogue)
        num_blocks = config.max_kv_tokens // config.block_tokens
        self._block_pool = BlockPool(num_blocks)
        self._kv_cache = KVCache(
            model.num_layers,
            num_blocks * config.block_tokens,
            model.num_kv_heads,
            model.head_dim,
            model.rotary.inv_freq,
            model.dtype,
            model.device,
            config.block_tokens,
        )
        self._scheduler = Scheduler(config.max_batch_tokens)
        self._runner = ModelRunner(model, self._kv_cache, attention or SdpaAttention())
        self._sessions: dict[str, Session] = {}
        self._next_ticket = 0

    def open(
        self,
        session_id: str,
        instruction: str,
        past_rounds: Sequence[RoundInput] = (),
        *,
        stream_id: str = "",
        sensitivity: float = 0.0,
        first_position: int = 0,
    ) -> None:
        """Admit a session, or refuse it and change nothing.

        `past_rounds` were decided before: each has its forced reply. They are fed by the steps that follow,
        without Decisions, before any appended round; the ones beyond the window leave it again, as they did
        when live. Sessions of one `stream_id` share that stream's fair share of the steps; without one a
        session counts as a stream of its own. `sensitivity` is added to the logits of Standby and Response
        before the state is chosen: a positive one speaks sooner. `first_position` is where the positions of the
        session begin.

        Raises SessionExists; EngineFull if the largest window this session may come to does not fit beside
        those of the others; ValueError for a malformed instruction, sensitivity or round.
        """
        if not math.isfinite(sensitivity):
            raise ValueError(f"sensitivity must be finite, got {sensitivity}")
        if session_id in self._sessions:
            raise SessionExists(f"session {session_id} is open already")
        pinned_prefix = self._model.dialogue.pinned_prefix(instruction)
        table = self._reserve(session_id, len(pinned_prefix))
        session = Session(
            session_id,
            self._model.dialogue,
            self._limits,
            pinned_prefix,
            past_rounds,
            table,
            self._take_ticket(),
            first_position,
            stream_id=stream_id,
            sensitivity=sensitivity,
        )
        try:
            for index, past_round in enumerate(past_rounds):
                if past_round.forced_reply is None:
                    raise ValueError(
                        f"past_rounds[{index}] has no forced_reply; append it if it is to be decided"
                    )
                self._check_round(session, past_round)
        except ValueError:
            self._block_pool.release(table.blocks)
            raise
        self._sessions[session_id] = session

    def close(self, session_id: str) -> None:
        """Forget a session and free what it held."""
        session = self._session(session_id)
        del self._sessions[session_id]
        self._block_pool.release(session.table.blocks)

    def can_append(self, session_id: str) -> bool:
        return self._session(session_id).can_append

    def append(self, session_id: str, round_input: RoundInput) -> int:
        """Queue the session's next round and return its index, counted from 0 at open, past rounds included.

        Raises QueueFull if `max_pending_rounds` wait already; ValueError for a malformed round.
        """
        session = self._session(session_id)
        self._check_round(session, round_input)
        return session.append(round_input, self._take_ticket())

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return any(session.has_work for session in self._sessions.values())

    def step(self) -> list[Decision | Reply]:
        """Run one forward over whoever has work, and tell what was decided; empty if nobody has.

        If it raises, no session has moved: the step can be repeated, and then gives what it would have given.
        BadLogits names the sessions to close first.
        """
        self._begin_rounds()
        rows = self._scheduler.next_rows(self._sessions.values())
        if not rows:
            return []
        choices = self._run(rows)
        return self._commit(rows, choices)

    def window(self, session_id: str) -> WindowView:
        """What the session keeps now."""
        return self._session(session_id).view()

    @property
    def num_free_kv_tokens(self) -> int:
        """Token slots that no session has reserved."""
        return self._block_pool.num_free * self.config.block_tokens

    def check_integrity(self) -> None:
        """Raise IntegrityError if the engine's books do not agree. Cheap enough for whenever it is idle."""
        self._block_pool.check_integrity(session.table.blocks for session in self._sessions.values())
        for session in self._sessions.values():
            session.check_integrity()
        if len(self._sessions) > self.config.max_sessions:
            raise IntegrityError(
                f"{len(self._sessions)} sessions, max_sessions is {self.config.max_sessions}"
            )

    def _begin_rounds(self) -> None:
        for session in self._sessions.values():
            while session.can_begin_round:
                if session.is_window_full:
                    self._drop_first_round(session)
                session.begin_round()

    def _drop_first_round(self, session: Session) -> None:
        # The books follow the keys: should the copying fail, it can be done again from the same tokens.
        table = session.table
        eviction = table.plan_eviction(session.rounds[0].index)
        self._kv_cache.move(eviction)
        if not session.is_pinned_saved:
            self._kv_cache.save_pinned(table)
            session.is_pinned_saved = True
        self._kv_cache.place_pinned(table, session.pinned_shift_after_drop)
        table.evict(eviction)
        session.drop_first_round()

    def _run(self, rows: Sequence[Row]) -> list[Choice]:
        try:
            choices = self._runner.run(rows)
            _check_finite(rows, choices)
        except BaseException:
            for row in rows:
                row.session.table.trim()
            raise
        return choices

    def _commit(self, rows: Sequence[Row], choices: Sequence[Choice]) -> list[Decision | Reply]:
        outputs: list[Decision | Reply] = []
        remaining = iter(choices)
        for row in rows:
            session = row.session
            session.commit(row.num_tokens)
            if not row.reads_logits:
                continue
            choice = next(remaining)
            reply: Reply | None
            if session.is_replying:
                reply = session.accept(choice.best_text_token)
            else:
                silence, standby, response = choice.state_logits
                bias = session.sensitivity
                best_state = State(int(np.argmax(choice.state_logits)))
                state, reply = session.decide(
                    State(int(np.argmax((silence, standby + bias, response + bias))))
                )
                outputs.append(
                    Decision(
                        session.session_id,
                        session.rounds[-1].index,
                        state,
                        choice.state_logits,
                        choice.best_token == self._model.dialogue.state_token_ids[best_state],
                    )
                )
            if reply is not None:
                outputs.append(reply)
        return outputs

    def _reserve(self, session_id: str, num_pinned: int) -> SlotTable:
        if len(self._sessions) >= self.config.max_sessions:
            raise EngineFull(
                f"session {session_id} refused: {len(self._sessions)} sessions are open, max_sessions is "
                f"{self.config.max_sessions}"
            )
        max_window_tokens = self._limits.max_window_tokens(num_pinned)
        # The copy of the pinned keys lies behind the window.
        needed_blocks = -(-(max_window_tokens + num_pinned) // self.config.block_tokens)
        if needed_blocks > self._block_pool.num_free:
            budget = self._block_pool.num_blocks * self.config.block_tokens
            raise EngineFull(
                f"session {session_id} refused: budget {budget} KV tokens (max_kv_tokens), "
                f"used {budget - self.num_free_kv_tokens}, needed {needed_blocks * self.config.block_tokens}"
            )
        blocks = self._block_pool.allocate(needed_blocks)
        return SlotTable(blocks, self.config.block_tokens, max_window_tokens, num_pinned)

    def _check_round(self, session: Session, round_input: RoundInput) -> None:
        session.check_round(round_input)
        if round_input.frame.shape[1] != self._model.visual_size:
            raise ValueError(
                f"frame has tokens of {round_input.frame.shape[1]} values, "
                f"the model's have {self._model.visual_size}"
            )

    def _session(self, session_id: str) -> Session:
        try:
            return self._sessions[session_id]
        except KeyError:
            raise UnknownSession(f"no session {session_id} is open") from None

    def _take_ticket(self) -> int:
        self._next_ticket += 1
        return self._next_ticket


def _check_finite(rows: Sequence[Row], choices: Sequence[Choice]) -> None:
    reading = [row for row in rows if row.reads_logits]
    bad = [
        row.session.session_id
        for row, choice in zip(reading, choices, strict=True)
        if not all(math.isfinite(logit) for logit in choice.state_logits)
    ]
    if bad:
        raise BadLogits(tuple(bad))
