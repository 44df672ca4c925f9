"""TLS and passwords on everything that is spoken to over a network: who has them is served, who lacks one is not."""

import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import redis
import yaml
from gateway_harness import RunningGateway, take_events
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError
from support.authority import Authority
from support.llm_bench import Bench
from support.llm_replica import ReplicaProcess
from support.scripted_engine import picture
from support.secure_parts import SecureBroker, SecureRedis, write_secret
from support.waiting import poll_until

from models.vlm.state import State
from services.cli.client import Client, ClientError
from services.local.gateway_health import gateway_serves
from services.local.ports import free_ports
from services.shared.checkpoints import CheckpointStore
from services.shared.errors import InvalidInput
from services.shared.kafka_connection import admin, connection
from services.shared.settings import ClientSettings, GatewaySettings, KafkaSettings, RedisSettings, Settings
from services.shared.topics import Topics
from streamo.v1 import stream_pb2, stream_pb2_grpc
from streamo.v1.event_pb2 import EventKind
from streamo.v1.state_pb2 import Checkpoint
from streamo.v1.task_pb2 import Task

# Several processes are started, one after the other.
pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).parents[3]
WAIT_S = 120.0
PASSWORD = "canary-p@ss/w:rd%"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("secure")


@pytest.fixture(scope="module")
def authority(directory: Path) -> Authority:
    return Authority(directory, "ours")


@pytest.fixture(scope="module")
def foreign(directory: Path) -> Authority:
    return Authority(directory, "foreign")


@pytest.fixture(scope="module")
def secure_broker(directory: Path, authority: Authority) -> Iterator[SecureBroker]:
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    rules = yaml.safe_load((ROOT / "charts/streamo/files/acls.yaml").read_text())
    broker = SecureBroker(directory / "kafka", authority, PASSWORD, users=rules)
    broker.start()
    broker.allow(rules)
    topics = broker.settings_of("topics")
    Topics.of(topics).create(topics)
    yield broker
    broker.stop()


@pytest.fixture(scope="module")
def secure_redis(directory: Path, authority: Authority) -> Iterator[SecureRedis]:
    server = SecureRedis(directory / "redis", authority, PASSWORD)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def settings(secure_broker: SecureBroker, secure_redis: SecureRedis, authority: Authority) -> Settings:
    certificate = authority.issue("gateway")
    client = authority.issue("user")
    gateway = GatewaySettings(
        port=0,
        health_port=free_ports(1)[0],
        bookmark_period_s=0.3,
        write_timeout_s=WAIT_S,
        tls_cert_path=certificate.cert_path,
        tls_key_path=certificate.key_path,
        tls_client_ca_path=authority.ca_path,
    )
    us = ClientSettings(
        tls_ca_path=authority.ca_path, tls_cert_path=client.cert_path, tls_key_path=client.key_path
    )
    return Settings(
        kafka=secure_broker.settings_of("gateway"), redis=secure_redis.settings, gateway=gateway, client=us
    )


@pytest.fixture(scope="module")
def gateway(settings: Settings) -> Iterator[RunningGateway]:
    with RunningGateway(settings) as running:
        yield running


