import asyncio
from types import SimpleNamespace

import pytest
from support.one_partition_log import OnePartitionLog

from services.gateway.event_servicer import EventServicer
from services.gateway.resume_token import TokenIssuer
from services.gateway.subscription import Subscriptions
from services.shared.settings import GatewaySettings, TelemetrySettings
from services.shared.telemetry import Metrics, Telemetry
from streamo.v1.event_pb2 import Event, SubscribeRequest, SubscribeResponse


class Counts(Telemetry):
    """Exports nothing; keeps the attributes of each count."""

    def __init__(self) -> None:
        super().__init__("gateway", TelemetrySettings())
        self.counted: list[tuple[str, dict[str, str]]] = []

    def count(self, declared, amount=1, **attributes):
        self.counted.append((declared[0], attributes))


def test_an_event_of_a_newer_version_is_delivered_and_counted_by_its_numbers():
    log, telemetry = OnePartitionLog(), Counts()
    subscriptions = Subscriptions(log, TokenIssuer("c", "events", 1), GatewaySettings(), telemetry)
    servicer = EventServicer(subscriptions, None, telemetry, lambda: 0)
    sent = []

    async def write(response: SubscribeResponse) -> None:
        sent.append(response.event)
        if len(sent) == 1:  # the bookmark that a subscription begins with
            log.say(Event(stream_id="gate", seq=1, kind=99, task=77))
            log.say(Event(stream_id="gate", seq=2, text="last"))
        if response.event.text == "last":
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(servicer.Subscribe(SubscribeRequest(now=True), SimpleNamespace(write=write)))
    assert [event.seq for event in sent] == [0, 1, 2]
    assert telemetry.counted == [(Metrics.EVENTS_DELIVERED[0], {"kind": "99", "task": "77"})]
