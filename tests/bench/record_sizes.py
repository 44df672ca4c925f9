"""How large the records of one stream are: made by the services' own code, serialised, and measured."""

from __future__ import annotations

import random
from dataclasses import dataclass

import av
import numpy as np
from matplotlib import cbook, pyplot
from support.llm_world import TOPICS, World
from support.scripted_engine import SIZE, picture

from models.vlm.frame_sampler import SamplerConfig
from models.vlm.frame_size import FrameBudget
from models.vlm.state import State
from services.camera.picture_source import PlaceSource
from services.ingest.picture import PictureFormer
from streamo.v1.event_pb2 import Event, EventKind
from streamo.v1.frame_pb2 import Frame, FrameBatch, FrameRecord, PixelFormat
from streamo.v1.state_pb2 import Checkpoint, StreamState
from streamo.v1.task_pb2 import Task
from streamo.v1.watch_pb2 import Watch

STREAM_ID = "camera-000001"
# Key, trace header and a record's own fields in a batch; the batch's header, one record a batch.
_RECORD_BYTES = len(STREAM_ID) + len("traceparent") + 55 + 10
_BATCH_BYTES = 61
# A photograph that comes with matplotlib: a drawn scene is far easier on JPEG than what a camera sees.
_PHOTO = "grace_hopper.jpg"


@dataclass(frozen=True)
class RecordSizes:
    """Bytes, with what Kafka adds to a record. `state` and `checkpoint` are of one watch with a full window."""

    frame_raw: int
    frame_jpeg_drawn: int
    frame_jpeg_photo: int
    event: int
    state: int
    checkpoint: int


def measure(
    frame_hw: tuple[int, int], window_rounds: int, response_share: float, reply_tokens: int
) -> RecordSizes:
    """`frame_hw` is the model's frame. Replies have `reply_tokens` ids as large as those of a vocabulary of 150,000."""
    drawn = PlaceSource(7).picture(20_000, 720, 1440)
    photo = pyplot.imread(cbook.get_sample_data(_PHOTO, asfileobj=False))[
        100:356
    ]  # 2 to 1, as the model's frame
    event, state, checkpoint = _of_a_session(window_rounds, response_share, reply_tokens)
    return RecordSizes(
        _frame(drawn, frame_hw, "rgb24"),
        _frame(drawn, frame_hw, "jpeg"),
        _frame(photo, frame_hw, "jpeg"),
        event,
        state,
        checkpoint,
    )


def _frame(pixels: np.ndarray, frame_hw: tuple[int, int], pixel_format: str) -> int:
    budget = FrameBudget(28 * 28, frame_hw[0] * frame_hw[1])
    former = PictureFormer(budget, pixel_format, SamplerConfig())
    frame = former.form(av.VideoFrame.from_ndarray(pixels, "rgb24"))
    frame.frame_seq, frame.media_time_ms, frame.num_seen = 100_000, 70_000_000, 12
    frame.captured_at_us = 1_800_000_000_000_000
    record = FrameRecord(stream_id=STREAM_ID, epoch=100_000, frames=FrameBatch(frames=[frame]))
    return len(record.SerializeToString()) + _RECORD_BYTES + _BATCH_BYTES


def _of_a_session(window_rounds: int, response_share: float, reply_tokens: int) -> tuple[int, int, int]:
    """Event, state record and checkpoint, from a stream that was run until its window was full."""
    world = World(window_rounds=window_rounds)
    world.add_stream(STREAM_ID)
    epoch = world.begin_epoch(STREAM_ID)
    watch = Watch(
        stream_id=STREAM_ID, watch_id="deliveries", task=Task.TASK_EVENT, instruction="Report deliveries."
    )
    world.add_watch(watch)
    rng = random.Random(1)
    replies = [rng.random() < response_share for _ in range(window_rounds + 20)] + [True]
    for seq, responds in enumerate(replies):
        state = State.RESPONSE if responds else State.SILENCE
        frame = Frame(
            frame_seq=seq,
            media_time_ms=70_000_000 + seq * 700,
            captured_at_us=world.now_us,
            width=SIZE,
            height=SIZE,
            format=PixelFormat.PIXEL_FORMAT_RGB24,
            data=picture(state, 1, seq % 100).tobytes(),
            num_seen=10,
        )
        world.send(FrameRecord(stream_id=STREAM_ID, epoch=epoch, frames=FrameBatch(frames=[frame])))
        world.finish()
    # The engine of the world is scripted: its replies are shorter than a model's, and its clock begins late.
    ids = [150_000] * reply_tokens
    closed = next(one for one in reversed(world.events(STREAM_ID)) if one.kind == EventKind.EVENT_KIND_CLOSE)
    event = Event()
    event.CopyFrom(closed)
    event.text, event.token_ids[:] = "x" * 4 * reply_tokens, ids
    checkpoint = Checkpoint()
    checkpoint.CopyFrom(world.redis[STREAM_ID])
    for one in checkpoint.replies[0].replies:
        if len(one.token_ids) > 1:
            one.token_ids[1:] = ids
    state_record = StreamState.FromString(world.logs.topics[TOPICS.state][-1].value)
    overhead = _RECORD_BYTES + _BATCH_BYTES
    return (
        len(event.SerializeToString()) + overhead,
        len(state_record.SerializeToString()) + overhead,
        len(checkpoint.SerializeToString()),
    )
