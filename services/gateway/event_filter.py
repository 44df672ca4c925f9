"""Which events a subscriber asked for."""

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b

from services.gateway.validation import check_id
from services.shared.errors import InvalidInput
from services.shared.topics import partition_of
from streamo.v1.event_pb2 import Event, EventFilter, EventKind
from streamo.v1.task_pb2 import Task

HASH_BYTES = 8
MAX_IDS = 1000

_OF_NO_WATCH = frozenset({EventKind.EVENT_KIND_GAP, EventKind.EVENT_KIND_SOURCE})


@dataclass(frozen=True)
class Filter:
    """Empty sets match everything. GAP and SOURCE events have no watch: only `stream_ids` holds them back."""

    stream_ids: frozenset[str] = frozenset()
    watch_ids: frozenset[str] = frozenset()
    tasks: frozenset[int] = frozenset()

    @classmethod
    def of(cls, asked: EventFilter) -> "Filter":
        """Raises InvalidInput naming the entry that is wrong."""
        for name, ids in (("stream_ids", asked.stream_ids), ("watch_ids", asked.watch_ids)):
            if len(ids) > MAX_IDS:
                raise InvalidInput(
                    f"filter.{name} has {len(ids)} entries; at most {MAX_IDS}, or none for all"
                )
            for position, given in enumerate(ids):
                check_id(f"filter.{name}[{position}]", given)
        for position, task in enumerate(asked.tasks):
            if task == Task.TASK_UNSPECIFIED or task not in Task.values():
                raise InvalidInput(
                    f"filter.tasks[{position}] is no task; give one of {', '.join(Task.keys()[1:])}"
                )
        return cls(frozenset(asked.stream_ids), frozenset(asked.watch_ids), frozenset(asked.tasks))

    @property
    def hash(self) -> bytes:
        """Equal for filters that match the same events, whatever order their entries were given in."""
        digest = blake2b(digest_size=HASH_BYTES)
        for entries in (self.stream_ids, self.watch_ids, frozenset(str(task) for task in self.tasks)):
            # Ids hold neither of the two separators.
            digest.update(",".join(sorted(entries)).encode() + b";")
        return digest.digest()

    def partitions(self, num_partitions: int) -> list[int]:
        """The partitions that can hold a matching event, ascending."""
        if not self.stream_ids:
            return list(range(num_partitions))
        return sorted({partition_of(stream_id, num_partitions) for stream_id in self.stream_ids})

    def covers(self, stream_id: str) -> bool:
        return not self.stream_ids or stream_id in self.stream_ids

    def passes(self, event: Event) -> bool:
        if not self.covers(event.stream_id):
            return False
        if event.kind in _OF_NO_WATCH:
            return True
        return (not self.watch_ids or event.watch_id in self.watch_ids) and (
            not self.tasks or event.task in self.tasks
        )

    def covered(self, stream_ids: Iterable[str]) -> list[str]:
        return [stream_id for stream_id in stream_ids if self.covers(stream_id)]
