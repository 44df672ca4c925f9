"""What a partition has to say and has not yet committed."""

from __future__ import annotations

from dataclasses import dataclass, field

from opentelemetry.context import Context

from services.llm.frame import Unreadable
from streamo.v1.event_pb2 import Event


@dataclass(frozen=True)
class OutgoingEvent:
    event: Event
    context: Context | None  # of the span that made it
    made_at_us: int


@dataclass
class Outbox:
    """Filled by the partition's streams, in the order in which subscribers will see it; emptied by each commit."""

    events: list[OutgoingEvent] = field(default_factory=list)
    # Keys of `control` whose values are taken away: questions that ended.
    tombstones: list[bytes] = field(default_factory=list)
    quarantined: list[Unreadable] = field(default_factory=list)
