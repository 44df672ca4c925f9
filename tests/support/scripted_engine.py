"""An engine whose decisions are written in the pictures, so that a test knows what must be told.

The first pixel of a frame says (state, steps until the reply is whole, number in the reply). It keeps the contract of
models.engine.Engine, and checks what it is given: a forced reply must be the one that the picture asks for. A number
of BAD makes logits that are no numbers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from opentelemetry.context import Context

from models.engine.engine_stats import EngineStats
from models.engine.errors import BadLogits, EngineFull
from models.engine.round import Decision, Reply, RoundInput
from models.vlm.state import State
from services.llm.session import DialoguePort

STATE_TOKEN_IDS = (10, 11, 12)
WINDOW_ROUNDS = 8
MAX_PENDING = 4
SIZE = 28
VOCAB_SIZE = 1000
BAD = 255


def picture(state: State, steps: int = 0, number: int = 0) -> np.ndarray:
    pixels = np.zeros((SIZE, SIZE, 3), dtype=np.uint8)
    pixels[0, 0] = (state, steps, number)
    return pixels


class ScriptedDialogue:
    """Texts are "number N". `first_id`: of the numbers; another one makes another vocabulary."""

    state_token_ids = STATE_TOKEN_IDS

    def __init__(self, first_id: int = 100) -> None:
        self._first_id = first_id

    @property
    def vocabulary(self) -> str:
        return f"numbers from {self._first_id}"

    def reply(self, state: State, text: str = "") -> list[int]:
        state_id = STATE_TOKEN_IDS[state]
        return [state_id, self._first_id + int(text.removeprefix("number ")), 400] if text else [state_id]


class ScriptedEncoder:
    """In the process; the tokens are the first pixel. Pictures in `refused` raise ValueError."""

    def __init__(self) -> None:
        self.refused: set[int] = set()
        self.num_encoded = 0

    def submit(self, pixels: np.ndarray, context: Context) -> Future[np.ndarray]:
        future: Future[np.ndarray] = Future()
        self.num_encoded += 1
        if int(pixels[0, 0, 2]) in self.refused:
            future.set_exception(ValueError("refused"))
        else:
            future.set_result(pixels[0, 0].astype(np.float32)[None])
        return future


@dataclass
class _Session:
    instruction: str
    stream_id: str
    sensitivity: float
    queue: deque[tuple[int, RoundInput]] = field(default_factory=deque)
    next_index: int = 0
    steps_left: int | None = None
    past: list[RoundInput] = field(default_factory=list)
    seen: list[RoundInput] = field(default_factory=list)


class ScriptedEngine:
    def __init__(
        self,
        max_sessions: int = 1000,
        vocab_size: int = VOCAB_SIZE,
        dialogue: DialoguePort | None = None,
    ) -> None:
        self._dialogue = dialogue or ScriptedDialogue()
        self.sessions: dict[str, _Session] = {}
        self.max_sessions = max_sessions
        self.vocab_size = vocab_size
        self.num_refused = 0
        self.held: set[str] = set()  # sessions that get no turn

    def open(
        self,
        session_id: str,
        instruction: str,
        past_rounds: Sequence[RoundInput] = (),
        *,
        stream_id: str = "",
        sensitivity: float = 0.0,
    ) -> None:
        assert session_id not in self.sessions, f"{session_id} is open already"
        if not instruction.strip():
            raise ValueError("instruction is empty")
        if len(self.sessions) >= self.max_sessions:
            self.num_refused += 1
            raise EngineFull("no room")
        for past in past_rounds:
            if max(past.forced_reply or ()) >= self.vocab_size:
                raise ValueError("forced_reply has an unknown token id")
            state, _, number = _script(past)
            expected = tuple(self._dialogue.reply(state, _text(state, number)))
            assert past.forced_reply == expected, (session_id, past.forced_reply, expected)
        assert [p.end_ms for p in past_rounds] == sorted(p.end_ms for p in past_rounds)
        session = _Session(
            instruction, stream_id, sensitivity, next_index=len(past_rounds), past=list(past_rounds)
        )
        self.sessions[session_id] = session

    def close(self, session_id: str) -> None:
        del self.sessions[session_id]

    def can_append(self, session_id: str) -> bool:
        return len(self.sessions[session_id].queue) < MAX_PENDING

    def append(self, session_id: str, round_input: RoundInput) -> int:
        session = self.sessions[session_id]
        assert len(session.queue) < MAX_PENDING
        assert 0 <= round_input.start_ms <= round_input.end_ms
        index, session.next_index = session.next_index, session.next_index + 1
        session.queue.append((index, round_input))
        session.seen.append(round_input)
        return index

    @property
    def stats(self) -> EngineStats:
        return EngineStats()

    @property
    def has_work(self) -> bool:
        return any(session.queue for session in self.sessions.values())

    def step(self) -> list[Decision | Reply]:
        bad = [
            name for name, one in self.sessions.items() if one.queue and _script(one.queue[0][1])[2] == BAD
        ]
        if bad:
            raise BadLogits(tuple(bad))
        outputs: list[Decision | Reply] = []
        for session_id, session in self.sessions.items():
            if not session.queue or session_id in self.held:
                continue
            index, round_input = session.queue[0]
            state, steps, number = _script(round_input)
            if session.steps_left is None:
                outputs.append(Decision(session_id, index, state, (0.0, 0.0, 0.0), True))
                if state is not State.RESPONSE:
                    session.queue.popleft()
                    continue
                session.steps_left = steps
            if session.steps_left > 0:
                session.steps_left -= 1
                continue
            session.steps_left = None
            session.queue.popleft()
            text = _text(state, number)
            token_ids = tuple(self._dialogue.reply(state, text)[1:])
            outputs.append(Reply(session_id, index, token_ids, text, False))
        return outputs


def _text(state: State, number: int) -> str:
    return f"number {number}" if state is State.RESPONSE else ""


def _script(round_input: RoundInput) -> tuple[State, int, int]:
    state, steps, number = (int(value) for value in round_input.frame[0, :3])
    return State(state), steps, number
