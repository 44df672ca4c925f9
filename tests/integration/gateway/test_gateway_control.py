"""Streams, watches and questions, at one gateway and at two."""

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import pytest
from gateway_harness import Replica, RunningGateway
from support.waiting import poll_until

from services.cli.client import Client, ClientError
from services.shared.control_log import (
    ControlReader,
    ControlView,
    ControlWriter,
    end_key,
    epoch_key,
)
from services.shared.settings import GatewaySettings, KafkaSettings, Settings
from streamo.v1.control_pb2 import ControlRecord, EpochBegin, FileEnd
from streamo.v1.event_pb2 import EventKind, Reason
from streamo.v1.frame_pb2 import SourceState
from streamo.v1.stream_pb2 import AddStreamRequest, Stream, StreamCounters
from streamo.v1.stream_pb2_grpc import StreamServiceStub
from streamo.v1.task_pb2 import Task
from streamo.v1.watch_pb2 import AskRequest, Watch
from streamo.v1.watch_pb2_grpc import WatchServiceStub

SECRET = "hunter2-canary"
EVENT = Task.TASK_EVENT


@pytest.fixture
def settings(kafka_settings: KafkaSettings) -> Settings:
    return Settings(kafka=kafka_settings, gateway=GatewaySettings(port=0, bookmark_period_s=0.3))


@pytest.fixture
def gateway(settings: Settings) -> Iterator[RunningGateway]:
    with RunningGateway(settings) as running:
        yield running


@pytest.fixture
def control(kafka_settings: KafkaSettings) -> Iterator[ControlReader]:
    """What another service sees."""
    reader = ControlReader(kafka_settings)
    reader.start()
    yield reader
    reader.stop()


@pytest.fixture
def writer(kafka_settings: KafkaSettings) -> Iterator[ControlWriter]:
    made = ControlWriter(kafka_settings)
    yield made
    made.close()


def refusal(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(ClientError) as raised:
        call()
    return raised.value.code, raised.value.text


def test_an_identical_add_changes_nothing_and_another_is_refused(
    client: Client, control: ControlReader
) -> None:
    added = client.add_stream("cam", f"rtsp://ann:{SECRET}@cam.local/x")
    assert (added.source, added.username, added.password) == ("rtsp://cam.local/x", "ann", "")
    version = control.wait_for(1, 10).streams["cam"].version
    assert client.add_stream("cam", "rtsp://cam.local/x", "ann", SECRET) == added
    watch = client.add_watch("cam", "gate", EVENT, "Report deliveries.")
    assert client.add_watch("cam", "gate", EVENT, "  Report deliveries. ") == watch
    for changed in (
        lambda: client.add_stream("cam", "rtsp://cam.local/y", "ann", SECRET),
        lambda: client.add_stream("cam", "rtsp://cam.local/x", "ann", "other"),
        lambda: client.add_watch("cam", "gate", EVENT, "Report cats."),
        lambda: client.add_watch("cam", "gate", Task.TASK_ACTION, "Report deliveries."),
        lambda: client.add_watch("cam", "gate", EVENT, "Report deliveries.", sensitivity=0.5),
    ):
        code, text = refusal(changed)
        assert code == grpc.StatusCode.ALREADY_EXISTS
        assert SECRET not in text
    # Nothing but the two adds was ever written.
    assert control.wait_for(watch.version + 1, 10).streams["cam"].version == version
    assert watch.version == version + 1
    assert client.add_watch("cam", "door", EVENT, "x").version == version + 2


def test_a_replaced_watch_is_a_new_version(client: Client) -> None:
    client.add_stream("cam", "/a.mp4")
    first = client.add_watch("cam", "gate", EVENT, "one")
    second = client.add_watch("cam", "gate", EVENT, "one", replace=True, sensitivity=-1.5)
    assert second.version > first.version
    assert client.add_watch("cam", "gate", EVENT, "one", replace=True, sensitivity=-1.5) == second
    assert client.list_watches("cam") == [second]


def test_a_write_is_there_for_other_gateways_at_once(client: Client, settings: Settings) -> None:
    with RunningGateway(settings) as second, Client(second.address) as other:
        for number in range(10):
            one, two = (client, other) if number % 2 else (other, client)
            one.add_stream(f"cam-{number}", "/a.mp4")
            watch = two.add_watch(f"cam-{number}", "gate", EVENT, "x")
            assert one.list_watches(f"cam-{number}") == [watch]
            two.remove_watch(f"cam-{number}", "gate")
            assert one.list_watches(f"cam-{number}") == []


def test_adds_of_one_id_at_once_leave_one_of_them(client: Client) -> None:
    def add(number: int) -> grpc.StatusCode | str:
        try:
            return client.add_stream("cam", f"/{number}.mp4").source
        except ClientError as error:
            return error.code

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(add, range(8)))
    winners = [answer for answer in answers if isinstance(answer, str)]
    assert [status.stream.source for status in client.list_streams()] == winners
    assert answers.count(grpc.StatusCode.ALREADY_EXISTS) == 7


