"""Who runs in the next step. Free of torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from models.engine.piece import Piece
from models.engine.session import Session


@dataclass(frozen=True, eq=False)
class Row:
    """The tokens that one session puts into a step."""

    session: Session
    pieces: list[Piece]
    num_tokens: int
    reads_logits: bool
    """The logits after the last token are wanted."""


class Scheduler:
    """Shares `max_batch_tokens` out, oldest work first.

    Running replies take one token each, up to half the budget. New rounds follow in order of arrival; one
    that does not fit waits whole for the next step, and only the first in line is cut. Replays take what is
    left, at least a quarter while any is due, so that neither live work nor a takeover can starve the other.
    """

    def __init__(self, max_batch_tokens: int) -> None:
        self._max_batch_tokens = max_batch_tokens

    def next_rows(self, sessions: Iterable[Session]) -> list[Row]:
        """Rows of at most `max_batch_tokens` in all; none when no session has a token due."""
        due = sorted((s for s in sessions if s.num_due), key=lambda session: session.ticket)
        replays = [s for s in due if s.is_replaying]
        replying = [s for s in due if s.is_replying]
        extends = [s for s in due if not s.is_replaying and not s.is_replying]

        left = self._max_batch_tokens
        rows = [_row(session, 1) for session in replying[: left // 2]]
        left -= len(rows)
        reserved = min(self._max_batch_tokens // 4, sum(session.num_due for session in replays))
        for row in self._extend_rows(extends, left - reserved):
            rows.append(row)
            left -= row.num_tokens
        for session in replays:
            if left:
                rows.append(_row(session, min(session.num_due, left)))
                left -= rows[-1].num_tokens
        return rows

    def _extend_rows(self, extends: Iterable[Session], left: int) -> Iterator[Row]:
        for place, session in enumerate(extends):
            if session.num_due > left and place:
                return
            yield _row(session, min(session.num_due, left))
            left -= session.num_due


def _row(session: Session, num_tokens: int) -> Row:
    reads_logits = num_tokens == session.num_due and session.awaits_logits
    return Row(session, session.take(num_tokens), num_tokens, reads_logits)
