"""The replica's loop over a consumer that follows a script; the rest is tested on a real broker."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise, repeat
from types import SimpleNamespace
from typing import Any

import pytest
from kafka import ConsumerRebalanceListener, TopicPartition
from kafka.errors import KafkaError, OffsetOutOfRangeError
from kafka.structs import ConsumerGroupMetadata
from support.counting_telemetry import CountingTelemetry
from support.llm_world import Logs, MemoryCommitter
from support.scripted_engine import WINDOW_ROUNDS, ScriptedDialogue, ScriptedEncoder, ScriptedEngine

import services.llm.assignment
import services.llm.replica
from models.vlm.frame_size import FrameBudget
from services.llm.committer import Aborted, CommitFailed, Committed
from services.llm.frame_reader import FrameReader
from services.llm.parts import Parts
from services.llm.recovery import Standing, Takeover
from services.llm.replica import Replica
from services.shared.control_log import ControlView
from services.shared.settings import KafkaSettings, Settings
from services.shared.topics import Topics, partition_of
from streamo.v1.frame_pb2 import FrameRecord, SourceStatus

PARTITIONS = [TopicPartition("frames", number) for number in (0, 1)]


class Consumer:
    """Is assigned both partitions; `begins` says what retention has left of each. A poll reads a record of each."""

    def __init__(
        self,
        listener: ConsumerRebalanceListener,
        records: Mapping[TopicPartition, Sequence[SimpleNamespace]],
        before_poll: Callable[[], None],
    ) -> None:
        self.begins = dict.fromkeys(PARTITIONS, 0)
        self._records = records
        self._before_poll = before_poll
        self.positions: dict[TopicPartition, int] = {}
        self.reading: set[TopicPartition] = set()
        self._fetcher = SimpleNamespace(_next_partition_records=None)
        self._listener = listener

    def poll(self, timeout_ms: int, max_records: int) -> dict[TopicPartition, list[Any]]:
        time.sleep(0.001)
        self._before_poll()
        if not self.positions:
            self._listener.on_partitions_assigned(PARTITIONS)
        for found in sorted(self.reading):
            if self.positions[found] < self.begins[found]:
                raise OffsetOutOfRangeError({found: self.positions[found]})
        return {found: records for found in sorted(self.reading) if (records := self._next(found))}

    def _next(self, found: TopicPartition) -> list[SimpleNamespace]:
        offset = self.positions[found]
        records = self._records[found][offset : offset + 1]
        self.positions[found] += len(records)
        return records

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
        self.records: dict[TopicPartition, list[SimpleNamespace]] = {found: [] for found in PARTITIONS}
        self._script: Iterator[None] = repeat(None)
        self.committers: list[MemoryCommitter] = []
        self.committer = MemoryCommitter
        self.now_s = 0.0
        self.control = nothing = SimpleNamespace(
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
            "Committer": lambda *_: self._commit_by(self.committer(Logs())),
        }
        for name, value in replaced.items():
            monkeypatch.setattr(services.llm.replica, name, value)
        monkeypatch.setattr(Topics, "create", lambda *_: None)
        monkeypatch.setattr(services.llm.assignment, "member", self._join)
        settings = Settings(kafka=KafkaSettings(partitions=len(PARTITIONS)))
        parts = Parts(
            ScriptedEngine(),
            ScriptedEncoder(),
            CountingTelemetry("llm"),
            settings.llm,
            ScriptedDialogue(),
            WINDOW_ROUNDS,
            lambda: time.time_ns() // 1000,
            lambda: self.now_s,
        )
        reader = FrameReader(FrameBudget(min_pixels=784, max_pixels=784))
        self.replica = Replica(settings, parts, reader, exit_process=self.exit_codes.append)

    def run(self, script: Iterator[None]) -> None:
        """Goes on in `script` before each poll; when that ends, so does the replica."""
        self._script = script
        self.replica.run()

    def taken(self) -> Iterator[None]:
        """Until both partitions are taken over."""
        while self.consumer is None or len(self.consumer.reading) < 2:
            yield

    def _go_on(self) -> None:
        if next(self._script, self) is self:
            self.replica.stop(timeout_s=0)

    def _commit_by(self, committer: MemoryCommitter) -> MemoryCommitter:
        self.committers.append(committer)
        return committer

    def _join(
        self, settings: object, group: str, topic: str, listener: ConsumerRebalanceListener, *_: object
    ) -> Consumer:
        self.consumer = Consumer(listener, self.records, self._go_on)
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
        if len(consumer.reading) == 2:
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


class Fenced(MemoryCommitter):
    def take_result(self) -> Committed | Aborted | None:
        if self.given is not None:
            raise CommitFailed("fenced")
        return super().take_result()


def unreadable(offset: int) -> SimpleNamespace:
    """It is committed to `quarantine` at once."""
    return SimpleNamespace(offset=offset, key=b"gate", value=None, headers=[])


def status(stream_id: str, offset: int, epoch: int) -> SimpleNamespace:
    """It waits until `control` has been read to `epoch`."""
    record = FrameRecord(stream_id=stream_id, epoch=epoch, status=SourceStatus())
    return SimpleNamespace(
        offset=offset, key=stream_id.encode(), value=record.SerializeToString(), headers=[]
    )


def test_a_commit_that_never_ends_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch)
    exit_codes = []

    def script() -> Iterator[None]:
        yield from scene.taken()
        scene.records[PARTITIONS[0]].append(unreadable(0))
        while all(committer.is_idle for committer in scene.committers):
            yield
        for passed_s in (9.9, 0.2):
            scene.now_s += passed_s
            yield from [None] * 5
            exit_codes.append([*scene.exit_codes])

    scene.run(script())
    assert exit_codes == [[]]  # it was still well within the time, and gone after
    assert scene.exit_codes == [70]


def test_a_commit_that_failed_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch)
    scene.committer = Fenced

    def script() -> Iterator[None]:
        yield from scene.taken()
        scene.records[PARTITIONS[0]].append(unreadable(0))
        yield from [None] * 20

    scene.run(script())
    assert scene.exit_codes == [70]
    assert isinstance(scene.replica.failure, CommitFailed)


def test_a_takeover_that_fails_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch)
    error = KafkaError("no coordinator")

    def take_over(number: int) -> Takeover:
        raise error

    monkeypatch.setattr(scene, "_take_over", take_over)
    scene.run(scene.taken())
    assert scene.exit_codes == [70]
    assert scene.replica.failure is error


def test_an_error_in_a_rebalance_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch)
    error = KafkaError("the listener failed")

    def script() -> Iterator[None]:
        yield from scene.taken()
        raise error

    scene.run(script())
    assert scene.exit_codes == [70]
    assert scene.replica.failure is error


def test_a_partition_of_which_too_much_waits_is_not_read_on_until_half_of_it_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(services.llm.replica, "_MAX_WAITING", 4)
    scene = Scene(monkeypatch)
    assert [partition_of(stream_id, 2) for stream_id in ("gate", "yard")] == [0, 1]
    held, other = PARTITIONS
    scene.records[held] = [status("gate", offset, epoch) for offset, epoch in enumerate([1, 2, *[3] * 20])]
    scene.records[other] = [status("yard", offset, epoch=0) for offset in range(100)]
    read: list[tuple[int, int]] = []

    def script() -> Iterator[None]:
        scene.control.view = ControlView(next_offset=1)
        yield from scene.taken()
        assert scene.consumer is not None
        for next_offset in (1, 2, 3):
            scene.control.view = ControlView(next_offset=next_offset)
            yield from [None] * 10
            read.append((scene.consumer.positions[held], scene.consumer.positions[other]))

    scene.run(script())
    assert scene.exit_codes == []
    # Four wait, then three, then two and with them two more.
    assert [offset for offset, _ in read] == [4, 4, 6]
    assert [after - before for (_, before), (_, after) in pairwise(read)] == [10, 10]
