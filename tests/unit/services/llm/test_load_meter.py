"""What a replica says that it has to do, on a clock of the test's own."""

from collections.abc import Callable

import pytest
from support.llm_world import World
from support.scripted_engine import SIZE, ScriptedEngine, picture

from models.engine.engine_stats import EngineStats
from models.vlm.state import State
from services.llm.autoscaling import ReplicaLoad
from services.llm.engine_meter import EngineMeter
from services.llm.load_meter import LoadMeter
from streamo.v1.frame_pb2 import Frame, FrameBatch, FrameRecord, PixelFormat
from streamo.v1.task_pb2 import Task
from streamo.v1.watch_pb2 import Watch

MAX_SESSIONS = 2


class CountingEngine(ScriptedEngine):
    """Each step takes `step_s` of the world's time and feeds 10 tokens, some of them of replays."""

    def __init__(self, pass_time: Callable[[float], None]) -> None:
        super().__init__(MAX_SESSIONS)
        self.counted = EngineStats()
        self.step_s, self.replayed = 0.2, 0
        self._pass_time = pass_time

    @property
    def stats(self) -> EngineStats:
        return self.counted

    def step(self) -> list:
        self._pass_time(self.step_s)
        extended = 10 - self.replayed
        self.counted = self.counted.plus(steps=1, extend_tokens=extended, replay_tokens=self.replayed)
        return super().step()


class Place:
    """One stream in a partition of its own, with a load meter beside it."""

    def __init__(self) -> None:
        self.world = World(engine=lambda: CountingEngine(self.pass_time))
        self.engine: CountingEngine = self.world.engine
        self.world.add_stream("gate")
        self.epoch = self.world.begin_epoch("gate")
        self.seq = 0
        self.engine_meter = EngineMeter(
            self.engine, self.world.parts.telemetry, lambda: self.world.now_us / 1e6
        )
        self.meter = LoadMeter(self.engine_meter, self.world.parts, MAX_SESSIONS)

    def pass_time(self, seconds: float) -> None:
        self.world.now_us += round(seconds * 1e6)

    def watch(self, watch_id: str) -> None:
        self.world.add_watch(
            Watch(stream_id="gate", watch_id=watch_id, task=Task.TASK_EVENT, instruction="cars")
        )

    def frame(self) -> None:
        frame = Frame(
            frame_seq=self.seq,
            media_time_ms=1000 * self.seq,
            captured_at_us=self.world.now_us,
            width=SIZE,
            height=SIZE,
            format=PixelFormat.PIXEL_FORMAT_RGB24,
            data=picture(State.SILENCE).tobytes(),
            num_seen=1,
        )
        self.seq += 1
        self.world.send(FrameRecord(stream_id="gate", epoch=self.epoch, frames=FrameBatch(frames=[frame])))

    def load(self) -> ReplicaLoad:
        self.pass_time(1.0)
        self.meter.measure([self.world.partition])
        return self.meter.load


def test_before_it_owns_anything_a_replica_has_nothing_to_do():
    place = Place()
    place.meter.measure([])
    assert place.meter.load == ReplicaLoad(capacity=MAX_SESSIONS)


def test_watches_that_wait_for_room_count_as_sessions():
    place = Place()
    for watch_id in ("a", "b", "c"):
        place.watch(watch_id)
    place.frame()
    place.world.finish()
    load = place.load()
    assert (load.partitions, load.sessions, load.waiting, load.heaviest_sessions) == (1, 3, 1, 3)


def test_lag_is_the_age_of_the_oldest_frame_to_be_decided():
    place = Place()
    place.watch("a")
    place.frame()
    place.world.finish()
    assert place.load().lag_s == 0
    place.frame()
    place.pass_time(2.0)
    place.frame()
    place.world.receive(2)
    assert place.load().lag_s == pytest.approx(3.0)
    place.world.finish()
    assert place.load().lag_s == 0


def test_room_is_what_the_kv_cache_holds_of_sessions_like_those_that_are_open():
    place = Place()
    place.engine.counted = EngineStats(sessions=1, held_blocks=30, free_blocks=15)
    assert place.load().capacity == 1
    place.engine.counted = EngineStats(sessions=1, held_blocks=10, free_blocks=90)
    assert place.load().capacity == MAX_SESSIONS


def test_utilisation_is_the_share_of_the_last_half_minute_in_steps_without_replays():
    place = Place()
    for _ in range(60):
        place.engine_meter.step()  # 0.2 s
        place.load()  # 1 s
    assert place.load().utilisation == pytest.approx(0.2 / 1.2, abs=0.02)
    place.engine.replayed = 5
    for _ in range(60):
        place.engine_meter.step()
        place.load()
    assert place.load().utilisation == pytest.approx(0.1 / 1.2, abs=0.02)
    for _ in range(60):
        place.load()
    assert place.load().utilisation == 0


def test_it_is_measured_once_a_second():
    place = Place()
    first = place.load()
    place.pass_time(0.5)
    place.meter.measure([])
    assert place.meter.load is first
