"""Replies by script: the whole forward is run, and what it says is then replaced.

So that a share of all rounds responds with a text of a given length, token by token, whatever the weights say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.engine.engine import Engine
from models.engine.model_runner import Choice, ModelRunner
from models.engine.scheduler import Row
from models.engine.session import Session
from models.vlm.state import State


@dataclass(frozen=True)
class Script:
    """Which rounds respond, by a number of their stream and their index, and with how many tokens."""

    response_share: float = 0.12
    reply_tokens: int = 20
    seed: int = 0

    def responds(self, stream: int, round_index: int) -> bool:
        draw = np.random.default_rng((self.seed, stream, round_index)).random()
        return bool(draw < self.response_share)


class ScriptedRunner:
    """Stands in front of an engine's model runner. Session ids are the numbers of their streams."""

    def __init__(self, runner: ModelRunner, script: Script, end_token_id: int, word_id: int) -> None:
        self._runner = runner
        self._script = script
        self._end_token_id = end_token_id
        self._word_id = word_id

    @classmethod
    def direct(cls, engine: Engine, script: Script) -> None:
        """From now on the engine's sessions say what the script says."""
        dialogue = engine._model.dialogue
        word_id = dialogue.reply(State.RESPONSE, "car")[1]
        engine._runner = cls(engine._runner, script, dialogue.end_token_id, word_id)  # type: ignore[assignment]

    def run(self, rows: Sequence[Row]) -> list[Choice]:
        choices = self._runner.run(rows)
        reading = [row.session for row in rows if row.reads_logits]
        return [self._choice(session, choice) for session, choice in zip(reading, choices, strict=True)]

    def _choice(self, session: Session, choice: Choice) -> Choice:
        current = session.rounds[-1]
        if session.is_replying:
            is_over = len(current.reply) - 1 >= self._script.reply_tokens
            token_id = self._end_token_id if is_over else self._word_id
            return Choice(choice.state_logits, token_id, token_id)
        responds = self._script.responds(int(session.session_id), current.index)
        logits = (0.0, 0.0, 1.0) if responds else (1.0, 0.0, 0.0)
        return Choice(logits, choice.best_token, choice.best_text_token)
