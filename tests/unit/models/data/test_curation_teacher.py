"""The teacher over real HTTP on loopback."""

import json
import random
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from models.data.curation.annotator import Annotator
from models.data.curation.config import TeacherConfig
from models.data.curation.endpoint import Endpoint, EndpointError
from models.data.curation.store import Ledger, Store
from models.data.curation.teacher import (
    CurationStopped,
    Picture,
    Request,
    Teacher,
    TeacherSilent,
    UnreadableReply,
)
from tests.support.stub_endpoint import Answer, StubEndpoint

KEY = "sk-very-secret"


def request(text: str = "What?", **more: Any) -> Request:
    return Request("You look.", (Picture(1.0, b"jpeg"),), text, **more)


class Bench:
    """Teachers on one folder and one endpoint, as one run after the other."""

    def __init__(self, folder: Path, answer: Callable[[dict[str, Any]], Answer]) -> None:
        self.folder = folder
        self.stub = StubEndpoint(answer)
        self.pauses_s: list[float] = []
        self.wait: Callable[[float], object] = self.pauses_s.append
        self.ledger: Ledger | None = None

    def teacher(self, **settings: Any) -> Teacher:
        config = TeacherConfig(base_url=self.stub.base_url, model="m", **settings)
        if self.ledger is not None:
            self.ledger.close()
        self.ledger = Ledger(self.folder / "paid.jsonl")
        endpoint = Endpoint(config.base_url, KEY, config.deadline_s)
        replies = Store(self.folder / "replies")
        return Teacher(config, endpoint, replies, self.ledger, random.Random(1), lambda s: self.wait(s))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(
        *answers: Answer, then: Callable[[dict[str, Any]], Answer] = lambda body: Answer("yes")
    ) -> Bench:
        left = list(answers)
        lock = threading.Lock()

        def answer(body: dict[str, Any]) -> Answer:
            with lock:
                if left:
                    return left.pop(0)
            return then(body)

        bench = Bench(tmp_path, answer)
        bench.stub.__enter__()
        made.append(bench)
        return bench

    yield make
    for one in made:
        one.stub.__exit__(None, None, None)
        if one.ledger is not None:
            one.ledger.close()


def test_what_is_sent(bench: Callable[..., Bench]) -> None:
    bodies: list[dict[str, Any]] = []

    def answer(body: dict[str, Any]) -> Answer:
        bodies.append(body)
        return Answer("fine")

    b = bench(then=answer)
    assert b.teacher(max_reply_tokens=77, temperature=0.5).ask(request(), str) == "fine"
    (body,) = bodies
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("m", 77, 0.5)
    system, user = body["messages"]
    assert system == {"role": "system", "content": "You look."}
    assert [part["type"] for part in user["content"]] == ["text", "image_url", "text"]
    assert user["content"][0]["text"] == "1.0 s"
    assert user["content"][1]["image_url"]["url"] == "data:image/jpeg;base64,anBlZw=="
    assert user["content"][2]["text"] == "What?"
    assert b.stub.keys_seen == [f"Bearer {KEY}"]


def test_a_reply_is_paid_once_whatever_run_asks(bench: Callable[..., Bench]) -> None:
    b = bench()
    assert b.teacher().ask(request(), str) == "yes"
    again = b.teacher()
    assert again.ask(request(), str) == "yes"
    assert b.stub.num_requests == 1
    assert (again.counts.num_new, again.counts.num_kept) == (0, 1)
    assert b.ledger is not None and b.ledger.total_tokens == 110
    # Another picture, time, text, look, model or temperature is another request.
    other = Request("You look.", (Picture(1.0, b"other"),), "What?")
    later = Request("You look.", (Picture(2.0, b"jpeg"),), "What?")
    for different in (other, later, request("Who?"), request(look=1)):
        again.ask(different, str)
    b.teacher(temperature=1.0).ask(request(), str)
    assert b.stub.num_requests == 6


def test_passing_faults_are_tried_again_with_growing_pauses(bench: Callable[..., Bench]) -> None:
    faults = [Answer(status=status) for status in (500, 503, 502)]
    b = bench(*faults, Answer(payload=b"{}"), Answer(status=429, headers={"Retry-After": "40"}))
    teacher = b.teacher()
    assert teacher.ask(request(), str) == "yes"
    assert b.stub.num_requests == 6
    first = [1.0, 2.0, 4.0, 8.0]
    assert all(low / 2 <= pause <= low for low, pause in zip(first, b.pauses_s[:4], strict=True))
    assert len(set(b.pauses_s)) == 5 and b.pauses_s[4] == 40.0
    assert teacher.counts.num_retries == 5
    assert teacher.counts.faults == {
        "status 500": 1,
        "status 503": 1,
        "status 502": 1,
        "no answer": 1,
        "status 429": 1,
    }


