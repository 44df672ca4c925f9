"""Subscribing, coming back and reading history, on a real broker with events as a replica commits them."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import grpc
import pytest
from gateway_harness import Replica, RunningGateway, take_events, texts
from kafka import TopicPartition
from kafka.admin import KafkaAdminClient
from support.counting_telemetry import CountingTelemetry
from support.waiting import poll_until

from services.cli.client import Client, ClientError
from services.gateway.event_filter import Filter
from services.gateway.history import History
from services.gateway.resume_token import ResumeToken
from services.shared.errors import Unavailable
from services.shared.settings import GatewaySettings, KafkaSettings, Settings
from services.shared.telemetry import Metrics
from services.shared.topics import Topics, partition_of
from streamo.v1.event_pb2 import EventKind, SubscribeRequest
from streamo.v1.event_pb2_grpc import EventServiceStub
from streamo.v1.task_pb2 import Task

if TYPE_CHECKING:
    from services.local.kafka_broker import KafkaBroker

DEADLINE_S = 60.0


def gateway_settings(kafka: KafkaSettings, **values: object) -> Settings:
    given = {"port": 0, "bookmark_period_s": 0.3, **values}
    return Settings(kafka=kafka, gateway=GatewaySettings.model_validate(given))


@pytest.fixture
def telemetry() -> CountingTelemetry:
    return CountingTelemetry("gateway")


@pytest.fixture
def gateway(kafka_settings: KafkaSettings, telemetry: CountingTelemetry) -> Iterator[RunningGateway]:
    with RunningGateway(gateway_settings(kafka_settings), telemetry) as running:
        yield running


def num_violations(telemetry: CountingTelemetry) -> int:
    """Once there are some: subscribers may see an event a moment before it is counted."""
    counted = (Metrics.SEQ_VIOLATIONS[0], "")
    poll_until(lambda: telemetry.counts[counted] > 0)
    return telemetry.counts[counted]


def test_a_subscription_begins_with_a_bookmark_and_gets_what_is_committed_after(
    client: Client, replica: Replica
) -> None:
    replica.say("a", ["before"])
    # A commit is answered a moment before readers may see it.
    with client.subscribe(start="earliest", deadline_s=DEADLINE_S) as events:
        assert texts(events, 1) == ["before"]
    with client.subscribe(deadline_s=DEADLINE_S) as events:
        first = next(events)
        assert first.HasField("bookmark")
        assert first.resume_token
        replica.say("a", ["one", "two"])
        replica.say("b", ["three"])
        assert sorted(texts(events, 3)) == ["one", "three", "two"]


def test_aborted_events_are_never_seen(client: Client, replica: Replica) -> None:
    replica.say("a", ["1"])
    replica.give_up("a", ["never", "never"])
    replica.say("a", ["2"])
    replica.give_up("a", ["never"])
    replica.say("a", ["3"])
    with client.subscribe(start="earliest", deadline_s=DEADLINE_S) as events:
        assert texts(events, 3) == ["1", "2", "3"]
        replica.give_up("a", ["never"])
        replica.say("a", ["4"])
        assert texts(events, 1) == ["4"]
    assert [event.text for page in client.get_events() for event in page.events] == ["1", "2", "3", "4"]


def test_every_token_resumes_right_after_its_message_at_another_gateway(
    client: Client, replica: Replica, kafka_settings: KafkaSettings
) -> None:
    # Several events a transaction: their offsets lie side by side, without a marker between.
    for number in range(3):
        replica.say(f"s{number}", [f"{number} {part}" for part in range(3)])
    with client.subscribe(start="earliest", deadline_s=DEADLINE_S) as events:
        messages = take_events(events, 9)
    with RunningGateway(gateway_settings(kafka_settings)) as other, Client(other.address) as second:
        marks: list[str] = []
        for index, message in enumerate(messages):
            left = sorted([later.event.text for later in messages[index + 1 :]] + marks)
            with second.subscribe(start=message.resume_token, deadline_s=DEADLINE_S) as events:
                assert next(events).HasField("bookmark")
                assert sorted(texts(events, len(left))) == left
                replica.say("s0", [f"mark {index}"])
                assert texts(events, 1) == [f"mark {index}"]
            marks.append(f"mark {index}")


def test_a_long_history_joins_the_live_end_without_a_gap(
    client: Client, replica: Replica, kafka_settings: KafkaSettings
) -> None:
    """Longer than the gateway's memory, and read while more is said."""
    for start in range(0, 3000, 500):
        replica.say("a", [str(number) for number in range(start, start + 500)])
    with (
        ThreadPoolExecutor(1) as writer,
        client.subscribe(start="earliest", deadline_s=DEADLINE_S) as events,
    ):
        written = writer.submit(lambda: [replica.say("a", [str(number)]) for number in range(3000, 3100)])
        assert texts(events, 3100) == [str(number) for number in range(3100)]
        written.result(30)


