"""The Kafka topics: their names, partitions and how they are kept.

`python -m services.shared.topics` makes those that are missing: the first job of an installation.
"""

import logging
import sys
from dataclasses import dataclass

from kafka.admin import NewTopic
from kafka.errors import KafkaError, TopicAlreadyExistsError
from kafka.partitioner.default import murmur2

from services.shared.errors import InvalidInput
from services.shared.kafka_connection import admin
from services.shared.settings import KafkaSettings, Settings

MAX_RECORD_BYTES = 16 * 1024 * 1024
_ADMIN_TIMEOUT_MS = 20_000
# Segments this short keep the tail that a takeover or a starting service has to read short.
_COMPACTED = {
    "cleanup.policy": "compact",
    "segment.ms": "300000",
    "min.cleanable.dirty.ratio": "0.1",
    "max.compaction.lag.ms": "600000",
    "delete.retention.ms": "86400000",
}


@dataclass(frozen=True)
class Topics:
    """Full topic names. `frames`, `events` and `state` share one partition count; `control` has one partition."""

    frames: str
    events: str
    state: str
    control: str
    quarantine: str

    @classmethod
    def of(cls, settings: KafkaSettings) -> "Topics":
        return cls(
            *(settings.prefix + name for name in ("frames", "events", "state", "control", "quarantine"))
        )

    def create(self, settings: KafkaSettings) -> None:
        """Makes the topics that are missing. Raises InvalidInput where an existing one has another partition count."""
        making = admin(settings, _ADMIN_TIMEOUT_MS)
        try:
            existing = set(making.list_topics())
            for topic in self._specifications(settings):
                if topic.name not in existing:
                    try:
                        making.create_topics([topic], timeout_ms=_ADMIN_TIMEOUT_MS)
                    except TopicAlreadyExistsError:
                        pass  # another service was faster
            making.wait_for_topics(
                [self.frames, self.events, self.state, self.control, self.quarantine],
                timeout_ms=_ADMIN_TIMEOUT_MS,
            )
            described = making.describe_topics([self.frames, self.events, self.state, self.control])
        finally:
            making.close()
        for topic in described:
            expected = 1 if topic["name"] == self.control else settings.partitions
            found = len(topic["partitions"])
            if found != expected:
                raise InvalidInput(
                    f"topic {topic['name']} has {found} partitions, kafka.partitions asks for {expected}: "
                    "the count is fixed once topics exist; set kafka.partitions back, or use another kafka.prefix"
                )

    def _specifications(self, settings: KafkaSettings) -> list[NewTopic]:
        def topic(name: str, partitions: int, **configs: str) -> NewTopic:
            return NewTopic(
                name=name,
                num_partitions=partitions,
                replication_factor=settings.replication_factor,
                topic_configs={"max.message.bytes": str(MAX_RECORD_BYTES), **configs},
            )

        frames_retention_ms = str(settings.frames_retention_s * 1000)
        events_retention_ms = str(settings.events_retention_s * 1000)
        return [
            topic(
                self.frames,
                settings.partitions,
                **{"retention.ms": frames_retention_ms, "segment.bytes": str(256 * 1024 * 1024)},
            ),
            topic(self.events, settings.partitions, **{"retention.ms": events_retention_ms}),
            topic(self.state, settings.partitions, **_COMPACTED),
            topic(self.control, 1, **_COMPACTED),
            topic(self.quarantine, 1, **{"retention.ms": events_retention_ms}),
        ]


def partition_of(stream_id: str, num_partitions: int) -> int:
    """The partition of a stream in `frames`, `events` and `state`: Kafka's own murmur2 rule for its key."""
    return int(murmur2(stream_id.encode()) & 0x7FFFFFFF) % num_partitions


def main() -> None:
    """Ends with 0 once all topics are there as the settings ask for them, with 1 and one line where not."""
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    try:
        settings = Settings.load()
        topics = Topics.of(settings.kafka)
        topics.create(settings.kafka)
    except (InvalidInput, KafkaError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print("topics ready:", ", ".join(vars(topics).values()))


if __name__ == "__main__":
    main()