def test_half_a_character_in_a_reply_ends_no_run(bench: Callable[..., Bench]) -> None:
    def said(*texts: str) -> Answer:
        return Answer(json.dumps({"events": [{"start": 0, "end": 1, "caption": text} for text in texts]}))

    b = bench(Answer("mumble \ud83d"), said("half of \ud83d"), said("a whole \U0001f600"))
    teacher = b.teacher(max_readings=3)
    assert teacher.ask(request("Say."), str) == "mumble ?"
    assert [claim.text for claim in Annotator(teacher, []).events()] == ["a whole \U0001f600"]


@pytest.mark.parametrize(
    "reply",
    [
        '{"events": [{"start": 1%s, "end": 7, "caption": "a man came"}]}' % ("0" * 400),
        '{"events": [{"start": 1%s, "end": 7, "caption": "a man came"}]}' % ("0" * 5000),
        '{"events": ' + "[" * 100_000,
        '{"events": ' * 20_000,
    ],
    ids=["no float holds it", "no integer is read so long", "lists", "objects"],
)
def test_a_reply_that_no_reader_can_take_is_unreadable_in_every_run(
    reply: str, bench: Callable[..., Bench]
) -> None:
    b = bench(then=lambda body: Answer(reply))
    for _ in range(2):
        with pytest.raises(UnreadableReply):
            Annotator(b.teacher(max_readings=1), []).events()
    assert b.stub.num_requests == 1


def test_a_completion_nested_too_deeply_is_a_passing_fault(bench: Callable[..., Bench]) -> None:
    b = bench(Answer(payload=b"[" * 100_000))
    assert b.teacher().ask(request(), str) == "yes"


@pytest.mark.parametrize("usage", [{"prompt_tokens": "100", "completion_tokens": -3}, ["100"], "much"])
def test_usage_that_is_no_count_is_none(usage: Any, bench: Callable[..., Bench]) -> None:
    b = bench(Answer("yes, it is", usage=usage))
    assert b.teacher().ask(request(), str) == "yes, it is"
    assert b.ledger is not None
    assert (b.ledger.prompt_tokens, b.ledger.completion_tokens, b.ledger.num_estimated) == (259, 3, 1)


def test_attempts_are_bounded_and_the_next_run_asks_again(bench: Callable[..., Bench]) -> None:
    b = bench(*[Answer(status=500)] * 3)
    with pytest.raises(TeacherSilent, match="3 attempts"):
        b.teacher(max_attempts=3).ask(request(), str)
    assert b.stub.num_requests == 3
    assert b.teacher().ask(request(), str) == "yes"


def test_a_request_that_is_refused_is_not_repeated(bench: Callable[..., Bench]) -> None:
    b = bench(Answer(status=400, payload=b"too long"))
    with pytest.raises(TeacherSilent, match="400: too long"):
        b.teacher().ask(request(), str)
    assert (b.stub.num_requests, b.pauses_s) == (1, [])


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_teacher_that_refuses_us_stops_the_run_and_the_key_is_never_told(
    status: int, bench: Callable[..., Bench]
) -> None:
    b = bench(Answer(status=status, payload=f"bad key {KEY}".encode()))
    with pytest.raises(CurationStopped) as told:
        b.teacher().ask(request(), str)
    assert KEY not in str(told.value) and "***" in str(told.value)
    assert b.stub.num_requests == 1


def test_a_line_end_behind_the_key_is_no_part_of_it(bench: Callable[..., Bench]) -> None:
    b = bench(then=lambda body: Answer(status=400, payload=f"bad key {KEY}".encode()))
    with pytest.raises(EndpointError) as told:
        Endpoint(b.stub.base_url, f"{KEY}\r\n").chat({})
    assert b.stub.keys_seen == [f"Bearer {KEY}"]
    assert KEY not in str(told.value)


