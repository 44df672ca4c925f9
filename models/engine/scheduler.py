"""Who runs in the next step. Free of torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from models.engine.fair_share import FairShare, stream_key
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
    """Shares `max_batch_tokens` out between three kinds of work, and each kind's part between the streams.

    Running replies take one token each, up to half of the budget. New rounds follow; one that does not fit waits
    whole for the next step, and only the first in line is cut. Replays take what is left, in chunks, one session
    after the other; while any is due they have at least a quarter, so that neither live work nor a takeover can
    starve the other. Within each kind FairShare says who goes first: the earliest deadline, of the streams that
    are not too far ahead of their equal share.

    Knows no clock; the same sessions in the same states get the same rows.
    """

    def __init__(self, max_batch_tokens: int) -> None:
        self._max_batch_tokens = max_batch_tokens
        self._replies, self._rounds, self._replays = FairShare(), FairShare(), FairShare()

    def next_rows(self, sessions: Iterable[Session]) -> list[Row]:
        """Rows of at most `max_batch_tokens` in all; none when no session has a token due.

        `sessions` are all that are open. Asked again before `commit`, it gives the same rows.
        """
        sessions = list(sessions)
        streams = {stream_key(session) for session in sessions}
        due = [session for session in sessions if session.num_due]
        replays = [session for session in due if session.is_replaying]
        replying = [session for session in due if session.is_replying]
        rounds = [session for session in due if not session.is_replaying and not session.is_replying]

        left = self._max_batch_tokens
        given = self._replies.deal(replying, left // 2, streams)
        left -= sum(num_tokens for _, num_tokens in given)
        reserved = min(self._max_batch_tokens // 4, sum(session.num_due for session in replays))
        given += self._rounds.deal(rounds, left - reserved, streams)
        left = self._max_batch_tokens - sum(num_tokens for _, num_tokens in given)
        given += self._replays.deal(replays, left, streams, cuts=True)
        return [_row(session, num_tokens) for session, num_tokens in given]

    def commit(self) -> None:
        """The last rows were fed: their streams are charged for them."""
        for share in (self._replies, self._rounds, self._replays):
            share.commit()


def _row(session: Session, num_tokens: int) -> Row:
    reads_logits = num_tokens == session.num_due and session.awaits_logits
    return Row(session, session.take(num_tokens), num_tokens, reads_logits)
