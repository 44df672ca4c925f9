"""What the engine refuses, and what it finds broken. A malformed argument is a plain ValueError."""

from __future__ import annotations


class SessionExists(ValueError):
    """A session of this id is open already."""


class UnknownSession(ValueError):
    """No session of this id is open."""


class EngineFull(RuntimeError):
    """The session cannot be admitted now: closing others, or a larger budget, makes room."""


class QueueFull(RuntimeError):
    """The session's queue holds all the rounds it may; step, then append again."""


class BadLogits(RuntimeError):
    """The model gave logits that are not numbers for these sessions. The step was undone; close them and go
    on. Its text is for a log: it names the sessions of others, too; `detail` names none.
    """

    detail = "logits are not finite; a frame or the weights are bad"

    def __init__(self, session_ids: tuple[str, ...]) -> None:
        super().__init__(f"{self.detail}: sessions {', '.join(session_ids)}")
        self.session_ids = session_ids


class IntegrityError(RuntimeError):
    """The engine's books do not agree with one another: a defect of the engine."""