@pytest.mark.parametrize("key", [f"{KEY}\nX-Other: 1", f"{KEY}\x00", f"{KEY}\u2026", " \n"])
def test_a_key_that_no_header_can_hold_is_refused_and_never_told(key: str) -> None:
    with pytest.raises(ValueError, match=r"teacher\.key_variable") as told:
        Endpoint("http://127.0.0.1:1/v1", key)
    assert KEY not in str(told.value)


def test_an_unreadable_reply_is_asked_for_anew_and_kept(bench: Callable[..., Bench]) -> None:
    seeds: list[int] = []

    def answer(body: dict[str, Any]) -> Answer:
        seeds.append(body["seed"])
        return Answer("yes" if len(seeds) == 2 else "mumble")

    def read(text: str) -> str:
        if text != "yes":
            raise UnreadableReply(text)
        return text

    b = bench(then=answer)
    assert b.teacher().ask(request(), read) == "yes"
    assert b.teacher().ask(request(), read) == "yes"
    assert len(seeds) == len(set(seeds)) == 2
    with pytest.raises(UnreadableReply):
        b.teacher(max_readings=3).ask(request("Who?"), read)
    assert b.stub.num_requests == 5


def test_the_budget_is_never_overspent_and_a_higher_one_goes_on(bench: Callable[..., Bench]) -> None:
    b = bench()

    def ask_all(teacher: Teacher) -> int:
        """How many of ten, asked at once, were refused."""

        def refused(index: int) -> bool:
            try:
                teacher.ask(request(f"Question {index}?"), str)
            except CurationStopped:
                return True
            return False

        with ThreadPoolExecutor(10) as pool:
            return sum(pool.map(refused, range(10)))

    settings: dict[str, Any] = {"concurrency": 10, "max_reply_tokens": 16}
    assert ask_all(b.teacher(budget_tokens=500, **settings)) >= 6
    assert b.ledger is not None and 0 < b.ledger.total_tokens <= 500
    while b.ledger.total_tokens < 1100:
        spent = b.ledger.total_tokens
        ask_all(b.teacher(budget_tokens=spent + 400, **settings))
        assert spent < b.ledger.total_tokens <= spent + 400
    assert b.stub.num_requests == 10


def test_the_dearest_reply_of_an_earlier_run_is_expected_again(bench: Callable[..., Bench]) -> None:
    dear = {"prompt_tokens": 10_000, "completion_tokens": 0}
    b = bench(then=lambda body: Answer("yes", usage=dear))
    b.teacher(budget_tokens=15_000).ask(request(), str)
    with pytest.raises(CurationStopped, match="another reply could go beyond"):
        b.teacher(budget_tokens=15_000).ask(request("Who?"), str)
    assert b.stub.num_requests == 1
    assert b.teacher(budget_tokens=20_000).ask(request("Who?"), str) == "yes"


def test_what_came_without_a_reply_is_paid_too(bench: Callable[..., Bench]) -> None:
    usage = {"prompt_tokens": 1000, "completion_tokens": 0}
    empty = Answer(payload=json.dumps({"choices": [], "usage": usage}).encode())
    b = bench(empty, empty)
    assert b.teacher().ask(request(), str) == "yes"
    assert b.ledger is not None
    assert (b.ledger.num_replies, b.ledger.total_tokens) == (3, 2110)
    b = bench(then=lambda body: empty)
    with pytest.raises(CurationStopped, match="budget_tokens"):
        b.teacher(budget_tokens=2110 + 3000, max_attempts=10).ask(request("Who?"), str)
    assert b.ledger is not None
    assert b.ledger.total_tokens == 2110 + 1000 * b.stub.num_requests <= 2110 + 3000


def test_no_more_at_once_than_told(bench: Callable[..., Bench]) -> None:
    one_too_many = threading.Barrier(4)

    def answer(body: dict[str, Any]) -> Answer:
        with suppress(threading.BrokenBarrierError):
            one_too_many.wait(0.5)
        return Answer("yes")

    b = bench(then=answer)
    teacher = b.teacher(concurrency=3)
    with ThreadPoolExecutor(9) as pool:
        list(pool.map(lambda index: teacher.ask(request(f"{index}"), str), range(9)))
    assert b.stub.most_at_once <= 3 and one_too_many.broken


def test_a_stopped_teacher_asks_nothing_more(bench: Callable[..., Bench]) -> None:
    b = bench(Answer(status=500))
    teacher = b.teacher()
    b.wait = lambda _: teacher.stop()
    with pytest.raises(CurationStopped, match="interrupted"):
        teacher.ask(request(), str)
    assert b.stub.num_requests == 1


