"""A bounded number of readers: what those are told whose turn does not come."""

import asyncio
import threading

import pytest
from kafka.errors import KafkaTimeoutError

from services.gateway import history
from services.gateway.history import History
from services.shared.errors import Unavailable
from services.shared.settings import KafkaSettings


class StuckConsumer:
    """Answers nothing until Kafka is back."""

    def __init__(self, is_back: threading.Event) -> None:
        self._is_back = is_back

    def assign(self, _: object) -> None:
        self._is_back.wait(30)
        raise KafkaTimeoutError

    def close(self) -> None:
        pass


def test_a_read_whose_turn_does_not_come_can_be_tried_again_as_the_one_before_it(monkeypatch):
    """RESOURCE_EXHAUSTED would tell a subscriber that it is too slow, and it would not come back."""
    is_back = threading.Event()
    monkeypatch.setattr(history, "reader", lambda *_: StuckConsumer(is_back))
    reads = History(KafkaSettings(), num_readers=1, timeout_s=0.1, clock_us=lambda: 0)

    async def scenario() -> list[object]:
        return await asyncio.gather(reads.read({0: 0}, 10), reads.read({1: 0}, 10), return_exceptions=True)

    first, second = asyncio.run(scenario())
    is_back.set()
    reads.close()
    with pytest.raises(Unavailable, match="Kafka did not answer"):
        raise first
    with pytest.raises(Unavailable, match="all 1 readers of history were busy"):
        raise second
