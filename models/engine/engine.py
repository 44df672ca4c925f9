"""The streaming engine: many sessions, each extended by one round at a time, in one forward per step.

Knows embeddings, token ids and positions; knows nothing of streams, clocks, threads or files. A quiet round
costs a session one share of one forward: its state token and the opening of the next turn ride with the next
round. What it costs does not grow with the age of the stream, since a session keeps a window of whole rounds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from models.engine.attention import AttentionBackend, attention_backend
from models.engine.config import MAX_POSITION, EngineConfig, SessionLimits
from models.engine.engine_stats import EngineStats
from models.engine.errors import BadLogits, EngineFull, IntegrityError, SessionExists, UnknownSession
from models.engine.memory import Memory
from models.engine.model_runner import Choice, ModelRunner
from models.engine.round import Decision, Reply, RoundInput, WindowView
from models.engine.round_check import RoundCheck
from models.engine.scheduler import Row, Scheduler
from models.engine.session import Session
from models.vlm.model import LanguageModel
from models.vlm.state import State


class Engine:
    """Sessions over one language model. Synchronous and deterministic; one thread may use it, and others read `stats`.

    A session's pinned prefix stays for good. Of its rounds the last `window_rounds` are kept, as many of them
    as `max_window_tokens` has room for: before one begins that might not fit, the oldest are dropped, whole,
    and the pinned keys are turned to stand right before the oldest round that is left. Ids and positions of
    what is kept are then those of a fresh chat over those rounds, up to one shift of all positions; what the
    kept rounds had seen of dropped ones stays in their keys and values.
    """

    def __init__(
        self, model: LanguageModel, config: EngineConfig, attention: AttentionBackend | None = None
    ) -> None:
        """ValueError where not even one session could ever be opened."""
        self.config = config
        self._model = model
        self._limits = SessionLimits.of(config, model.config, model.dialogue)
        self._round_check = RoundCheck(self._limits, model.dialogue, model.visual_size, model.vocab_size)
        self._memory = Memory(model, config, self._limits)
        self._memory.check_fits(model.dialogue.pinned_prefix("."))  # no session has a shorter one
        self._scheduler = Scheduler(config.max_batch_tokens)
        self._runner = ModelRunner(
            model,
            self._memory.cache,
            attention or attention_backend("auto", model.device, model),
            config.max_batch_tokens,
            config.max_sessions,
        )
        self._sessions: dict[str, Session] = {}
        self._next_ticket = 0
        self._stats = EngineStats()

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
        those of the others; ValueError for a malformed instruction, sensitivity, position or round, if not even one
        round is sure to fit into `max_window_tokens` beside the instruction, and if the window could not fit alone.
        """
        if type(first_position) is not int or not 0 <= first_position <= MAX_POSITION:
            raise ValueError(
                f"first_position must be a whole number from 0 to {MAX_POSITION}, got {first_position!r}"
            )
        if not math.isfinite(sensitivity):
            raise ValueError(f"sensitivity must be finite, got {sensitivity}")
        if session_id in self._sessions:
            raise SessionExists(f"session {session_id} is open already")
        if len(self._sessions) >= self.config.max_sessions:
            raise EngineFull(
                f"session {session_id} refused: {len(self._sessions)} sessions are open, max_sessions is "
                f"{self.config.max_sessions}"
            )
        pinned_ids = self._model.dialogue.pinned_prefix(instruction)
        self._round_check.check_past(past_rounds)
        prefix, table = self._memory.reserve(session_id, pinned_ids, first_position)
        self._sessions[session_id] = Session(
            session_id,
            self._model.dialogue,
            self._limits,
            prefix,
            past_rounds,
            table,
            self._take_ticket(),
            stream_id=stream_id,
            sensitivity=sensitivity,
        )

    def close(self, session_id: str) -> None:
        """Forget a session and free what it held."""
        session = self._session(session_id)
        del self._sessions[session_id]
        self._memory.release(session.prefix, session.table)

    def can_append(self, session_id: str) -> bool:
        return self._session(session_id).can_append

    def append(self, session_id: str, round_input: RoundInput) -> int:
        """Queue the session's next round and return its index, counted from 0 at open, past rounds included.

        Raises QueueFull if `max_pending_rounds` wait already; ValueError for a malformed round.
        """
        session = self._session(session_id)
        self._round_check.check(round_input)
        return session.append(round_input, self._take_ticket())

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return any(session.has_work for session in self._sessions.values())

    def step(self) -> list[Decision | Reply]:
        """Run one forward over whoever has work, and tell what was decided; empty if nobody has.

        If it raises, whatever it was (an interrupt too), every session is as it was, save that rounds may have
        left to make room for one that waits. The step can be repeated, and then gives what it would have given;
        BadLogits names the sessions to close first.
        """
        working = [session for session in self._sessions.values() if session.has_work]
        self._make_room(working)
        marks = [session.mark() for session in working]
        try:
            for session in working:
                while session.can_begin_round:
                    session.begin_round()
            self._memory.copy_prefixes(working)
            rows = self._scheduler.next_rows(self._sessions.values())
            if not rows:
                return []
            choices = self._runner.run(rows)
            _check_finite(rows, choices)
            self._memory.save_prefixes([row.session for row in rows])
            return self._commit(rows, choices)
        except BaseException:
            for take_back in marks:
                take_back()
            raise

    def window(self, session_id: str) -> WindowView:
        """What the session keeps now."""
        return self._session(session_id).view()

    @property
    def stats(self) -> EngineStats:
        """What the engine has done since it was made, and what it holds now."""
        pool = self._memory.pool
        return replace(
            self._stats,
            sessions=len(self._sessions),
            pinned_prefixes=len(self._memory.prefixes),
            free_blocks=pool.num_free,
            held_blocks=pool.num_blocks - pool.num_free,
        )

    def check_integrity(self) -> None:
        """Raise IntegrityError if the engine's books do not agree. Cheap enough for whenever it is idle."""
        self._memory.check_integrity(self._sessions.values())
        for session in self._sessions.values():
            session.check_integrity()
        if len(self._sessions) > self.config.max_sessions:
            raise IntegrityError(
                f"{len(self._sessions)} sessions, max_sessions is {self.config.max_sessions}"
            )

    def _make_room(self, working: Sequence[Session]) -> None:
        num_evicted = self._memory.make_room([session for session in working if session.can_begin_round])
        if num_evicted:
            self._stats = self._stats.plus(evicted_rounds=num_evicted)

    def _commit(self, rows: Sequence[Row], choices: Sequence[Choice]) -> list[Decision | Reply]:
        outputs: list[Decision | Reply] = []
        tokens = dict.fromkeys(("extend_tokens", "decode_tokens", "replay_tokens"), 0)
        remaining = iter(choices)
        for row in rows:
            session = row.session
            tokens[_kind_of_tokens(session)] += row.num_tokens
            session.commit(row.num_tokens)
            if not row.reads_logits:
                continue
            choice = next(remaining)
            reply: Reply | None
            if session.is_replying:
                reply = session.accept(choice.best_text_token)
            else:
                decision, reply = self._decide(session, choice)
                outputs.append(decision)
            if reply is not None:
                outputs.append(reply)
        decisions = [output for output in outputs if isinstance(output, Decision)]
        stats = self._stats.plus(
            steps=1,
            rounds=len(decisions),
            disagreements=sum(not decision.full_softmax_agrees for decision in decisions),
            **tokens,
        )
        self._scheduler.commit()
        self._stats = stats
        return outputs

    def _decide(self, session: Session, choice: Choice) -> tuple[Decision, Reply | None]:
        silence, standby, response = choice.state_logits
        of_standby, of_response = (session.sensitivity + bias for bias in self._model.config.state_bias)
        biased = (silence, standby + of_standby, response + of_response)
        state, reply = session.decide(State(int(np.argmax(biased))))
        best_state_id = self._model.dialogue.state_token_ids[int(np.argmax(choice.state_logits))]
        decision = Decision(
            session.session_id,
            session.rounds[-1].index,
            state,
            choice.state_logits,
            choice.best_token == best_state_id,
        )
        return decision, reply

    def _session(self, session_id: str) -> Session:
        try:
            return self._sessions[session_id]
        except KeyError:
            raise UnknownSession(f"no session {session_id} is open") from None

    def _take_ticket(self) -> int:
        self._next_ticket += 1
        return self._next_ticket


def _kind_of_tokens(session: Session) -> str:
    if session.is_replaying:
        return "replay_tokens"
    return "decode_tokens" if session.is_replying else "extend_tokens"


def _check_finite(rows: Sequence[Row], choices: Sequence[Choice]) -> None:
    reading = [row for row in rows if row.reads_logits]
    bad = [
        row.session.session_id
        for row, choice in zip(reading, choices, strict=True)
        if not all(math.isfinite(logit) for logit in choice.state_logits)
    ]
    if bad:
        raise BadLogits(tuple(bad))