def test_an_endpoint_that_tells_no_usage_is_paid_by_estimate(bench: Callable[..., Bench]) -> None:
    b = bench(Answer("yes, it is", usage=None))
    b.teacher().ask(request(), str)
    assert b.ledger is not None
    # 14 characters and a picture asked, 10 characters replied.
    assert (b.ledger.prompt_tokens, b.ledger.completion_tokens, b.ledger.num_estimated) == (259, 3, 1)


def test_a_line_cut_off_by_a_kill_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "paid.jsonl"
    ledger = Ledger(path)
    ledger.add(100, 10, False)
    ledger.close()
    path.write_text(path.read_text() + '{"prompt": 1')
    for expected in (110, 115):
        ledger = Ledger(path)
        assert ledger.total_tokens == expected
        ledger.add(5, 0, False)
        ledger.close()
    assert [json.loads(line)["prompt"] for line in path.read_text().splitlines() if line.endswith("}")] == [
        100,
        5,
        5,
    ]


def test_a_damaged_entry_is_none(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put("abcd", {"a": 1})
    assert store.get("abcd") == {"a": 1}
    (file,) = tmp_path.rglob("*.json")
    file.write_text('{"a"')
    assert store.get("abcd") is None
    assert store.get("none") is None


def test_the_deadline_holds_against_one_that_drips() -> None:
    """A byte every now and then keeps every socket timeout from running out; only the deadline ends it."""
    over = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))

    def drip() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            try:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
                while not over.wait(0.02):
                    connection.sendall(b" ")
            except OSError:
                pass

    server = threading.Thread(target=drip)
    server.start()
    try:
        endpoint = Endpoint(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", deadline_s=0.2)
        with pytest.raises(EndpointError, match=r"no answer in 0\.2 s") as told:
            endpoint.chat({})
        assert told.value.is_passing
    finally:
        over.set()
        server.join()
        listener.close()


def test_the_deadline_holds_while_connecting_and_nothing_is_asked_after_it(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    b = bench()
    is_reachable, is_closed = threading.Event(), threading.Event()
    connect = socket.create_connection

    class Watched(socket.socket):
        def close(self) -> None:
            super().close()
            is_closed.set()

    def connect_late(*values: Any, **more: Any) -> socket.socket:
        is_reachable.wait(3)
        watched = Watched(fileno=connect(*values, **more).detach())
        watched.settimeout(5)
        return watched

    monkeypatch.setattr(socket, "create_connection", connect_late)
    with pytest.raises(EndpointError, match=r"no answer in 0\.2 s") as told:
        Endpoint(b.stub.base_url, deadline_s=0.2).chat({})
    assert told.value.is_passing
    is_reachable.set()
    assert is_closed.wait(10)
    assert b.stub.num_requests == 0


def test_an_address_that_does_not_answer_leaves_time_for_the_next(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    b = bench()
    stub = ("127.0.0.1", int(b.stub.base_url.split(":")[2].removesuffix("/v1")))
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, ExitStack() as waiting:
        for _ in range(3):
            one = waiting.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        addresses = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", at) for at in (full.getsockname(), stub)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *values, **more: addresses)
        assert Endpoint("http://two.test/v1", deadline_s=2.0).chat({}).text == "yes"


@pytest.mark.parametrize(
    "answer",
    [Answer(status=401), Answer(payload=b"{}"), None],
    ids=["refused", "no completion", "nobody there"],
)
def test_what_stands_before_the_host_is_never_told(
    answer: Answer | None, bench: Callable[..., Bench]
) -> None:
    b = bench(then=lambda body: answer or Answer())
    host = b.stub.base_url.removeprefix("http://").removesuffix("/v1") if answer else "127.0.0.1:1"
    with pytest.raises(EndpointError, match=host) as told:
        Endpoint(f"http://me:s3cret@{host}/v1", deadline_s=5).chat({})
    assert "s3cret" not in str(told.value)
    with pytest.raises(ValueError, match="base_url") as refused:
        Endpoint("http://me:s3cret@/v1")
    assert "s3cret" not in str(refused.value)


def test_nobody_there_is_a_passing_fault() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(EndpointError) as told:
        Endpoint(f"http://127.0.0.1:{port}/v1", deadline_s=5).chat({})
    assert told.value.is_passing
    with pytest.raises(ValueError, match="base_url"):
        Endpoint("127.0.0.1:80")
