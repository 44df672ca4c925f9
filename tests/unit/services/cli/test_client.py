"""The client against real gRPC servers that follow a script."""

import threading
import time
from collections.abc import Callable, Iterator

import grpc
import pytest
from support.scripted_gateway import BOOKMARK, FULL, GONE, HUNG, ScriptedGateway, event

from services.cli.client import Client, ClientError
from streamo.v1.event_pb2 import Bookmark, Event, GetEventsResponse, SubscribeResponse

DEADLINE_S = 30.0


@pytest.fixture
def client(gateway: ScriptedGateway) -> Iterator[Client]:
    with Client(gateway.address, timeout_s=3) as made:
        yield made


def seqs(messages: Iterator[SubscribeResponse], count: int) -> list[int]:
    found: list[int] = []
    while len(found) < count:
        message = next(messages)
        found += [message.event.seq] if message.HasField("event") else []
    return found


def test_it_comes_back_by_the_last_token_and_drops_repeats(gateway: ScriptedGateway, client: Client) -> None:
    gateway.scripts = [
        [BOOKMARK, event(1), event(2), GONE],
        [BOOKMARK, event(2), event(3), event(1, "b"), GONE],
        [BOOKMARK, event(1, "b"), event(4)],
    ]
    with client.subscribe(stream_ids=["a", "b"], deadline_s=DEADLINE_S) as events:
        assert seqs(events, 5) == [1, 2, 3, 1, 4]
        assert events.num_reconnects == 2
    assert gateway.requests[0].now
    assert [request.resume_token for request in gateway.requests[1:]] == [b"a2", b"b1"]
    assert all(request.filter.stream_ids == ["a", "b"] for request in gateway.requests)


def test_a_bookmarks_token_counts_too(gateway: ScriptedGateway, client: Client) -> None:
    late = SubscribeResponse(bookmark=Bookmark(), resume_token=b"late")
    gateway.scripts = [[BOOKMARK, event(1), late, GONE], [event(2)]]
    with client.subscribe(start="earliest", deadline_s=DEADLINE_S) as events:
        assert seqs(events, 2) == [1, 2]
    assert gateway.requests[0].earliest
    assert gateway.requests[1].resume_token == b"late"


def test_what_coming_back_does_not_mend_is_raised_with_its_token(
    gateway: ScriptedGateway, client: Client
) -> None:
    gateway.scripts = [[BOOKMARK, event(1), (grpc.StatusCode.RESOURCE_EXHAUSTED, "too slow", b"go-on")]]
    events = client.subscribe(deadline_s=DEADLINE_S)
    assert seqs(events, 1) == [1]
    with pytest.raises(ClientError, match="too slow") as raised:
        next(events)
    assert (raised.value.code, raised.value.resume_token) == (grpc.StatusCode.RESOURCE_EXHAUSTED, b"go-on")
    assert len(gateway.requests) == 1
    assert list(events) == []  # it has ended


def test_a_given_token_is_where_it_starts(gateway: ScriptedGateway, client: Client) -> None:
    gateway.scripts = [[GONE], [event(8)]]
    with client.subscribe(start=b"mine", deadline_s=DEADLINE_S) as events:
        assert seqs(events, 1) == [8]
    assert [request.resume_token for request in gateway.requests] == [b"mine", b"mine"]


def test_it_goes_to_the_next_target(make_gateway: Callable[[], ScriptedGateway]) -> None:
    one, two = make_gateway(), make_gateway()
    one.scripts, two.scripts = [[BOOKMARK, event(1), GONE]], [[event(2)]]
    with Client([one.address, two.address]) as client, client.subscribe(deadline_s=DEADLINE_S) as events:
        assert seqs(events, 2) == [1, 2]
    assert two.requests[0].resume_token == b"a1"


def test_a_full_gateway_is_left_for_the_next(make_gateway: Callable[[], ScriptedGateway]) -> None:
    one, two = make_gateway(), make_gateway()
    one.scripts, two.scripts = [[FULL], [FULL]], [[BOOKMARK, event(1), GONE], [event(2)]]
    with Client([one.address, two.address]) as client, client.subscribe(deadline_s=DEADLINE_S) as events:
        assert seqs(events, 2) == [1, 2]
    assert [request.resume_token for request in one.requests] == [b"", b"a1"]


def test_where_all_gateways_are_full_that_is_told(make_gateway: Callable[[], ScriptedGateway]) -> None:
    one, two = make_gateway(), make_gateway()
    one.scripts, two.scripts = [[FULL]] * 50, [[FULL]] * 50
    with (
        Client([one.address, two.address], timeout_s=1) as client,
        pytest.raises(ClientError, match="no place left") as raised,
    ):
        next(client.subscribe(deadline_s=DEADLINE_S))
    assert raised.value.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert one.requests and two.requests


