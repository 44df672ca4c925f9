"""More frames than the engine can decide: the real engine, on a clock that only its tokens move."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from opentelemetry.context import Context
from support.llm_world import GROUP, World
from support.promise import violations
from support.scripted_engine import SIZE

from models.engine.config import EngineConfig
from models.engine.engine import Engine
from models.vlm.model import LanguageModel
from services.shared.settings import ModelSettings
from streamo.v1.event_pb2 import EventKind, Reason
from streamo.v1.frame_pb2 import Frame, FrameBatch, FrameRecord, PixelFormat
from streamo.v1.task_pb2 import Task
from streamo.v1.watch_pb2 import Watch

MAX_LAG_S = 3.0
MAX_PENDING_FRAMES = 8
TOKENS_A_SECOND = 300


class NoisyEncoder:
    """Visual tokens that hang on nothing but the picture's number, there at once."""

    def __init__(self, visual_size: int) -> None:
        self._visual_size = visual_size

    def submit(self, pixels: np.ndarray, context: Context) -> Future[torch.Tensor]:
        future: Future[torch.Tensor] = Future()
        noise = np.random.default_rng(int(pixels[0, 0, 0])).standard_normal((1, self._visual_size))
        future.set_result(torch.from_numpy(noise.astype(np.float32)))
        return future


@dataclass
class Camera:
    stream_id: str
    num_watches: int
    period_us: int
    source: str = "rtsp://camera/"
    first_us: int = 0
    epoch: int = 0
    sent: list[FrameRecord] = field(default_factory=list)

    def frame(self, captured_at_us: int) -> FrameRecord:
        number = len(self.sent)
        picture = np.full((SIZE, SIZE, 3), number % 7, dtype=np.uint8)
        frame = Frame(
            frame_seq=number,
            media_time_ms=number * self.period_us // 1000,
            captured_at_us=captured_at_us,
            width=SIZE,
            height=SIZE,
            format=PixelFormat.PIXEL_FORMAT_RGB24,
            data=picture.tobytes(),
        )
        is_recording = not self.source.startswith("rtsp")
        batch = FrameBatch(frames=[frame])
        record = FrameRecord(
            stream_id=self.stream_id, epoch=self.epoch, frames=batch, is_recording=is_recording
        )
        self.sent.append(record)
        return record


class Place:
    """Cameras on one partition, in front of the engine with the embedded model."""

    def __init__(self, model: LanguageModel, cameras: Sequence[Camera]) -> None:
        config = EngineConfig(
            max_sessions=64, max_kv_tokens=60_000, max_batch_tokens=96, window_rounds=4, max_frame_tokens=4
        )
        self.world = World(
            lambda: Engine(model, config),
            NoisyEncoder(model.visual_size),
            model.dialogue,
            4,
            max_lag_s=MAX_LAG_S,
            max_pending_frames=MAX_PENDING_FRAMES,
        )
        self.cameras = cameras
        self.begun_us = self.world.now_us
        self.most_waiting = 0
        self.longest_wait_s = dict.fromkeys((camera.stream_id for camera in cameras), 0.0)
        for camera in cameras:
            self.world.add_stream(camera.stream_id, camera.source)
            camera.epoch = self.world.begin_epoch(camera.stream_id)
            for number in range(camera.num_watches):
                self.world.add_watch(
                    Watch(
                        stream_id=camera.stream_id,
                        watch_id=f"w{number}",
                        task=Task.TASK_EVENT,
                        instruction="Tell me when a car arrives.",
                    )
                )

    def run(self, seconds: float) -> None:
        end_us = self.begun_us + int(seconds * 1e6)
        while self.world.now_us < end_us:
            self._send(end_us)
            self._once()
        while self.world.partition.num_waiting:
            self._once()
        self.world.finish()

    def check(self) -> None:
        """What holds in any case: the promise, and that every frame was decided or named."""
        for camera in self.cameras:
            name = camera.stream_id
            assert violations(self.world.records(name, camera.sent)) == []
            assert self.decided(name) + self.skipped(name) == len(camera.sent)

    def skipped(self, stream_id: str) -> int:
        gaps = [e for e in self.world.events(stream_id) if e.kind == EventKind.EVENT_KIND_GAP]
        assert all(event.reason == Reason.REASON_LAG for event in gaps)
        return sum(event.gap.num_frames for event in gaps)

    def decided(self, stream_id: str) -> int:
        """Frames that every watch decided."""
        state = self.world.state(stream_id)
        return min(watch.rounds_decided for watch in state.watches)

    def _send(self, end_us: int) -> None:
        for camera in self.cameras:
            while (at_us := self.begun_us + camera.first_us + len(camera.sent) * camera.period_us) <= min(
                self.world.now_us, end_us - 1
            ):
                self.world.send(camera.frame(at_us))

    def _once(self) -> None:
        world = self.world
        before = world.engine.stats
        world.receive(64)
        world.advance()
        self.most_waiting = max(self.most_waiting, world.partition.num_waiting)
        world.step()
        after = world.engine.stats
        num_tokens = sum(
            getattr(after, kind) - getattr(before, kind)
            for kind in ("extend_tokens", "decode_tokens", "replay_tokens")
        )
        world.now_us += max(1000, int(num_tokens / TOKENS_A_SECOND * 1e6))
        for stream, session in world.partition.sessions().values():
            camera = next(camera for camera in self.cameras if camera.stream_id == stream.stream_id)
            if session.next_frame.frame_seq < len(camera.sent):
                captured_at_us = camera.sent[session.next_frame.frame_seq].frames.frames[0].captured_at_us
                wait_s = (world.now_us - captured_at_us) / 1e6
                self.longest_wait_s[camera.stream_id] = max(self.longest_wait_s[camera.stream_id], wait_s)
        world.partition.commit_if_due(GROUP)
        world.committer.commit()


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    torch.set_num_threads(1)
    return LanguageModel.load(ModelSettings().path)


def test_one_overloaded_stream_sheds_and_the_others_lose_nothing(model: LanguageModel) -> None:
    hog = Camera("hog", num_watches=12, period_us=250_000)
    others = [Camera(f"cam{i}", 1, 1_000_000, first_us=i * 310_000) for i in range(3)]
    place = Place(model, [hog, *others])
    place.run(10.0)
    place.check()
    assert place.skipped("hog") > 0.4 * len(hog.sent)
    assert place.decided("hog") > 5
    assert [place.skipped(camera.stream_id) for camera in others] == [0, 0, 0]
    # Of steps a third of a second long.
    assert max(place.longest_wait_s[camera.stream_id] for camera in others) < 1.0


def test_a_file_that_is_far_behind_loses_nothing_and_holds_up_nobody(model: LanguageModel) -> None:
    """Far more of its frames wait than are held in memory, and they stand before those of the camera."""
    film = Camera("film", num_watches=2, period_us=40_000, source="/videos/film.mp4")
    camera = Camera("cam", 1, 1_000_000)
    place = Place(model, [film, camera])
    place.run(5.0)
    place.check()
    assert place.most_waiting > 60 and place.world.num_loaded > 60
    assert (place.skipped("film"), place.skipped("cam")) == (0, 0)
