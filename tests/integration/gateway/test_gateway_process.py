"""The gateway as others meet it: health, reflection, and a process that is told to stop or dies."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from gateway_harness import Replica, RunningGateway, texts
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from support.waiting import poll_until

from services.cli.client import Client, ClientError
from services.gateway.server import SERVICES
from services.local.ports import free_ports
from services.shared.settings import GatewaySettings, KafkaSettings, Settings
from services.shared.telemetry import Spans, Telemetry

DEADLINE_S = 60.0


@pytest.fixture
def settings(kafka_settings: KafkaSettings) -> Settings:
    return Settings(kafka=kafka_settings, gateway=GatewaySettings(port=0, bookmark_period_s=0.3))


@contextmanager
def gateway_process(settings: Settings, log: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """`python -m services.gateway` on a free port; yields once its health says that it serves."""
    (port,) = free_ports(1)
    own = settings.model_copy(update={"gateway": settings.gateway.model_copy(update={"port": port})})
    environment = {**os.environ, **own.environment()}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.gateway"], env=environment, stdout=output, stderr=output
        )
    address = f"127.0.0.1:{port}"
    try:
        poll_until(lambda: serving(address) or process.poll() is not None, 60)
        assert process.poll() is None, log.read_text()
        yield process, address
    finally:
        process.kill()
        process.wait(10)


def serving(address: str, service: str = "") -> bool:
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            status = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5).status
        except grpc.RpcError:
            return False
    return bool(status == health_pb2.HealthCheckResponse.SERVING)


def test_health_knows_every_service(settings: Settings) -> None:
    with RunningGateway(settings) as gateway:
        assert all(serving(gateway.address, service) for service in ("", *SERVICES))
        assert not serving(gateway.address, "no.such.Service")


def test_a_stranger_can_call_by_reflection_alone(settings: Settings) -> None:
    with RunningGateway(settings) as gateway, grpc.insecure_channel(gateway.address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert set(SERVICES) <= set(database.get_services())
        pool = DescriptorPool(database)
        method = pool.FindServiceByName("streamo.v1.StreamService").FindMethodByName("AddStream")
        request, response = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
        call = channel.unary_unary(
            "/streamo.v1.StreamService/AddStream",
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )
        added = call(request(stream={"stream_id": "cam", "source": "/a.mp4"}), timeout=20)
        assert added.stream.stream_id == "cam"
        with Client(gateway.address) as client:
            assert [status.stream.source for status in client.list_streams()] == ["/a.mp4"]


def test_sigterm_sends_subscribers_on_with_a_token_and_ends_well(
    settings: Settings, replica: Replica, tmp_path: Path
) -> None:
    with gateway_process(settings, tmp_path / "gateway.log") as (process, address):
        with Client(address) as client:
            events = client.subscribe(deadline_s=DEADLINE_S)
            next(events)
            replica.say("a", ["1"])
            assert texts(events, 1) == ["1"]
            with grpc.insecure_channel(address) as channel:
                raw = channel.unary_stream("/streamo.v1.EventService/Subscribe")(b"", timeout=DEADLINE_S)
                next(raw)
                process.send_signal(signal.SIGTERM)
                with pytest.raises(grpc.RpcError) as cut:
                    list(raw)
            events.close()
        assert process.wait(30) == 0, (tmp_path / "gateway.log").read_text()
    assert cut.value.code() == grpc.StatusCode.UNAVAILABLE
    token = dict(cut.value.trailing_metadata())["resume-token-bin"]
    replica.say("a", ["2"])
    with (
        RunningGateway(settings) as second,
        Client(second.address) as client,
        client.subscribe(start=token, deadline_s=DEADLINE_S) as resumed,
    ):
        assert texts(resumed, 1) == ["2"]


def test_a_killed_gateway_costs_a_subscriber_nothing(
    settings: Settings, replica: Replica, tmp_path: Path
) -> None:
    with (
        gateway_process(settings, tmp_path / "one.log") as (process, address),
        RunningGateway(settings) as second,
        Client([address, second.address]) as client,
    ):
        client.add_stream("a", "/a.mp4")
        with client.subscribe(deadline_s=DEADLINE_S) as events:
            next(events)
            replica.say("a", [str(number) for number in range(20)])
            assert texts(events, 10) == [str(number) for number in range(10)]
            process.kill()
            replica.say("a", [str(number) for number in range(20, 40)])
            assert texts(events, 30) == [str(number) for number in range(10, 40)]
            assert events.num_reconnects >= 1
        assert [status.stream.stream_id for status in client.list_streams()] == ["a"]


def test_a_gateway_that_sleeps_is_noticed_and_left(
    settings: Settings, replica: Replica, tmp_path: Path
) -> None:
    with (
        gateway_process(settings, tmp_path / "one.log") as (process, address),
        RunningGateway(settings) as second,
        Client([address, second.address]) as client,
        client.subscribe(deadline_s=DEADLINE_S) as events,
    ):
        next(events)
        process.send_signal(signal.SIGSTOP)
        replica.say("a", ["1"])
        assert texts(events, 1) == ["1"]
        assert events.num_reconnects >= 1


def test_a_port_in_use_is_told(settings: Settings, tmp_path: Path) -> None:
    with gateway_process(settings, tmp_path / "one.log") as (_, address):
        port = address.rpartition(":")[2]
        own = settings.model_copy(update={"gateway": GatewaySettings(port=int(port))})
        failed = run_to_its_end({**os.environ, **own.environment()})
        assert failed.returncode == 1
        assert f"{address} cannot be listened on" in failed.stderr


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"STREAMO_KAFKA__PARTITIONS": "3"}, "has 2 partitions"),
        ({"STREAMO_GATEWAY__NO_SUCH": "1"}, "unknown setting STREAMO_GATEWAY__NO_SUCH"),
    ],
)
def test_a_gateway_that_cannot_serve_says_why(settings: Settings, change: dict[str, str], text: str) -> None:
    failed = run_to_its_end({**os.environ, **settings.environment(), **change})
    assert failed.returncode == 1
    assert text in failed.stderr


def test_delivery_continues_the_trace_of_the_frame(settings: Settings, replica: Replica) -> None:
    exported = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exported))
    telemetry = Telemetry("gateway", settings.telemetry)
    telemetry.tracer = provider.get_tracer("test")
    trace_id, span_id = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    headers = [("traceparent", f"00-{trace_id}-{span_id}-01".encode())]
    with (
        RunningGateway(settings, telemetry) as gateway,
        Client(gateway.address) as client,
        client.subscribe(deadline_s=DEADLINE_S) as events,
    ):
        next(events)
        replica.say("a", ["traced"], headers=headers)
        replica.say("a", ["untraced"])
        assert texts(events, 2) == ["traced", "untraced"]
        poll_until(lambda: exported.get_finished_spans())
    (span,) = exported.get_finished_spans()
    assert span.name == Spans.DELIVER
    assert span.parent is not None
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (trace_id, span_id)
    assert span.attributes is not None
    assert span.attributes["streamo.event.seq"] == 1


def run_to_its_end(environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "services.gateway"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def test_a_client_says_when_no_gateway_answers() -> None:
    ports = free_ports(2)
    with Client([f"127.0.0.1:{port}" for port in ports], timeout_s=2) as client:
        with pytest.raises(ClientError, match="no gateway at") as failed:
            client.list_streams()
        assert failed.value.code == grpc.StatusCode.UNAVAILABLE
        with pytest.raises(ClientError) as failed:
            next(client.subscribe())
        assert failed.value.code == grpc.StatusCode.UNAVAILABLE