def test_removing_a_stream_takes_all_that_is_its_own(
    client: Client, control: ControlReader, writer: ControlWriter
) -> None:
    for stream_id in ("cam", "cam2"):
        client.add_stream(stream_id, "/a.mp4")
        client.add_watch(stream_id, "gate", EVENT, "x")
    writer.write(epoch_key("cam"), ControlRecord(epoch=EpochBegin(stream_id="cam")))
    end = writer.write(end_key("cam"), ControlRecord(end=FileEnd(stream_id="cam", stream_version=1)))
    control.wait_for(end + 1, 10)
    client.remove_stream("cam")

    def gone(view: ControlView) -> bool:
        return list(view.streams) == ["cam2"] and list(view.watches) == [("cam2", "gate")]

    poll_until(lambda: gone(control.view) and not control.view.epochs and not control.view.ended)
    assert [status.stream.stream_id for status in client.list_streams()] == ["cam2"]
    assert client.add_stream("cam", "/other.mp4").source == "/other.mp4"


def test_unknown_ids_are_not_found(client: Client) -> None:
    client.add_stream("cam", "/a.mp4")
    for call in (
        lambda: client.remove_stream("none"),
        lambda: client.add_watch("none", "gate", EVENT, "x"),
        lambda: client.remove_watch("none", "gate"),
        lambda: client.remove_watch("cam", "none"),
        lambda: client.list_watches("none"),
        lambda: client.ask("none", "what?", 5),
    ):
        assert refusal(call)[0] == grpc.StatusCode.NOT_FOUND


def test_wrong_fields_are_named(client: Client) -> None:
    for call, field in (
        (lambda: client.add_stream("Cam", "/a"), "stream.stream_id"),
        (lambda: client.add_watch("cam", "gate", 0, "x"), "watch.task"),
        (lambda: client.add_watch("cam", "gate", EVENT, "x", sensitivity=11), "watch.sensitivity"),
        (lambda: client.ask("cam", " ", 5), "question"),
        (lambda: client.ask("cam", "x", 3601), "timeout_s"),
        (lambda: list(client.get_events(page_size=1001)), "page_size"),
        (lambda: next(client.subscribe(stream_ids=["No"])), "filter.stream_ids"),
    ):
        code, text = refusal(call)
        assert code == grpc.StatusCode.INVALID_ARGUMENT
        assert field in text


