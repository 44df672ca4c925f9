"""Reading what was kept, from a broker that is scripted, or dead."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from kafka import TopicPartition
from kafka.errors import KafkaTimeoutError

from services.cli import kept_frames
from services.cli.kept_frames import kept_media_times_ms
from services.shared.errors import TimedOut
from services.shared.settings import KafkaSettings
from streamo.v1.frame_pb2 import Frame, FrameBatch, FrameRecord

SETTINGS = KafkaSettings(partitions=1)


class ScriptedConsumer:
    """Has two records; gives them out where `gives` is set."""

    def __init__(self, gives: bool) -> None:
        self._gives = gives
        self._next = 0

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self._next = offset

    def beginning_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, 0)

    def end_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, 2)

    def position(self, partition: TopicPartition, timeout_ms: int) -> int:
        return self._next

    def poll(self, timeout_ms: int) -> dict[TopicPartition, list[SimpleNamespace]]:
        if not self._gives:
            return {}
        self._next = 2
        times_ms = {"gate": (2000, 1000), "yard": (3000,)}
        records = [
            FrameRecord(stream_id=name, frames=FrameBatch(frames=[Frame(media_time_ms=at) for at in times]))
            for name, times in times_ms.items()
        ]
        return {
            TopicPartition("frames", 0): [SimpleNamespace(value=one.SerializeToString()) for one in records]
        }


def use(monkeypatch: pytest.MonkeyPatch, consumer: ScriptedConsumer | Exception) -> None:
    @contextmanager
    def reader(settings: KafkaSettings, partitions: list[TopicPartition]) -> Iterator[ScriptedConsumer]:
        if isinstance(consumer, Exception):
            raise consumer
        yield consumer

    monkeypatch.setattr(kept_frames, "reader", reader)


def test_the_times_of_one_stream_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, ScriptedConsumer(gives=True))
    assert kept_media_times_ms(SETTINGS, "gate") == [1000, 2000]


@pytest.mark.parametrize("broker", [ScriptedConsumer(gives=False), KafkaTimeoutError("no bootstrap")])
def test_a_broker_that_gives_nothing_more_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch, broker: ScriptedConsumer | Exception
) -> None:
    use(monkeypatch, broker)
    with pytest.raises(TimedOut, match="kept frames of gate"):
        kept_media_times_ms(SETTINGS, "gate", timeout_s=0.01)
