"""The promise, while processes are killed, Redis is emptied or gone, and the broker is restarted."""

import time

import pytest
import redis
from support.promise import kept_frames, violations
from support.stack import PASSWORD, USERNAME, read_stream, replica_process
from support.waiting import poll_until

from services.cli.client import Client
from services.local.local_stack import LocalStack
from streamo.v1.task_pb2 import Task

STREAMS = {"north": "gate", "south": "yard"}  # stream -> camera


@pytest.fixture(scope="module")
def streams(stack: LocalStack, urls: dict[str, str]) -> list[str]:
    with Client(stack.gateway_address) as client:
        for stream_id, camera in STREAMS.items():
            client.add_stream(stream_id, urls[camera], USERNAME, PASSWORD)
            client.add_watch(stream_id, "story", Task.TASK_NARRATION, "Tell me what happens.")
            client.add_watch(stream_id, "steps", Task.TASK_ACTION, "Describe what people and cars do.")
        wait_for_progress(client, 5_000)
    return list(STREAMS)


def progress_ms(client: Client) -> dict[str, int]:
    return {status.stream.stream_id: status.media_time_ms for status in client.list_streams()}


def wait_for_progress(client: Client, further_ms: int, timeout_s: float = 90.0) -> None:
    """Until every stream of this module has been decided `further_ms` beyond where it stands now."""
    before = progress_ms(client)
    poll_until(
        lambda: all(progress_ms(client).get(name, 0) >= before.get(name, 0) + further_ms for name in STREAMS),
        timeout_s,
        f"{further_ms} ms of decisions on each of {list(STREAMS)}",
    )


def check_promise(stack: LocalStack, streams: list[str]) -> None:
    for stream_id in streams:
        records = read_stream(stack.settings.kafka, stream_id)
        assert violations(records) == [], stream_id
        assert len(kept_frames(records.frames)) > 5


@pytest.mark.timeout(300)
def test_a_replica_killed_three_times_loses_and_doubles_nothing(
    stack: LocalStack, client: Client, streams: list[str], record_property: pytest.FixtureRequest
) -> None:
    for kill in range(3):
        process = poll_until(lambda: replica_process(stack, "LLM"), 60, "a replica of the LLM")
        process.kill()
        killed_s = time.monotonic()
        # Beyond what was captured before the kill, so that the new owner has decided live frames.
        wait_for_progress(client, 4_000)
        record_property(f"recovery_{kill}_s", round(time.monotonic() - killed_s, 1))
        check_promise(stack, streams)


@pytest.mark.timeout(180)
def test_an_emptied_redis_costs_nothing(stack: LocalStack, client: Client, streams: list[str]) -> None:
    with redis.Redis.from_url(stack.settings.redis.url) as cache:
        cache.flushall()
    process = replica_process(stack, "LLM")
    assert process is not None
    process.kill()
    wait_for_progress(client, 4_000)
    check_promise(stack, streams)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_streams_go_on_while_redis_is_gone_for_a_minute(
    stack: LocalStack, client: Client, streams: list[str]
) -> None:
    stack.redis.kill()
    gone_since_s = time.monotonic()
    try:
        while time.monotonic() - gone_since_s < 40:
            wait_for_progress(client, 3_000, timeout_s=30)
        process = replica_process(stack, "LLM")
        assert process is not None
        process.kill()
        wait_for_progress(client, 4_000)
        while time.monotonic() - gone_since_s < 60:
            wait_for_progress(client, 1_000, timeout_s=30)
    finally:
        stack.redis.start()
    wait_for_progress(client, 3_000)
    check_promise(stack, streams)


@pytest.mark.timeout(300)
def test_a_broker_killed_and_restarted_loses_and_doubles_nothing(
    stack: LocalStack, client: Client, streams: list[str]
) -> None:
    stack.broker.kill()
    stack.broker.start()
    wait_for_progress(client, 6_000, timeout_s=120)
    check_promise(stack, streams)
