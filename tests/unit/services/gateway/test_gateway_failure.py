"""A gateway that cannot follow Kafka's logs any more ends, so that another one takes its place. Kafka is replaced."""

import asyncio
import time
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Self

import pytest
from kafka import TopicPartition
from kafka.errors import TopicAuthorizationFailedError

from services.gateway import event_log, server
from services.gateway.__main__ import serve
from services.shared.control_log import ControlView
from services.shared.errors import Unavailable
from services.shared.settings import GatewaySettings, Settings
from services.shared.telemetry import Telemetry
from services.shared.topics import Topics

TIMEOUT_S = 10.0


class Kafka:
    """Empty topics, as `control` and as a consumer of the others; `broken` has the names of those that fail."""

    def __init__(self) -> None:
        self.broken: set[str] = set()

    @property
    def view(self) -> ControlView:
        if "control" in self.broken:
            raise Unavailable("control cannot be followed")
        return ControlView()

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def close(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def beginning_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, 0)

    end_offsets = beginning_offsets

    def seek(self, partition: TopicPartition, offset: int) -> None:
        pass

    def seek_to_beginning(self, *partitions: TopicPartition) -> None:
        pass

    def position(self, partition: TopicPartition, timeout_ms: int = 0) -> int:
        return 0

    def poll(self, timeout_ms: int) -> dict[TopicPartition, list[object]]:
        if "events" in self.broken:
            raise TopicAuthorizationFailedError()
        time.sleep(0.01)
        return {}


@pytest.mark.parametrize("topic", ["events", "control"])
def test_a_gateway_that_cannot_follow_a_log_any_more_ends(
    monkeypatch: pytest.MonkeyPatch, topic: str
) -> None:
    kafka = Kafka()
    monkeypatch.setattr(Topics, "create", lambda *_: None)
    monkeypatch.setattr(server, "cluster_id", lambda _: "cluster")
    for module, names in (
        (server, ("ControlReader", "ControlWriter", "History")),
        (event_log, ("reader", "KafkaConsumer")),
    ):
        for name in names:
            monkeypatch.setattr(module, name, lambda *_, **__: kafka)
    deadline_s = time.monotonic() + TIMEOUT_S

    def wait(seconds: float) -> bool:
        kafka.broken.add(topic)  # it serves by now
        time.sleep(0.05)
        return time.monotonic() > deadline_s

    settings = Settings(gateway=GatewaySettings(port=0))
    telemetry = Telemetry("gateway", settings.telemetry)
    assert not asyncio.run(serve(settings, telemetry, SimpleNamespace(wait=wait)))
