"""Where Kafka is and how a client proves who it is: what every client of kafka-python is made with."""

from typing import Any

from kafka.admin import KafkaAdminClient

from services.shared.settings import KafkaSettings
from services.shared.tls import client_context, read_secret

_REQUEST_TIMEOUT_MS = 10_000


class _Password(str):
    """kafka-python logs what its clients were made with, at the level DEBUG: there it reads ***."""

    def __repr__(self) -> str:
        return "'***'"

    __str__ = __repr__


def connection(settings: KafkaSettings) -> dict[str, Any]:
    """Arguments for any client of kafka-python.

    Files are read here, so a client made later has what they hold then. Raises InvalidInput for one that is wrong.
    """
    arguments: dict[str, Any] = {
        "bootstrap_servers": settings.bootstrap_servers,
        "security_protocol": settings.security_protocol,
    }
    if settings.security_protocol != "PLAINTEXT":
        arguments["ssl_context"] = client_context(settings, "kafka")
    if settings.security_protocol == "SASL_SSL":
        password = read_secret(settings.password_path, "kafka.password_path")
        arguments["sasl_mechanism"] = settings.sasl_mechanism
        arguments["sasl_plain_username"] = settings.username
        arguments["sasl_plain_password"] = _Password(password.get_secret_value())
    return arguments


def admin(settings: KafkaSettings, request_timeout_ms: int = _REQUEST_TIMEOUT_MS) -> KafkaAdminClient:
    """Raises KafkaError where Kafka does not answer, or refuses us."""
    return KafkaAdminClient(**connection(settings), request_timeout_ms=request_timeout_ms)
