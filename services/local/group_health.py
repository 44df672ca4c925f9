"""Whether somebody works on behalf of a consumer group."""

from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError

from services.shared.settings import KafkaSettings


def group_has_member(settings: KafkaSettings, group: str) -> bool:
    """Whether the group has a member and has agreed on who has which partition."""
    name = settings.prefix + group
    try:
        admin = KafkaAdminClient(bootstrap_servers=settings.bootstrap_servers, request_timeout_ms=5_000)
    except KafkaError:
        return False
    try:
        described = admin.describe_groups([name])[name]
    except KafkaError:
        return False
    finally:
        admin.close()
    return described["group_state"] == "Stable" and bool(described["members"])
