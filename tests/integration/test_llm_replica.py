"""The promise, on a real Kafka and Redis, with replicas as plain processes that are killed, stopped and replaced."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.llm_bench import Bench, eventually
from support.llm_replica import ReplicaProcess
from support.promise import violations
from support.scripted_engine import picture

from models.vlm.state import State
from services.shared.settings import LlmSettings, Settings
from streamo.v1.event_pb2 import EventKind
from streamo.v1.task_pb2 import Task

Start = Callable[..., ReplicaProcess]

SILENCE, STANDBY, RESPONSE = State.SILENCE, State.STANDBY, State.RESPONSE
# Ends silent, so that nothing stays open.
SCRIPT = (SILENCE, STANDBY, STANDBY, RESPONSE, SILENCE, STANDBY, SILENCE, RESPONSE, RESPONSE, SILENCE)


@pytest.fixture
def llm_settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"llm": LlmSettings(session_timeout_s=3, commit_timeout_s=5)})


@pytest.fixture
def bench(llm_settings: Settings) -> Iterator[Bench]:
    bench = Bench(llm_settings.kafka)
    yield bench
    bench.close()


@pytest.fixture
def start(llm_settings: Settings, tmp_path: Path) -> Iterator[Start]:
    running: list[ReplicaProcess] = []

    def start(settings: Settings = llm_settings, **options: object) -> ReplicaProcess:
        replica = ReplicaProcess(settings, tmp_path / f"replica-{len(running)}.log", **options)  # type: ignore[arg-type]
        running.append(replica)
        return replica

    yield start
    for replica in running:
        if replica.is_running:
            replica.kill()
    for replica in running:
        print(f"--- {replica.log_path.name}\n{replica.log()[-4000:]}")


class Camera:
    """Sends scripted frames of one stream with a watch of each kind."""

    def __init__(self, bench: Bench, stream_id: str, source: str = "file.mp4") -> None:
        self.bench, self.stream_id, self.sent = bench, stream_id, 0
        bench.add_stream(stream_id, source)
        bench.add_watch(stream_id, "events", Task.TASK_EVENT)
        bench.add_watch(stream_id, "answers", Task.TASK_QA)
        self.epoch = bench.begin_epoch(stream_id)

    def send(self, count: int, steps: int = 2) -> None:
        for _ in range(count):
            state = SCRIPT[self.sent % len(SCRIPT)]
            self.bench.send_frame(self.stream_id, self.epoch, self.sent, picture(state, steps, self.sent % 250))
            self.sent += 1
        self.bench.flush()

    def is_done(self) -> bool:
        watches = self.bench.state(self.stream_id).watches
        return len(watches) == 2 and all(
            (w.next_frame.epoch, w.next_frame.frame_seq) == (self.epoch, self.sent) for w in watches
        )

    def wait(self, timeout_s: float = 60) -> None:
        eventually(f"all frames of {self.stream_id} decided", self.is_done, timeout_s)

    def check(self) -> None:
        records = self.bench.records(self.stream_id)
        assert violations(records) == []
        replies = [event.text for event in records.events if event.text]
        numbers = [n for n in range(self.sent) if SCRIPT[n % len(SCRIPT)] is RESPONSE]
        assert sorted(replies) == sorted(2 * [f"number {number % 250}" for number in numbers])
        opens = [e for e in records.events if e.kind == EventKind.EVENT_KIND_OPEN]
        standbys = [n for n in range(self.sent) if SCRIPT[n % 10] is STANDBY]
        begins = [n for n in standbys if SCRIPT[(n - 1) % 10] is not STANDBY]
        assert [e.frame.frame_seq for e in opens] == begins
        assert not any(e.kind == EventKind.EVENT_KIND_GAP for e in records.events)


def test_a_clean_run_keeps_the_promise(bench: Bench, start: Start) -> None:
    cameras = [Camera(bench, f"cam-{n}") for n in range(3)]
    replica = start()
    for camera in cameras:
        camera.send(30)
    for camera in cameras:
        camera.wait()
        camera.check()
    assert replica.stop() == 0


def test_the_promise_holds_over_kills_at_any_moment(bench: Bench, start: Start) -> None:
    cameras = [Camera(bench, f"cam-{n}") for n in range(3)]
    chance = random.Random(7)
    for _ in range(4):
        replica = start(step_ms=5)
        for camera in cameras:
            camera.send(25)
        before = sum(len(bench.events(camera.stream_id)) for camera in cameras)
        eventually(
            "the replica goes on", lambda n=before: sum(len(bench.events(c.stream_id)) for c in cameras) > n
        )
        time.sleep(chance.uniform(0, 0.4))  # the moment of the kill, not a synchronisation
        replica.kill()
    start()
    for camera in cameras:
        camera.send(5)
        camera.wait(90)
        camera.check()