def test_a_watch_is_answered_over_tls_from_end_to_end(
    settings: Settings, gateway: RunningGateway, secure_broker: SecureBroker, tmp_path: Path
) -> None:
    """A client's certificate at the gateway; certificates and passwords at Kafka and Redis, and at Kafka each service
    as a user of its own, who may do no more than the chart's users may."""
    model = settings.model_copy(update={"kafka": secure_broker.settings_of("model")})
    replica = ReplicaProcess(model, tmp_path / "replica.log")
    bench = Bench(secure_broker.settings_of("ingest"))
    try:
        with Client(gateway.address, WAIT_S, settings.client) as client:
            client.add_stream("gate", "file.mp4")
            client.add_watch("gate", "cars", Task.TASK_EVENT, "Report cars.")
            epoch = bench.begin_epoch("gate")
            for number, state in enumerate((State.SILENCE, State.STANDBY, State.RESPONSE)):
                bench.send_frame("gate", epoch, number, picture(state, 2, number))
            bench.flush()
            with client.subscribe(start="earliest", deadline_s=WAIT_S) as events:
                told = [message.event for message in take_events(events, 3)]
        kinds = [EventKind.Name(event.kind).removeprefix("EVENT_KIND_") for event in told]
        assert kinds == ["STARTED", "OPEN", "CLOSE"]
        assert told[-1].text == "number 2"
        store = CheckpointStore(settings.redis, settings.kafka.prefix, 60, lambda outcome, count: None)
        found = poll_until(lambda: store.load(["gate"]), WAIT_S, "the session's checkpoint in Redis")
        store.close()
        assert found["gate"].state.stream_id == "gate"
    finally:
        bench.close()
        replica.stop()
    assert PASSWORD not in replica.log()
    assert settings.redis.password_path not in replica.log()


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-512", "PLAIN"])
def test_kafka_lets_us_in_by_either_mechanism(secure_broker: SecureBroker, mechanism: str) -> None:
    with_it = changed(secure_broker.settings, sasl_mechanism=mechanism)
    asking = admin(with_it)
    try:
        assert Topics.of(with_it).frames in asking.list_topics()
    finally:
        asking.close()


@pytest.mark.parametrize(
    ("lacking", "reason"),
    [
        ("password", "invalid credentials"),
        ("certificate", "SSL handshake failed"),
        ("trust", "SSL handshake failed"),
        ("tls", "SSL handshake failed"),
    ],
)
def test_kafka_serves_nobody_who_lacks_something(
    secure_broker: SecureBroker,
    foreign: Authority,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    lacking: str,
    reason: str,
) -> None:
    bare = KafkaSettings(bootstrap_servers=secure_broker.bootstrap_servers)
    settings = bare if lacking == "tls" else without(lacking, secure_broker.settings, foreign, tmp_path)
    known = len(secure_broker.log())
    with caplog.at_level(logging.DEBUG, logger="kafka"), pytest.raises(KafkaError) as told:
        KafkaAdminClient(**connection(settings), bootstrap_timeout_ms=5_000)
    poll_until(lambda: reason in secure_broker.log()[known:], WAIT_S, f"the broker to tell of {reason}")
    assert "guessed" not in f"{told.value} {caplog.text}"


@pytest.mark.parametrize(
    ("lacking", "reason"),
    [
        ("password", "AuthenticationError"),
        ("certificate", "(?i)certificate|connection|ssl"),
        ("trust", "CERTIFICATE_VERIFY_FAILED"),
        ("tls", "(?i)connection|timeout"),
    ],
)
def test_redis_serves_nobody_who_lacks_something(
    secure_redis: SecureRedis,
    foreign: Authority,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    lacking: str,
    reason: str,
) -> None:
    bare = RedisSettings(url=secure_redis.url.replace("rediss:", "redis:"), timeout_s=2)
    settings = bare if lacking == "tls" else without(lacking, secure_redis.settings, foreign, tmp_path)
    assert outcome_of_a_save(secure_redis.settings) == "saved"
    assert outcome_of_a_save(settings) == "failed"
    assert re.search(reason, caplog.text)
    assert "guessed" not in caplog.text


def test_redis_user_may_do_nothing_but_keep_checkpoints(secure_redis: SecureRedis) -> None:
    settings = secure_redis.settings
    with redis.Redis.from_url(
        settings.url,
        password=Path(settings.password_path).read_text().strip(),
        ssl_ca_certs=settings.tls_ca_path,
        ssl_certfile=settings.tls_cert_path,
        ssl_keyfile=settings.tls_key_path,
    ) as client:
        assert client.ping()
        for forbidden in (client.flushall, client.config_get, lambda: client.set("other", "1")):
            with pytest.raises(redis.exceptions.NoPermissionError):
                forbidden()


