"""The replica's loop over a consumer that follows a script; the rest is tested on a real broker."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
from kafka import ConsumerRebalanceListener, TopicPartition
from kafka.errors import OffsetOutOfRangeError
from kafka.structs import ConsumerGroupMetadata
from support.counting_telemetry import CountingTelemetry
from support.llm_world import Logs, MemoryCommitter
from support.scripted_engine import WINDOW_ROUNDS, ScriptedDialogue, ScriptedEncoder, ScriptedEngine

import services.llm.assignment
import services.llm.replica
from models.vlm.frame_size import FrameBudget
from services.llm.frame_reader import FrameReader
from services.llm.parts import Parts
from services.llm.recovery import Standing, Takeover
from services.llm.replica import Replica
from services.shared.control_log import ControlView
from services.shared.settings import Settings
from services.shared.topics import Topics

PARTITIONS = [TopicPartition("frames", number) for number in (0, 1)]


class Consumer:
    """Is assigned both partitions; `begins` says what retention has left of each. Nothing is ever to be read."""

    def __init__(self, listener: ConsumerRebalanceListener) -> None:
        self.begins = dict.fromkeys(PARTITIONS, 0)
        self.positions: dict[TopicPartition, int] = {}
        self.reading: set[TopicPartition] = set()
        self._fetcher = SimpleNamespace(_next_partition_records=None)
        self._listener = listener

    def poll(self, timeout_ms: int, max_records: int) -> dict[TopicPartition, list[Any]]:
        time.sleep(0.001)
        if not self.positions:
            self._listener.on_partitions_assigned(PARTITIONS)
        for found in sorted(self.reading):
            if self.positions[found] < self.begins[found]:
                raise OffsetOutOfRangeError({found: self.positions[found]})
        return {}

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self.positions[partition] = offset

    def pause(self, partition: TopicPartition) -> None:
        self.reading.discard(partition)

    def resume(self, partition: TopicPartition) -> None:
        self.reading.add(partition)

    def highwater(self, partition: TopicPartition) -> int:
        return 100

    def group_metadata(self) -> ConsumerGroupMetadata:
        return ConsumerGroupMetadata("llm", 1, "member", None)

    def close(self, **_: object) -> None:
        pass


class Scene:
    """A replica whose takeovers begin where retention has left the partitions."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.taken_over: list[int] = []
        self.exit_codes: list[int] = []
        self.consumer: Consumer | None = None
        nothing = SimpleNamespace(
            view=ControlView(),
            save=lambda _: None,
            load=lambda *_: None,
            start=lambda: None,
            stop=lambda _: None,
            close=lambda *_: None,
        )
        replaced: dict[str, Any] = {
            "cluster_id": lambda _: "cluster",
            "ControlReader": lambda *_, **__: nothing,
            "CheckpointStore": lambda *_: nothing,
            "PictureReader": lambda *_: nothing,
            "Recovery": lambda settings, number, *_: SimpleNamespace(
                run=lambda is_wanted: self._take_over(number)
            ),
            "Committer": lambda *_: MemoryCommitter(Logs()),
        }
        for name, value in replaced.items():
            monkeypatch.setattr(services.llm.replica, name, value)
        monkeypatch.setattr(Topics, "create", lambda *_: None)
        monkeypatch.setattr(services.llm.assignment, "member", self._join)
        settings = Settings()
        parts = Parts(
            ScriptedEngine(),
            ScriptedEncoder(),
            CountingTelemetry("llm"),
            settings.llm,
            ScriptedDialogue(),
            WINDOW_ROUNDS,
            lambda: time.time_ns() // 1000,
            time.monotonic,
        )
        reader = FrameReader(FrameBudget(min_pixels=784, max_pixels=784))
        self.replica = Replica(settings, parts, reader, exit_process=self.exit_codes.append)

    def _join(
        self, settings: object, group: str, topic: str, listener: ConsumerRebalanceListener, *_: object
    ) -> Consumer:
        self.consumer = Consumer(listener)
        return self.consumer

    def _take_over(self, number: int) -> Takeover:
        assert self.consumer is not None
        self.taken_over.append(number)
        next_offset = self.consumer.begins[PARTITIONS[number]]
        standing = Standing(next_offset, is_expired=next_offset > 0, events_end=0, states={}, windows={})
        return Takeover(number, SimpleNamespace(close=lambda **_: None), standing, ControlView())


def test_a_partition_that_retention_has_passed_is_taken_over_anew_and_harms_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = Scene(monkeypatch)
    read_meanwhile = []
    poll = Consumer.poll

    def follow(consumer: Consumer, timeout_ms: int, max_records: int) -> dict[TopicPartition, list[Any]]:
        if len(consumer.reading) == 2 and scene.replica.num_partitions == 2:
            if consumer.begins[PARTITIONS[1]] == 0:
                consumer.begins[PARTITIONS[1]] = 9
            else:
                scene.replica.stop(timeout_s=0)
                return {}
        read_meanwhile.append(PARTITIONS[0] in consumer.reading)
        return poll(consumer, timeout_ms, max_records)

    monkeypatch.setattr(Consumer, "poll", follow)
    scene.replica.run()
    assert scene.exit_codes == []
    assert sorted(scene.taken_over) == [0, 1, 1]
    assert scene.taken_over[-1] == 1
    assert scene.consumer is not None
    assert scene.consumer.positions == {PARTITIONS[0]: 0, PARTITIONS[1]: 9}
    assert all(read_meanwhile[read_meanwhile.index(True) :])
