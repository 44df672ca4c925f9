"""Kafka clients with the settings that our promises rest on, and the headers that carry a trace."""

import time
from collections.abc import Iterable, Sequence

from kafka import ConsumerRebalanceListener, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.errors import KafkaConnectionError
from opentelemetry import propagate
from opentelemetry.context import Context

from services.shared.errors import Unavailable
from services.shared.kafka_connection import admin, connection
from services.shared.settings import KafkaSettings
from services.shared.topics import MAX_RECORD_BYTES

Headers = list[tuple[str, bytes]]

# With the client's default of 100 ms the first send of every transaction waits as long for the partition to be added.
_RETRY_BACKOFF_MS = 5
_REQUEST_TIMEOUT_MS = 10_000


def reader(
    settings: KafkaSettings,
    partitions: Iterable[TopicPartition],
    max_partition_fetch_bytes: int = MAX_RECORD_BYTES,
    group: str | None = None,
) -> KafkaConsumer:
    """A consumer that joins no group, assigned to `partitions`; it sees committed records only and never resets
    silently.

    The caller seeks before its first poll. Not safe to share between threads. A larger record is still read.
    With a `group` its `committed` tells the stable offsets of that group.
    """
    fetch = {"max_partition_fetch_bytes": max_partition_fetch_bytes}
    group_id = None if group is None else settings.prefix + group
    consumer = KafkaConsumer(**{**_consumer_settings(settings), **fetch}, group_id=group_id)
    consumer.assign(list(partitions))
    return consumer


def member(
    settings: KafkaSettings,
    group: str,
    topic: str,
    listener: ConsumerRebalanceListener,
    session_timeout_s: float,
    max_poll_interval_s: float,
) -> KafkaConsumer:
    """A consumer that is a member of `group` on `topic`: to be assigned a partition is to own its streams.

    Raises Unavailable where Kafka does not tell the topic's partitions in time.
    """
    consumer = KafkaConsumer(
        **_consumer_settings(settings),
        group_id=settings.prefix + group,
        partition_assignment_strategy=[CooperativeStickyAssignor],
        session_timeout_ms=int(session_timeout_s * 1000),
        # A heartbeat is how a member learns of a rebalance; until the last one has, the others fetch nothing.
        heartbeat_interval_ms=int(min(session_timeout_s / 3, 1) * 1000),
        max_poll_interval_ms=int(max_poll_interval_s * 1000),
    )
    consumer.subscribe([topic], listener=listener)
    # A member that joins as leader before it knows the topic's partitions shares out none, and may take what it
    # learns a moment later for what it has shared out: then nobody is ever assigned anything.
    deadline_s = time.monotonic() + _REQUEST_TIMEOUT_MS / 1000
    while not consumer.partitions_for_topic(topic):
        if time.monotonic() > deadline_s:
            consumer.close()
            raise Unavailable(
                f"Kafka at {settings.bootstrap_servers} does not tell the partitions of {topic}"
            )
    return consumer


def producer(
    settings: KafkaSettings,
    transactional_id: str | None = None,
    delivery_timeout_s: float = 15.0,
    transaction_timeout_s: float = 15.0,
) -> KafkaProducer:
    """An idempotent producer, `acks=all`. With a `transactional_id` the caller must call `init_transactions` first.

    Safe to share between threads, but its transaction calls wait without a limit: give them a thread and a deadline.
    A record not taken within `delivery_timeout_s` fails, and with it the producer: see `abandon`. Kafka fences a
    producer whose transaction stays open for longer than `transaction_timeout_s`, also while no broker runs.
    """
    made = KafkaProducer(
        **connection(settings),
        transactional_id=None if transactional_id is None else settings.prefix + transactional_id,
        transaction_timeout_ms=int(transaction_timeout_s * 1000),
        delivery_timeout_ms=int(delivery_timeout_s * 1000),
        request_timeout_ms=_REQUEST_TIMEOUT_MS,
        max_block_ms=15_000,
        bootstrap_timeout_ms=_REQUEST_TIMEOUT_MS,
        max_request_size=MAX_RECORD_BYTES,
        retry_backoff_ms=_RETRY_BACKOFF_MS,
        reconnect_backoff_max_ms=1000,
        allow_auto_create_topics=False,
    )
    _keep_requests_of_a_lost_coordinator(made)
    return made


def _keep_requests_of_a_lost_coordinator(made: KafkaProducer) -> None:
    """Lets a transaction outlive a broker that goes away before the request that ends it is sent.

    The sender tries a request again if its node answers `await_ready` with False. The client's `await_ready` raises
    instead, and the request is forgotten: the transaction would wait for ever (kafka-python 3.0.12).
    """
    client = made._sender._client
    await_ready = client.await_ready

    def is_ready_in_time(node_id: object, timeout_ms: float) -> bool:
        try:
            return bool(await_ready(node_id, timeout_ms))
        except KafkaConnectionError:
            return False

    client.await_ready = is_ready_in_time


def abandon(failed: KafkaProducer) -> None:
    """Ends a producer at once: what it has not sent fails, and is not sent later.

    Do so after a time-out. When a record that it had sent before expires, an idempotent producer of this client
    gives up its producer id, never asks for another, and sends nothing more for ever (kafka-python 3.0.12).
    Not to be called from the producer's own callbacks.
    """
    sender = failed._sender  # `close` alone first waits for all that is to be given up
    sender.force_close()
    sender.join(_REQUEST_TIMEOUT_MS / 1000)
    failed.close(timeout=0)


def cluster_id(settings: KafkaSettings) -> str:
    """The id of the cluster. Raises Unavailable where it does not answer."""
    asking = admin(settings)
    try:
        found = asking.describe_cluster().get("cluster_id")
    finally:
        asking.close()
    if not found:
        raise Unavailable(f"Kafka at {settings.bootstrap_servers} does not tell its cluster id")
    return str(found)


def trace_headers(context: Context | None = None) -> Headers:
    """Kafka headers with the `traceparent` of `context` (W3C Trace Context), or of the current one."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier, context)
    return [(name, value.encode()) for name, value in carrier.items()]


def trace_context(headers: Sequence[tuple[str, bytes | None]]) -> Context:
    """The trace context that a record carries; an empty one where it carries none. Whoever writes may leave a
    header without a value."""
    return propagate.extract(
        {name: value.decode(errors="replace") for name, value in headers if value is not None}
    )


def _consumer_settings(settings: KafkaSettings) -> dict[str, object]:
    return {
        **connection(settings),
        "isolation_level": "read_committed",
        "auto_offset_reset": "none",
        "enable_auto_commit": False,
        "allow_auto_create_topics": False,
        "request_timeout_ms": _REQUEST_TIMEOUT_MS + 20_000,
        "retry_backoff_ms": _RETRY_BACKOFF_MS * 10,
        "reconnect_backoff_max_ms": 1000,
        "max_partition_fetch_bytes": MAX_RECORD_BYTES,
        "fetch_max_wait_ms": 250,
    }
