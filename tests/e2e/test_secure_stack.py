"""The whole of it with TLS, certificates and passwords wherever something goes over a network."""

import secrets
from pathlib import Path

import pytest
from support.authority import Authority
from support.secure_parts import SecureBroker, SecureRedis
from support.waiting import poll_until

from services.cli.client import Client, ClientError
from services.local.local_stack import LocalStack
from services.shared.checkpoints import CheckpointStore
from services.shared.settings import ClientSettings, GatewaySettings, Settings
from streamo.v1.event_pb2 import EventKind
from streamo.v1.task_pb2 import Task


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_camera_s_events_reach_a_client_with_a_certificate_and_nobody_else(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ours")
    password = secrets.token_urlsafe(16)
    gateway, us = authority.issue("gateway"), authority.issue("us")
    settings = Settings(
        gateway=GatewaySettings(
            port=0,
            tls_cert_path=gateway.cert_path,
            tls_key_path=gateway.key_path,
            tls_client_ca_path=authority.ca_path,
        ),
        client=ClientSettings(
            tls_ca_path=authority.ca_path, tls_cert_path=us.cert_path, tls_key_path=us.key_path
        ),
    )
    stack = LocalStack(
        tmp_path / "stack",
        settings,
        broker=SecureBroker(tmp_path / "kafka", authority, password),
        redis=SecureRedis(tmp_path / "redis", authority, password),
    )
    with stack:
        cameras = stack.start_cameras(["--port", "0", "--streams", "gate=21"])
        with Client(stack.gateway_address, timeout_s=30, settings=stack.settings.client) as client:
            client.add_stream("gate", cameras.cameras[0].url)
            client.add_watch("gate", "story", Task.TASK_NARRATION, "Tell me what happens.")

            def told() -> bool:
                events = [event for page in client.get_events(page_size=1000) for event in page.events]
                kinds = {EventKind.Name(event.kind) for event in events if event.watch_id == "story"}
                return {"EVENT_KIND_STARTED", "EVENT_KIND_ANSWER"} <= kinds

            poll_until(told, 300, "the watch to start, and the model to speak")
        store = CheckpointStore(
            stack.settings.redis, stack.settings.kafka.prefix, 60, lambda outcome, count: None
        )
        poll_until(lambda: store.load(["gate"]), 60, "a checkpoint in Redis")
        store.close()
        stranger = ClientSettings(tls_ca_path=authority.ca_path)
        with Client(stack.gateway_address, settings=stranger) as client, pytest.raises(ClientError):
            client.list_streams()
    for log in (tmp_path / "stack").rglob("*.log"):
        assert password not in log.read_text(errors="replace"), log
    assert password not in (tmp_path / "kafka" / "kafka.log").read_text(errors="replace")