def test_filters_hold_back_what_was_not_asked_for(client: Client, replica: Replica) -> None:
    replica.say("a", ["mine"], watch_id="mine")
    replica.say("a", ["other watch"], watch_id="other")
    replica.say("b", ["other stream"], watch_id="mine")
    replica.say("a", ["gap"], watch_id="", task=0, kind=EventKind.EVENT_KIND_GAP)
    replica.say("a", ["other task"], watch_id="mine", task=Task.TASK_EVENT)
    replica.say("a", ["mine too"], watch_id="mine")
    wanted = {"stream_ids": ["a"], "watch_ids": ["mine"], "tasks": [Task.TASK_QA]}
    with client.subscribe(**wanted, start="earliest", deadline_s=DEADLINE_S) as events:
        assert texts(events, 3) == ["mine", "gap", "mine too"]
    pages = list(client.get_events(**wanted, page_size=1))
    assert [event.text for page in pages for event in page.events] == ["mine", "gap", "mine too"]


def test_history_comes_in_pages_and_goes_on_from_a_resume_token(client: Client, replica: Replica) -> None:
    replica.say("a", [str(number) for number in range(25)])
    pages = list(client.get_events(stream_ids=["a"], page_size=10))
    assert [len(page.events) for page in pages] == [10, 10, 5]
    assert [event.seq for page in pages for event in page.events] == list(range(1, 26))
    with client.subscribe(stream_ids=["a"], start=pages[0].next_page_token, deadline_s=DEADLINE_S) as events:
        message = take_events(events, 3)[-1]
    rest = [
        event.seq
        for page in client.get_events(stream_ids=["a"], page_token=message.resume_token)
        for event in page.events
    ]
    assert rest == list(range(14, 26))


def test_bookmarks_tell_progress_and_never_run_ahead_of_the_events(client: Client, replica: Replica) -> None:
    replica.say("a", ["1", "2"])
    replica.quiet("a", 9000)
    with client.subscribe(stream_ids=["a"], deadline_s=DEADLINE_S) as events:
        told: dict[str, int] = {}
        for message in events:
            told.update({at.stream_id: at.media_time_ms for at in message.bookmark.progress})
            if told == {"a": 9000}:
                break
    # From the start, progress beyond an event must come after that event.
    with client.subscribe(start="earliest", deadline_s=DEADLINE_S) as events:
        seen = 0
        for message in events:
            if message.HasField("event"):
                seen += 1
            for at in message.bookmark.progress:
                assert seen == 2
                assert at.media_time_ms == 9000
            if seen == 2 and message.bookmark.progress:
                break


def test_quiet_streams_have_progress_at_a_gateway_that_saw_none_of_their_events(
    replica: Replica, kafka_settings: KafkaSettings
) -> None:
    replica.say("a", ["long ago"])
    replica.say("b", [str(number) for number in range(1000)])
    replica.quiet("a", 5000)
    with (
        RunningGateway(gateway_settings(kafka_settings)) as fresh,
        Client(fresh.address) as client,
        client.subscribe(deadline_s=DEADLINE_S) as events,
    ):
        assert any(
            at.stream_id == "a" and at.media_time_ms == 5000 for m in events for at in m.bookmark.progress
        )