def test_listed_streams_carry_their_newest_state(
    client: Client, replica: Replica, control: ControlReader
) -> None:
    client.add_stream("cam", f"rtsp://ann:{SECRET}@cam/x")
    client.add_watch("cam", "gate", EVENT, "x")
    version = control.wait_for(1, 10).streams["cam"].version
    live = {"stream_version": version, "source_state": SourceState.SOURCE_STATE_LIVE}
    replica.quiet("cam", 7000, counters=StreamCounters(frames_kept=7, rounds_decided=14), **live)
    poll_until(lambda: client.list_streams()[0].media_time_ms == 7000)
    status = client.list_streams()[0]
    assert (status.counters.rounds_decided, status.num_watches) == (14, 1)
    assert status.source_state == SourceState.SOURCE_STATE_LIVE
    assert status.stream.password == ""
    assert SECRET not in str(status)
    # The state belongs to the stream as it was added then, not to its successor.
    client.remove_stream("cam")
    client.add_stream("cam", "/b.mp4")
    assert client.list_streams()[0].media_time_ms == 0


class Question:
    """A running `ask`, and the watch that carries it."""

    def __init__(
        self, threads: ThreadPoolExecutor, client: Client, control: ControlReader, timeout_s: int
    ) -> None:
        self.answer: Future = threads.submit(client.ask, "cam", "How many?", timeout_s)
        poll_until(lambda: self._found(control))
        self.watch = self._found(control)[0]

    @staticmethod
    def _found(control: ControlReader) -> list[Watch]:
        return list(control.view.watches_of("cam").values())


@contextmanager
def asking(client: Client, control: ControlReader, timeout_s: int = 30) -> Iterator[Question]:
    """On a new stream."""
    client.add_stream("cam", "/a.mp4")
    with ThreadPoolExecutor(1) as threads:
        yield Question(threads, client, control, timeout_s)


def test_a_question_gets_the_answer_meant_for_it(
    client: Client, replica: Replica, control: ControlReader
) -> None:
    with asking(client, control) as question:
        watch = question.watch
        assert (watch.task, watch.once, watch.instruction) == (Task.TASK_QA, True, "How many?")
        assert watch.expires_at_us > 0
        replica.say("cam", ["not this one"], watch_id="other")
        replica.say("cam", ["started"], watch_id=watch.watch_id, kind=EventKind.EVENT_KIND_STARTED)
        replica.say("cam", ["Two."], watch_id=watch.watch_id)
        answer = question.answer.result(20)
    assert (answer.text, answer.watch_id) == ("Two.", watch.watch_id)


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (Reason.REASON_TIMED_OUT, grpc.StatusCode.DEADLINE_EXCEEDED),
        (Reason.REASON_REFUSED, grpc.StatusCode.FAILED_PRECONDITION),
        (Reason.REASON_STREAM_ENDED, grpc.StatusCode.FAILED_PRECONDITION),
        (Reason.REASON_STREAM_REMOVED, grpc.StatusCode.NOT_FOUND),
    ],
)
def test_a_question_that_ends_without_an_answer_says_why(
    client: Client, replica: Replica, control: ControlReader, reason: int, code: grpc.StatusCode
) -> None:
    with asking(client, control) as question:
        ended = {"kind": EventKind.EVENT_KIND_ENDED, "reason": reason, "detail": "no room"}
        replica.say("cam", [""], watch_id=question.watch.watch_id, **ended)
        assert refusal(lambda: question.answer.result(20))[0] == code


@pytest.mark.parametrize("is_added_again", [False, True])
def test_a_question_whose_stream_is_removed_does_not_wait_for_its_time_out(
    client: Client, control: ControlReader, is_added_again: bool
) -> None:
    """Its owner says nothing of a question that had not started."""
    with asking(client, control, 600) as question:
        client.remove_stream("cam")
        if is_added_again:
            client.add_stream("cam", "/a.mp4")
        code, text = refusal(lambda: question.answer.result(60))
    assert code == grpc.StatusCode.NOT_FOUND
    assert "removed" in text


def test_a_question_nobody_waits_for_is_taken_away(
    gateway: RunningGateway, client: Client, control: ControlReader
) -> None:
    client.add_stream("cam", "/a.mp4")
    with grpc.insecure_channel(gateway.address) as channel:
        ask = WatchServiceStub(channel).Ask.future(
            AskRequest(stream_id="cam", question="Who?", timeout_s=600)
        )
        poll_until(lambda: control.view.watches_of("cam"))
        ask.cancel()
        poll_until(lambda: not control.view.watches_of("cam"))
    poll_until(lambda: gateway.num_open == 0)


