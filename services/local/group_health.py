"""Whether somebody works on behalf of a consumer group."""

from kafka.errors import KafkaError

from services.shared.kafka_connection import admin
from services.shared.settings import KafkaSettings


def group_has_member(settings: KafkaSettings, group: str) -> bool:
    """Whether the group has a member and has agreed on who has which partition."""
    name = settings.prefix + group
    try:
        asking = admin(settings, request_timeout_ms=5_000)
    except KafkaError:
        return False
    try:
        described = asking.describe_groups([name])[name]
    except KafkaError:
        return False
    finally:
        asking.close()
    return described["group_state"] == "Stable" and bool(described["members"])