@pytest.mark.parametrize(
    ("change", "code", "text"),
    [
        ("broken", grpc.StatusCode.INVALID_ARGUMENT, "broken"),
        ("cluster", grpc.StatusCode.FAILED_PRECONDITION, "cluster elsewhere"),
        ("topic", grpc.StatusCode.FAILED_PRECONDITION, "topic other-events"),
        ("filter", grpc.StatusCode.FAILED_PRECONDITION, "another filter"),
        ("future", grpc.StatusCode.OUT_OF_RANGE, "from the future"),
    ],
)
def test_each_wrong_token_has_its_own_error(
    client: Client, replica: Replica, change: str, code: grpc.StatusCode, text: str
) -> None:
    replica.say("a", ["1"])
    with client.subscribe(start="earliest", deadline_s=DEADLINE_S) as events:
        good = ResumeToken.decode(take_events(events, 1)[0].resume_token)
    changed = {
        "broken": good.encode()[:-1],
        "cluster": ResumeToken("elsewhere", good.topic, good.filter_hash, good.positions).encode(),
        "topic": ResumeToken(good.cluster_id, "other-events", good.filter_hash, good.positions).encode(),
        "filter": ResumeToken(
            good.cluster_id, good.topic, Filter(frozenset({"a"})).hash, good.positions
        ).encode(),
        "future": ResumeToken(
            good.cluster_id, good.topic, good.filter_hash, {p: at + 1000 for p, at in good.positions.items()}
        ).encode(),
    }[change]
    with pytest.raises(ClientError, match=text) as from_subscribe:
        next(client.subscribe(start=changed, deadline_s=DEADLINE_S))
    assert from_subscribe.value.code == code
    with pytest.raises(ClientError, match=text) as from_history:
        list(client.get_events(page_token=changed))
    assert from_history.value.code == code


def test_a_token_below_retention_has_expired_and_one_at_its_edge_has_not(
    replica: Replica, kafka_settings: KafkaSettings
) -> None:
    replica.say("a", ["1", "2", "3"])
    with (
        RunningGateway(gateway_settings(kafka_settings)) as first,
        Client(first.address) as client,
        client.subscribe(start="earliest", deadline_s=DEADLINE_S) as events,
    ):
        one, two, three = take_events(events, 3)
    partition = partition_of("a", kafka_settings.partitions)
    delete_events(kafka_settings, partition, ResumeToken.decode(two.resume_token).positions[partition])
    # A gateway with none of it in memory.
    with RunningGateway(gateway_settings(kafka_settings)) as second, Client(second.address) as client:
        with pytest.raises(ClientError, match="deleted by retention") as expired:
            next(client.subscribe(start=one.resume_token, deadline_s=DEADLINE_S))
        assert expired.value.code == grpc.StatusCode.OUT_OF_RANGE
        with client.subscribe(start=two.resume_token, deadline_s=DEADLINE_S) as events:
            assert texts(events, 1) == ["3"]
        # History has no memory to look into: it goes by what Kafka holds.
        (page,) = client.get_events(page_token=two.resume_token)
        assert [event.text for event in page.events] == ["3"]
        with pytest.raises(ClientError, match="deleted by retention"):
            list(client.get_events(page_token=one.resume_token))
        with client.subscribe(start="earliest", deadline_s=DEADLINE_S) as events:
            assert texts(events, 1) == ["3"]
        with client.subscribe(start=three.resume_token, deadline_s=DEADLINE_S) as events:
            replica.say("a", ["4"])
            assert texts(events, 1) == ["4"]