def test_a_call_that_a_full_gateway_refuses_goes_to_the_next(
    make_gateway: Callable[[], ScriptedGateway],
) -> None:
    full = grpc.StatusCode.RESOURCE_EXHAUSTED
    one, two = make_gateway(), make_gateway()
    one.pages, two.pages = [full, full], [GetEventsResponse(), full]
    with Client([one.address, two.address]) as client:
        assert len(list(client.get_events())) == 1
        with pytest.raises(ClientError, match="resource_exhausted") as raised:
            next(client.get_events())
    assert raised.value.code == full


def test_a_removal_that_a_full_gateway_refused_was_not_done(
    make_gateway: Callable[[], ScriptedGateway],
) -> None:
    one, two = make_gateway(), make_gateway()
    one.removals, two.removals = [grpc.StatusCode.RESOURCE_EXHAUSTED], [grpc.StatusCode.NOT_FOUND]
    with Client([one.address, two.address]) as client, pytest.raises(ClientError) as raised:
        client.remove_stream("a")
    assert raised.value.code == grpc.StatusCode.NOT_FOUND


def test_a_gateway_that_hangs_is_left_for_the_next(make_gateway: Callable[[], ScriptedGateway]) -> None:
    one, two = make_gateway(), make_gateway()
    one.pages, two.pages = [HUNG], [GetEventsResponse(), GetEventsResponse()]
    with Client([one.address, two.address], timeout_s=2) as client:
        for _ in range(2):
            assert len(list(client.get_events())) == 1
    assert (len(one.page_tokens), len(two.page_tokens)) == (1, 2)


def test_where_all_gateways_hang_that_is_told(make_gateway: Callable[[], ScriptedGateway]) -> None:
    one, two = make_gateway(), make_gateway()
    one.pages, two.pages = [HUNG], [HUNG]
    with (
        Client([one.address, two.address], timeout_s=0.5) as client,
        pytest.raises(
            ClientError, match=f"no gateway at {one.address}, {two.address} answered within 0.5 s"
        ) as raised,
    ):
        next(client.get_events())
    assert raised.value.code == grpc.StatusCode.DEADLINE_EXCEEDED


def test_that_an_answer_takes_too_long_is_told_by_the_gateway_that_was_asked(
    make_gateway: Callable[[], ScriptedGateway],
) -> None:
    one, two = make_gateway(), make_gateway()
    with Client([one.address, two.address]) as client:
        for _ in range(2):
            with pytest.raises(ClientError, match="the stream shows no answer") as raised:
                client.ask("a", "Who?", timeout_s=1)
            assert raised.value.code == grpc.StatusCode.DEADLINE_EXCEEDED
    assert (one.asked, two.asked) == (["Who?"] * 2, [])


def test_close_from_another_thread_ends_it(gateway: ScriptedGateway, client: Client) -> None:
    events = client.subscribe(deadline_s=DEADLINE_S)
    gateway.scripts = [[BOOKMARK]]
    assert next(events).resume_token == b"start"
    begun = time.monotonic()
    threading.Timer(0.05, events.close).start()
    assert list(events) == []
    assert time.monotonic() - begun < DEADLINE_S / 2


def test_a_deadline_ends_it_without_an_error(gateway: ScriptedGateway, client: Client) -> None:
    tokens: list[bytes] = []
    # On a busy machine the first message may come after the shorter deadlines; they end it without an error too.
    for deadline_s in (0.5, 2, 8, 32):
        gateway.scripts = [[BOOKMARK]]
        tokens = [message.resume_token for message in client.subscribe(deadline_s=deadline_s)]
        if tokens:
            break
    assert tokens == [b"start"]


def test_an_unknown_start_is_a_mistake(client: Client) -> None:
    with pytest.raises(ValueError, match="start is 'yesterday'"):
        client.subscribe(start="yesterday")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="targets is empty"):
        Client([])


@pytest.mark.parametrize("lost", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED])
def test_a_removal_whose_answer_was_lost_counts_as_done(
    make_gateway: Callable[[], ScriptedGateway], lost: grpc.StatusCode
) -> None:
    one, two = make_gateway(), make_gateway()
    one.removals, two.removals = [lost], [grpc.StatusCode.NOT_FOUND]
    with Client([one.address, two.address]) as client:
        client.remove_stream("a")
        two.removals = [grpc.StatusCode.NOT_FOUND]
        with pytest.raises(ClientError) as raised:
            client.remove_stream("a")
    assert raised.value.code == grpc.StatusCode.NOT_FOUND


def test_history_is_read_to_its_last_page(gateway: ScriptedGateway, client: Client) -> None:
    gateway.pages = [
        GetEventsResponse(events=[Event(seq=1)], next_page_token=b"x"),
        GetEventsResponse(next_page_token=b"y"),
        GetEventsResponse(events=[Event(seq=2)]),
    ]
    assert [event.seq for page in client.get_events() for event in page.events] == [1, 2]
    assert gateway.page_tokens == [b"", b"x", b"y"]
