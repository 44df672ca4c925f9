"""The `streamo` command against a real gateway."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from services.cli.main import app
from services.local.gateway_health import gateway_serves
from services.local.ports import free_ports
from services.local.service_process import ServiceProcess
from services.shared.kafka import producer
from services.shared.settings import GatewaySettings, KafkaSettings, Settings
from services.shared.topics import Topics, partition_of
from streamo.v1.event_pb2 import Event, EventKind
from streamo.v1.task_pb2 import Task


@pytest.fixture
def gateway(kafka_settings: KafkaSettings, tmp_path: Path) -> Iterator[str]:
    port = free_ports(1)[0]
    settings = Settings(kafka=kafka_settings, gateway=GatewaySettings(port=port, bookmark_period_s=0.2))
    address = f"127.0.0.1:{port}"
    process = ServiceProcess(
        "gateway",
        [sys.executable, "-m", "services.gateway"],
        tmp_path / "gateway.log",
        environment=settings.environment(),
        ready=lambda: gateway_serves(address),
    )
    process.start()
    yield address
    process.stop()


@pytest.fixture
def streamo(gateway: str, tmp_path: Path):  # type: ignore[no-untyped-def]
    def streamo(*arguments: str, stdin: str = "") -> Result:
        target = ["--gateway", gateway, "--directory", str(tmp_path / "home")]
        done = CliRunner().invoke(app, [*arguments, *target], input=stdin, env={"COLUMNS": "200"})
        assert done.exception is None, done.output
        return done

    return streamo


def say(settings: KafkaSettings, *seqs: int) -> None:
    """What an LLM replica would commit."""
    writing = producer(settings, "test")
    writing.init_transactions()
    writing.begin_transaction()
    for seq in seqs:
        event = Event(
            stream_id="gate",
            seq=seq,
            event_id=f"e{seq}",
            kind=EventKind.EVENT_KIND_CLOSE,
            watch_id="cars",
            task=Task.TASK_EVENT,
            text=f"car {seq} arrives",
        )
        partition = partition_of("gate", settings.partitions)
        writing.send(
            Topics.of(settings).events, key=b"gate", value=event.SerializeToString(), partition=partition
        )
    writing.commit_transaction()
    writing.close(timeout=5)


def test_streams_and_watches_from_adding_to_removing(streamo) -> None:  # type: ignore[no-untyped-def]
    assert "No streams yet" in streamo("stream", "list").output
    streamo(
        "stream",
        "add",
        "gate",
        "rtsp://192.0.2.1/gate",
        "--username",
        "admin",
        "--password-stdin",
        stdin="s3cret\n",
    )
    listed = streamo("stream", "list").output
    assert "rtsp://192.0.2.1/gate" in listed
    assert "s3cret" not in listed

    assert "No watches yet" in streamo("watch", "list").output
    added = streamo("watch", "add", "gate", "cars", "Tell me when a car arrives.", "--task", "event")
    assert "cars" in added.output
    again = streamo("watch", "add", "gate", "cars", "Tell me when a car arrives.", "--task", "event")
    assert again.output == added.output
    assert "Tell me when a car arrives." in streamo("watch", "list", "gate").output

    keen = ("watch", "add", "gate", "cars", "Tell me when a car arrives.", "--task", "event")
    streamo(*keen, "--sensitivity", "1.5", "--replace")
    assert streamo("watch", "list", "gate").output.splitlines()[1].split()[-2] == "1.5"

    streamo("watch", "remove", "gate", "cars")
    assert "No watches yet" in streamo("watch", "list").output
    streamo("stream", "remove", "gate")
    assert "No streams yet" in streamo("stream", "list").output


def test_tail_goes_on_where_it_stopped(streamo, kafka_settings: KafkaSettings) -> None:  # type: ignore[no-untyped-def]
    say(kafka_settings, 1, 2, 3)
    first = streamo("tail", "--from", "earliest", "--count", "2").output
    assert "car 1 arrives" in first
    assert "car 2 arrives" in first
    say(kafka_settings, 4)
    second = streamo("tail", "--count", "2").output
    assert "car 1" not in second
    assert "car 2" not in second
    assert "car 3 arrives" in second
    assert "car 4 arrives" in second


def test_tail_as_json_is_one_object_a_line(streamo, kafka_settings: KafkaSettings) -> None:  # type: ignore[no-untyped-def]
    say(kafka_settings, 1)
    lines = streamo("tail", "--json", "--from", "earliest", "--count", "1").output.splitlines()
    messages = [json.loads(line) for line in lines]
    assert "bookmark" in messages[0]
    assert messages[-1]["event"]["text"] == "car 1 arrives"
    assert all(message["resume_token"] for message in messages)


def test_each_filter_has_a_place_of_its_own(streamo, kafka_settings: KafkaSettings) -> None:  # type: ignore[no-untyped-def]
    say(kafka_settings, 1, 2)
    assert "car 1" in streamo("tail", "--from", "earliest", "--count", "1").output
    by_stream = streamo("tail", "--stream", "gate", "--from", "earliest", "--count", "2").output
    assert "car 1" in by_stream
    assert "car 2" in by_stream
    assert "car 2" in streamo("tail", "--count", "1").output