def test_a_hole_in_seq_ends_the_subscription_loudly_and_is_counted(
    client: Client, replica: Replica, telemetry: CountingTelemetry
) -> None:
    replica.say("a", ["1"])
    replica.skip("a")
    replica.say("a", ["3"])
    events = client.subscribe(start="earliest", deadline_s=DEADLINE_S)
    assert texts(events, 1) == ["1"]
    with pytest.raises(ClientError, match="seq 3 comes after 1") as lost:
        list(events)
    assert lost.value.code == grpc.StatusCode.DATA_LOSS
    with client.subscribe(start=lost.value.resume_token, deadline_s=DEADLINE_S) as events:
        assert texts(events, 1) == ["3"]
    with pytest.raises(ClientError, match="seq 3 comes after 1"):
        list(client.get_events())
    assert num_violations(telemetry) == 1


@pytest.mark.parametrize("fault", ["hole", "unreadable", "unreadable at the end"])
def test_history_is_told_up_to_what_is_lost_then_the_loss_and_goes_on_behind_it(
    client: Client, replica: Replica, fault: str
) -> None:
    replica.say("a", ["1", "2"])
    if fault == "hole":
        replica.skip("a")
    else:
        replica.write_raw("a", b"\xff\xff no event")
    after = [] if fault == "unreadable at the end" else ["3", "4"]
    replica.say("a", after)
    with pytest.raises(ClientError) as lost:
        list(client.subscribe(start="earliest", deadline_s=DEADLINE_S))
    pages = client.get_events()
    page = next(pages)
    assert [event.text for event in page.events] == ["1", "2"]
    with pytest.raises(
        ClientError, match="seq 4 comes after 2" if fault == "hole" else "does not parse"
    ) as told:
        next(pages)
    assert told.value.code == grpc.StatusCode.DATA_LOSS
    assert told.value.text == lost.value.text
    # The page's token tells a subscriber of the loss as well.
    with pytest.raises(ClientError, match=told.value.text):
        texts(client.subscribe(start=page.next_page_token, deadline_s=DEADLINE_S), 1)
    rest = client.get_events(page_token=told.value.resume_token)
    assert [event.text for page in rest for event in page.events] == after


def test_an_event_that_cannot_be_read_ends_the_subscription_loudly_and_is_counted(
    client: Client, replica: Replica, telemetry: CountingTelemetry
) -> None:
    replica.say("a", ["1"])
    replica.write_raw("a", b"\xff\xff no event")
    replica.say("a", ["2"])
    events = client.subscribe(start="earliest", deadline_s=DEADLINE_S)
    assert texts(events, 1) == ["1"]
    with pytest.raises(ClientError, match="does not parse") as lost:
        list(events)
    assert lost.value.code == grpc.StatusCode.DATA_LOSS
    with client.subscribe(start=lost.value.resume_token, deadline_s=DEADLINE_S) as events:
        assert texts(events, 1) == ["2"]
    assert num_violations(telemetry) == 1


def test_a_subscriber_that_takes_nothing_is_cut_off_with_a_token_and_holds_nobody_up(
    replica: Replica, kafka_settings: KafkaSettings
) -> None:
    settings = gateway_settings(kafka_settings, slow_subscriber_s=1.0, max_queued_messages=8)
    long, count = "x" * 200_000, 100  # more than sockets and windows hold
    with RunningGateway(settings) as gateway, Client(gateway.address) as client:
        channel = grpc.insecure_channel(gateway.address)
        slow = EventServiceStub(channel).Subscribe(SubscribeRequest(now=True), timeout=DEADLINE_S)
        assert next(slow).HasField("bookmark")
        with client.subscribe(deadline_s=DEADLINE_S) as events:
            next(events)
            for number in range(count):
                replica.say("a", [f"{number} {long}"])
                assert texts(events, 1)[0].startswith(f"{number} ")
            poll_until(lambda: gateway.num_open == 1)  # the other one is cut off, this one is not
        got = []
        with pytest.raises(grpc.RpcError) as cut:
            got.extend(message.event.seq for message in slow if message.HasField("event"))
        assert cut.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        token = dict(cut.value.trailing_metadata())["resume-token-bin"]
        assert got == list(range(1, len(got) + 1))
        assert len(got) < count
        with client.subscribe(start=token, deadline_s=DEADLINE_S) as events:
            rest = [message.event.seq for message in take_events(events, count - len(got))]
        # The message that it would not take may have reached it after all, and then comes twice; none is left out.
        assert rest[0] in (len(got), len(got) + 1)
        assert rest == list(range(rest[0], rest[0] + len(rest)))
        channel.close()