def test_a_question_ends_when_the_gateway_stops(
    gateway: RunningGateway, client: Client, control: ControlReader
) -> None:
    with asking(client, control, 60) as question:
        gateway.stop()
        assert refusal(lambda: question.answer.result(20))[0] == grpc.StatusCode.UNAVAILABLE
    poll_until(lambda: not control.view.watches_of("cam"))


def test_no_password_reaches_logs_or_answers(
    gateway: RunningGateway, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="services")
    client.add_stream("cam", f"rtsp://ann:{SECRET}@cam/x")
    refused = [
        refusal(lambda: client.add_stream("cam", f"rtsp://ann:{SECRET}2@cam/x"))[1],
        refusal(lambda: client.add_stream("cam2", f"rtsp://ann:{SECRET}@cam:x/x"))[1],
        refusal(lambda: client.add_stream("cam2", f"ftp://ann:{SECRET}@cam/x"))[1],
    ]
    said = caplog.text + repr(refused) + repr(client.list_streams())
    assert SECRET not in said


def test_the_query_of_a_source_is_kept_for_ingest_and_told_to_nobody(
    client: Client, control: ControlReader
) -> None:
    source = f"rtsp://cam/h264?user=admin&password={SECRET}#{SECRET}"
    added = client.add_stream("cam", source)
    assert added.source == "rtsp://cam/h264"
    assert client.add_stream("cam", source) == added
    assert SECRET not in refusal(lambda: client.add_stream("cam", "rtsp://cam/h264"))[1]
    assert [status.stream.source for status in client.list_streams()] == ["rtsp://cam/h264"]
    assert control.wait_for(1, 10).streams["cam"].stream.source == source
    assert client.add_stream("file", "/videos/what?.mp4").source == "/videos/what?.mp4"
    in_path = f"rtsp://cam:554/live/user=admin_password={SECRET}_channel=1.sdp"
    assert client.add_stream("path", in_path).source == "rtsp://cam:554/live/"


def test_an_unexpected_error_is_internal_and_logged_once_without_what_was_sent(
    gateway: RunningGateway, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """A clock that breaks, quoting what it must not quote."""

    def broken() -> int:
        raise RuntimeError(f"cannot tell the time for {SECRET}")

    servicer = gateway.gateway._watch_servicer
    assert servicer is not None
    servicer._clock_us = broken
    code, text = refusal(lambda: client.ask("cam", "x", 5))
    assert code == grpc.StatusCode.INTERNAL
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1
    assert "RuntimeError" in errors[0].getMessage()
    assert text.rsplit(" ", 1)[1] in errors[0].getMessage()
    assert SECRET not in caplog.text + text


def test_calls_from_many_threads_do_not_mix(client: Client) -> None:
    failed: list[Exception] = []

    def work(number: int) -> None:
        try:
            client.add_stream(f"cam-{number}", f"/{number}.mp4")
            for watch in range(3):
                client.add_watch(f"cam-{number}", f"w{watch}", EVENT, f"{number} {watch}")
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failed == []
    assert {status.stream.stream_id: status.num_watches for status in client.list_streams()} == {
        f"cam-{number}": 3 for number in range(12)
    }


def test_a_stream_added_by_hand_with_system_fields_keeps_none_of_them(gateway: RunningGateway) -> None:
    with grpc.insecure_channel(gateway.address) as channel:
        stub = StreamServiceStub(channel)
        given = Stream(stream_id="cam", source="/a.mp4", added_at_us=7)
        added = stub.AddStream(AddStreamRequest(stream=given), timeout=20).stream
        assert added.added_at_us > 7
        assert stub.AddStream(AddStreamRequest(stream=given), timeout=20).stream == added
