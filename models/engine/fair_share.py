"""Whose turn it is: every stream has an equal share, and the most urgent goes first. Free of torch."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush

from models.engine.session import Session

StreamKey = tuple[str, str]


def stream_key(session: Session) -> StreamKey:
    """Whose share a session uses: its stream's, or one of its own."""
    return (session.stream_id, "") if session.stream_id else ("", session.session_id)


@dataclass(frozen=True)
class _Standing:
    """What counts from one step to the next."""

    floor: int = 0
    tags: Mapping[StreamKey, int] = field(default_factory=dict)  # of the streams above the floor
    cut: str | None = None  # the session that got a part of its tokens


class FairShare:
    """Deals tokens out by start-time fair queueing; among streams that are about level, by deadline.

    Every stream has a tag, which rises by the tokens it is given. The floor is the lowest tag of the streams that
    wait; one that comes back to wait starts no lower, so that a share left unused is not saved up. Streams at most
    a lead above the floor, half of what there is to deal, are served in order of deadline, then of ticket. The
    others follow as the floor rises to them: nothing is left over while anybody waits. When nobody is left
    waiting, all are level again. So

    - while no stream is more than the lead above the floor, the order is earliest deadline first;
    - over any run of steps that each leave something of a stream waiting, no stream that keeps a session open is
      given more than 2 * (lead + L) tokens more than that one, where L is the longest turn of a session;
    - a session that got a part of its tokens goes on first.

    Goyal, Vin, Cheng: Start-time Fair Queueing (SIGCOMM 1996), section 2. Deadlines within what is eligible are as
    in Stoica, Abdel-Wahab: Earliest Eligible Virtual Deadline First (1995), but the caller's own.
    """

    def __init__(self) -> None:
        self._standing = self._dealt = _Standing()

    def deal(
        self, waiting: Iterable[Session], room: int, streams: Collection[StreamKey], *, cuts: bool = False
    ) -> list[tuple[Session, int]]:
        """Sessions in their turn and the tokens each is given, `room` at most in all. The same until `commit`.

        One whose due tokens do not fit ends the dealing; if it is the first, or if `cuts`, it is given what fits.
        `streams` have sessions open; what is known of any other is forgotten.
        """
        before = self._standing

        def urgency(session: Session) -> tuple[bool, float, int]:
            return session.session_id != before.cut, session.deadline_ms, session.ticket

        lines: dict[StreamKey, list[Session]] = {}  # the most urgent last
        for session in sorted(waiting, key=urgency, reverse=True):
            lines.setdefault(stream_key(session), []).append(session)
        tags = {stream: tag for stream, tag in before.tags.items() if stream in streams}
        tags |= {stream: max(tags.get(stream, 0), before.floor) for stream in lines}
        floor = min((tags[stream] for stream in lines), default=before.floor)

        ready = [(urgency(line[-1]), stream) for stream, line in lines.items() if not urgency(line[-1])[0]]
        held = [(tags[stream], stream) for stream, line in lines.items() if urgency(line[-1])[0]]
        heapify(held)
        given: list[tuple[Session, int]] = []
        cut, lead = before.cut, room // 2
        while room and (ready or held):
            if not ready:
                floor = max(floor, held[0][0])
            while held and held[0][0] <= floor + lead:
                stream = heappop(held)[1]
                heappush(ready, (urgency(lines[stream][-1]), stream))
            stream = ready[0][1]
            session = lines[stream][-1]
            num_tokens = min(session.num_due, room)
            is_cut = num_tokens < session.num_due
            if is_cut and given and not cuts:
                break
            heappop(ready)
            given.append((session, num_tokens))
            room -= num_tokens
            tags[stream] += num_tokens
            cut = session.session_id if is_cut else None
            if not is_cut:
                lines[stream].pop()
            if lines[stream]:
                heappush(held, (tags[stream], stream))
        if any(lines.values()):
            above = {stream: tag for stream, tag in tags.items() if tag > floor}
            self._dealt = _Standing(floor, above, cut)
        else:
            self._dealt = _Standing()
        return given

    def commit(self) -> None:
        """What was dealt last has been fed."""
        self._standing = self._dealt