@pytest.mark.parametrize("lacking", ["certificate", "vouched certificate", "trust", "tls"])
def test_the_gateway_serves_nobody_who_lacks_something(
    settings: Settings, gateway: RunningGateway, foreign: Authority, lacking: str
) -> None:
    stranger = foreign.issue("stranger")
    ours = settings.client
    theirs = {
        "certificate": changed(ours, tls_cert_path="", tls_key_path=""),
        "vouched certificate": changed(
            ours, tls_cert_path=stranger.cert_path, tls_key_path=stranger.key_path
        ),
        "trust": changed(ours, tls_ca_path=foreign.ca_path),
        "tls": ClientSettings(),
    }[lacking]
    with Client(gateway.address, settings=ours) as client:
        client.list_streams()
    with Client(gateway.address, timeout_s=5, settings=theirs) as client, pytest.raises(ClientError) as told:
        client.list_streams()
    assert told.value.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


def test_the_command_takes_certificates_as_options_and_as_settings(
    settings: Settings, gateway: RunningGateway
) -> None:
    ours = settings.client
    options = ["--tls-ca", ours.tls_ca_path, "--tls-cert", ours.tls_cert_path, "--tls-key", ours.tls_key_path]
    bare = {name: value for name, value in os.environ.items() if not name.startswith("STREAMO_")}

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = "from services.cli.main import main; main()"
        return subprocess.run(
            [sys.executable, "-c", command, *arguments, "stream", "list", "--gateway", gateway.address],
            env={**bare, **environment},
            capture_output=True,
            text=True,
            timeout=WAIT_S,
        )

    assert run(*options).returncode == 0
    only_client = Settings(client=ours).environment()
    assert set(only_client) == {f"STREAMO_CLIENT__TLS_{name}_PATH" for name in ("CA", "CERT", "KEY")}
    assert run(**only_client).returncode == 0
    untrusted = run(*options[:2])
    assert untrusted.returncode == 1
    assert untrusted.stderr.startswith("Error: no gateway at")


def test_health_is_told_without_tls_on_a_port_of_its_own_and_nothing_else(
    settings: Settings, gateway: RunningGateway
) -> None:
    assert not gateway_serves(gateway.address, 2)
    address = f"127.0.0.1:{settings.gateway.health_port}"
    assert gateway_serves(address, WAIT_S)
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as told:
        stream_pb2_grpc.StreamServiceStub(channel).ListStreams(
            stream_pb2.ListStreamsRequest(), timeout=WAIT_S
        )
    assert told.value.code() == grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("field", ["tls_cert_path", "tls_key_path", "tls_client_ca_path"])
def test_a_gateway_with_a_missing_file_does_not_start(settings: Settings, tmp_path: Path, field: str) -> None:
    missing = str(tmp_path / "missing.pem")
    broken = settings.model_copy(
        update={"gateway": changed(settings.gateway, health_port=0, **{field: missing})}
    )
    with (
        pytest.raises(InvalidInput, match=f"gateway.{field}: {missing} cannot be read"),
        RunningGateway(broken),
    ):
        pass


def changed(settings: Any, **values: object) -> Any:
    return type(settings).model_validate({**settings.model_dump(), **values})


def without(lacking: str, settings: Any, foreign: Authority, tmp_path: Path) -> Any:
    """Settings of somebody who lacks the right password, a certificate, or trust in ours."""
    theirs: dict[str, dict[str, str]] = {
        "password": {"password_path": write_secret(tmp_path / "password", "guessed")},
        "certificate": {"tls_cert_path": "", "tls_key_path": ""},
        "trust": {"tls_ca_path": foreign.ca_path},
    }
    return changed(settings, **theirs[lacking])


def outcome_of_a_save(settings: RedisSettings) -> str:
    counted: list[str] = []
    store = CheckpointStore(settings, "outcome-", 60, lambda outcome, _: counted.append(outcome))
    checkpoint = Checkpoint()
    checkpoint.state.stream_id = "a"
    store.save([checkpoint])
    try:
        return poll_until(lambda: counted and counted[0], WAIT_S, "a saved checkpoint, or a failed one")
    finally:
        store.close()