def test_no_more_subscribers_than_allowed(kafka_settings: KafkaSettings) -> None:
    settings = gateway_settings(kafka_settings, max_subscribers=1)
    with RunningGateway(settings) as gateway, Client(gateway.address, timeout_s=3) as client:
        with client.subscribe(deadline_s=DEADLINE_S) as events:
            next(events)
            with pytest.raises(ClientError, match="all its 1 subscribers") as refused:
                next(client.subscribe(deadline_s=DEADLINE_S))
            assert refused.value.code == grpc.StatusCode.RESOURCE_EXHAUSTED
        poll_until(lambda: gateway.num_open == 0)
        with client.subscribe(deadline_s=DEADLINE_S) as events:
            assert next(events).HasField("bookmark")


def test_history_has_a_bounded_number_of_readers(kafka_settings: KafkaSettings) -> None:
    """With all of them busy a further read is refused in time, and served once one is free."""
    busy, release = threading.Event(), threading.Event()

    def hold(_: object) -> None:
        busy.set()
        release.wait(30)

    async def scenario() -> None:
        history = History(kafka_settings, num_readers=1, timeout_s=2.0, clock_us=lambda: 0)
        holding = asyncio.create_task(history._run(hold))
        await asyncio.to_thread(busy.wait, 20)
        with pytest.raises(Unavailable, match="all 1 readers"):
            await history.bounds([0])
        release.set()
        await asyncio.gather(holding, return_exceptions=True)
        assert (await history.bounds([0]))[0].begin == 0
        await asyncio.to_thread(history.close)

    asyncio.run(scenario())


def test_fifty_subscribers_from_everywhere_get_the_same(client: Client, replica: Replica) -> None:
    for start in range(0, 800, 400):
        replica.say("a", [str(number) for number in range(start, start + 400)])
    # A commit is answered a moment before readers may see it, and "now" is what they may see.
    with client.subscribe(start="earliest", deadline_s=DEADLINE_S) as events:
        assert len(texts(events, 800)) == 800

    def follow(index: int) -> list[str]:
        start = "earliest" if index % 2 else "now"
        with client.subscribe(stream_ids=["a"], start=start, deadline_s=DEADLINE_S) as events:
            next(events)
            ready.append(index)
            return texts(events, 810 if index % 2 else 10)

    ready: list[int] = []
    with ThreadPoolExecutor(50) as threads:
        running = [threads.submit(follow, index) for index in range(50)]
        poll_until(lambda: len(ready) == 50, 60)
        replica.say("a", [str(number) for number in range(800, 810)])
        for index, followed in enumerate(running):
            expected = range(810) if index % 2 else range(800, 810)
            assert followed.result(60) == [str(number) for number in expected]


@pytest.mark.timeout(180)
def test_subscribers_outlive_a_broker_that_is_killed(
    broker: "KafkaBroker", client: Client, replica: Replica, make_kafka_settings: Callable[..., KafkaSettings]
) -> None:
    with client.subscribe(deadline_s=120) as events:
        next(events)
        replica.say("a", ["before"])
        assert texts(events, 1) == ["before"]
        broker.kill()
        broker.start()
        replica.say("a", ["after"])
        assert texts(events, 1) == ["after"]
        assert events.num_reconnects == 0
    with client.subscribe(start="earliest", deadline_s=DEADLINE_S) as events:
        assert texts(events, 2) == ["before", "after"]


def delete_events(settings: KafkaSettings, partition: int, before: int) -> None:
    admin = KafkaAdminClient(bootstrap_servers=settings.bootstrap_servers)
    try:
        admin.delete_records({TopicPartition(Topics.of(settings).events, partition): before})
    finally:
        admin.close()
