"""The promise, on a real Kafka and Redis, with replicas as plain processes that are killed, stopped and replaced."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from support.llm_bench import Bench
from support.llm_replica import LINGERS, ReplicaProcess
from support.promise import StreamRecords, violations
from support.scripted_engine import BAD, picture
from support.waiting import poll_until

from models.data.place.layout import PLACE_HEIGHT, PLACE_WIDTH
from models.data.place.simulated import make_sample
from models.vlm.frame_size import FrameBudget
from models.vlm.state import State
from services.llm.replica import EXIT_CODE
from services.local.kafka_broker import KafkaBroker
from services.local.redis_server import RedisServer
from services.shared.control_log import watch_key
from services.shared.settings import LlmSettings, RedisSettings, Settings
from services.shared.topics import partition_of
from streamo.v1.event_pb2 import Event, EventKind, Reason
from streamo.v1.task_pb2 import Task

Start = Callable[..., ReplicaProcess]

WAIT_S = 60.0

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
        print(f"--- {replica.log_path.name}\n{replica.log()[-6000:]}")


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
            self.bench.send_frame(
                self.stream_id, self.epoch, self.sent, picture(state, steps, self.sent % 250)
            )
            self.sent += 1
        self.bench.flush()

    def is_done(self) -> bool:
        watches = self.bench.state(self.stream_id).watches
        return len(watches) == 2 and all(
            (w.next_frame.epoch, w.next_frame.frame_seq) == (self.epoch, self.sent) for w in watches
        )

    def wait(self, timeout_s: float = 60) -> None:
        poll_until(self.is_done, timeout_s, f"all frames of {self.stream_id} decided")

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


@pytest.fixture
def cameras(bench: Bench) -> list[Camera]:
    """Three streams over both partitions."""
    cameras = [Camera(bench, stream_id) for stream_id in ("north", "gate", "yard")]
    assert {partition_of(camera.stream_id, 2) for camera in cameras} == {0, 1}
    return cameras


def num_events(bench: Bench, cameras: list[Camera]) -> int:
    return sum(len(bench.events(camera.stream_id)) for camera in cameras)


def finish(cameras: list[Camera]) -> None:
    for camera in cameras:
        camera.send(5)
    for camera in cameras:
        camera.wait()
        camera.check()


def test_a_clean_run_keeps_the_promise(cameras: list[Camera], start: Start) -> None:
    replica = start()
    for camera in cameras:
        camera.send(30)
    finish(cameras)
    assert replica.stop() == 0


def test_the_promise_holds_over_kills_at_any_moment(
    bench: Bench, cameras: list[Camera], start: Start
) -> None:
    chance = random.Random(7)
    for _ in range(4):
        replica = start(step_ms=5)
        before = num_events(bench, cameras)
        for camera in cameras:
            camera.send(25)
        poll_until(lambda n=before: num_events(bench, cameras) > n, WAIT_S, "the replica goes on")
        time.sleep(chance.uniform(0, 0.4))  # the moment of the kill, not a synchronisation
        replica.kill()
    start()
    finish(cameras)


@pytest.mark.parametrize("step", ["before begin", "begun", "records sent", "offsets sent", "committed"])
def test_the_promise_holds_over_a_kill_at_each_step_of_a_commit(
    cameras: list[Camera], start: Start, step: str
) -> None:
    replica = start(fail_at=f"{step}:4", step_ms=3)
    for camera in cameras:
        camera.send(25)
    poll_until(lambda: not replica.is_running, WAIT_S, "the replica dies")
    assert replica.process.returncode == -signal.SIGKILL
    start()
    finish(cameras)


def test_a_zombie_is_fenced(cameras: list[Camera], start: Start, llm_settings: Settings) -> None:
    """It sleeps for longer than its session, in the middle of a commit that lacks nothing but its end; another takes
    over; it wakes and goes on with what it had: nothing of it is committed any more."""
    patient = llm_settings.llm.model_copy(update={"commit_timeout_s": 60})
    zombie = start(llm_settings.model_copy(update={"llm": patient}), linger_at="offsets sent:4", step_ms=3)
    for camera in cameras:
        camera.send(100)  # more than it can have decided by then
    poll_until(lambda: LINGERS in zombie.log(), WAIT_S, "a transaction is open")
    zombie.signal(signal.SIGSTOP)
    start(step_ms=3)
    for camera in cameras:
        camera.send(20)
    for camera in cameras:
        camera.wait()
    zombie.signal(signal.SIGCONT)
    poll_until(lambda: not zombie.is_running, WAIT_S, "the zombie's next commit is refused, and it ends")
    assert zombie.process.returncode == EXIT_CODE
    assert "ProducerFencedError" in zombie.log()
    finish(cameras)


def test_the_promise_holds_over_a_kill_of_the_broker(
    bench: Bench, broker: KafkaBroker, cameras: list[Camera], start: Start, llm_settings: Settings
) -> None:
    """Nobody starts a replica again here: it has to outlive the broker, with a transaction that is open meanwhile
    for longer than one may usually be."""
    patient = llm_settings.llm.model_copy(update={"commit_timeout_s": 60})
    replica = start(llm_settings.model_copy(update={"llm": patient}), linger_at="offsets sent:4", step_ms=3)
    for camera in cameras:
        camera.send(40)
    poll_until(lambda: LINGERS in replica.log(), WAIT_S, "a transaction is open")
    broker.kill()
    broker.start()
    finish(cameras)
    assert replica.is_running


@pytest.mark.parametrize("fate", ["gone", "empty", "stale"])
def test_redis_costs_time_but_never_content(
    bench: Bench,
    cameras: list[Camera],
    start: Start,
    llm_settings: Settings,
    redis_server: RedisServer,
    fate: str,
) -> None:
    replica = start()
    for camera in cameras:
        camera.send(20)
    for camera in cameras:
        camera.wait()
    kept = {}
    with redis.Redis.from_url(redis_server.url) as client:
        poll_until(
            lambda: len(client.keys(f"{llm_settings.kafka.prefix}*")) == 3, WAIT_S, "checkpoints are written"
        )
        if fate == "stale":
            kept = {key: client.get(key) for key in client.scan_iter()}
            for camera in cameras:
                camera.send(13)
            for camera in cameras:
                camera.wait()
        replica.kill()
        client.flushall()
        client.mset(kept) if kept else None
    settings = llm_settings
    if fate == "gone":
        unused = RedisSettings(url="redis://127.0.0.1:1/0", timeout_s=0.2)
        settings = llm_settings.model_copy(update={"redis": unused})
    start(settings)
    finish(cameras)


@pytest.mark.timeout(400)
def test_the_real_engine_goes_on_after_a_kill(bench: Bench, start: Start, llm_settings: Settings) -> None:
    """The shipped checkpoint on the simulated place: windows are replayed in it, whatever it decides."""
    size = FrameBudget.load(llm_settings.model.path).fit(PLACE_HEIGHT, PLACE_WIDTH)
    pictures = make_sample(5, "demo", 40, size).frames
    bench.add_stream("gate")
    for watch_id, task in (("events", Task.TASK_EVENT), ("all", Task.TASK_NARRATION)):
        bench.add_watch("gate", watch_id, task, "Report cars.")
    epoch = bench.begin_epoch("gate")

    def send(numbers: range) -> None:
        for number in numbers:
            bench.send_frame("gate", epoch, number, pictures[number % len(pictures)])
        bench.flush()

    def is_decided(number: int) -> bool:
        watches = bench.state("gate").watches
        return len(watches) == 2 and all(watch.next_frame.frame_seq >= number for watch in watches)

    replica = start(real=True)
    send(range(45))
    poll_until(lambda: is_decided(40), 150, "the window is full")
    replica.kill()
    second = start(real=True)
    send(range(45, 60))
    poll_until(lambda: is_decided(60), 150, "all frames decided")
    assert violations(bench.records("gate")) == []
    assert "empty window" not in second.log()
    assert "nowhere to be found" not in second.log()


def test_partitions_move_to_a_second_replica_and_back(
    bench: Bench, cameras: list[Camera], start: Start
) -> None:
    first = start(step_ms=2)
    for camera in cameras:
        camera.send(15)
    poll_until(lambda: num_events(bench, cameras) > 5, WAIT_S, "the first one goes on")
    second = start(step_ms=2)
    poll_until(lambda: "taken over" in second.log(), WAIT_S, "the second one owns a partition")
    for camera in cameras:
        camera.send(15)
    for camera in cameras:
        camera.wait()
    assert second.stop() == 0
    for camera in cameras:
        camera.send(15)
    finish(cameras)
    assert first.is_running
    assert first.stop() == 0


def test_what_cannot_be_read_is_quarantined_and_named(bench: Bench, start: Start) -> None:
    camera = Camera(bench, "gate")
    start()
    camera.send(4)
    bench.send_raw("gate", b"\xff\xff\xff")
    camera.sent += 1
    bench.send_frame("gate", camera.epoch, camera.sent, data=b"short")
    camera.sent += 1
    camera.send(4)
    camera.wait()
    records = bench.records("gate")
    assert (
        violations(StreamRecords(records.frames[:4] + records.frames[5:], records.events, records.state))
        == []
    )
    gaps = [event for event in records.events if event.kind == EventKind.EVENT_KIND_GAP]
    assert [(gap.reason, gap.gap.first.frame_seq, gap.gap.last.frame_seq) for gap in gaps] == [
        (Reason.REASON_UNREADABLE, 4, 4),
        (Reason.REASON_UNREADABLE, 5, 5),
    ]
    assert next(value for _, value in bench.read(bench.topics.quarantine, 0)) == b"\xff\xff\xff"


def test_a_watch_with_bad_logits_is_told_of_itself_only(bench: Bench, start: Start) -> None:
    for stream_id in ("gate", "yard"):
        bench.add_stream(stream_id)
        bench.add_watch(stream_id, "cars")
        bench.send_frame(stream_id, bench.begin_epoch(stream_id), 0, picture(SILENCE, 0, BAD))
    bench.flush()
    replica = start()

    def ended() -> list[Event]:
        return [e for e in bench.events("gate") + bench.events("yard") if e.reason == Reason.REASON_REFUSED]

    poll_until(lambda: len(ended()) == 2, WAIT_S, "both watches have ended")
    for event in ended():
        assert event.kind == EventKind.EVENT_KIND_ENDED
        assert "not finite" in event.detail
        assert "gate" not in event.detail and "yard" not in event.detail
        assert f"{event.stream_id}/cars/{event.watch_version}" in replica.log()
    assert replica.is_running


def test_an_ask_ends_with_its_answer_or_its_time(bench: Bench, start: Start) -> None:
    bench.add_stream("gate")
    hour_us = 3_600_000_000
    now_us = time.time_ns() // 1000
    bench.add_watch("gate", "asked", Task.TASK_QA, "How many?", once=True, expires_at_us=now_us + hour_us)
    bench.add_watch("gate", "late", Task.TASK_QA, "Who?", once=True, expires_at_us=now_us + 1)
    epoch = bench.begin_epoch("gate")
    start()
    for number, state in enumerate((SILENCE, RESPONSE, RESPONSE)):
        bench.send_frame("gate", epoch, number, picture(state, 1, number))
    bench.flush()
    poll_until(
        lambda: sum(e.kind == EventKind.EVENT_KIND_ENDED for e in bench.events("gate")) == 2,
        WAIT_S,
        "both asks have ended",
    )
    told = {(event.watch_id, event.kind, event.reason) for event in bench.events("gate")}
    assert ("asked", EventKind.EVENT_KIND_ENDED, Reason.REASON_ANSWERED) in told
    assert ("late", EventKind.EVENT_KIND_ENDED, Reason.REASON_TIMED_OUT) in told
    answers = [event for event in bench.events("gate") if event.kind == EventKind.EVENT_KIND_ANSWER]
    assert [(event.watch_id, event.text) for event in answers] == [("asked", "number 1")]
    control = dict(bench.read(bench.topics.control, 0))
    assert control[watch_key("gate", "asked")] is None
    assert control[watch_key("gate", "late")] is None
