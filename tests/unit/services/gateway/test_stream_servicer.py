import asyncio
from typing import Any

import pytest
from support.control_in_memory import ControlInMemory
from support.one_partition_log import OnePartitionLog

from services.gateway.stream_servicer import StreamServicer
from services.shared.control_log import end_key, epoch_key, stream_key, watch_key
from services.shared.errors import NotFound, Unavailable
from streamo.v1.control_pb2 import ControlRecord, EpochBegin, FileEnd
from streamo.v1.stream_pb2 import AddStreamRequest, RemoveStreamRequest, Stream
from streamo.v1.watch_pb2 import Watch

CLIP = Stream(stream_id="clip", source="/clip.mp4")


@pytest.fixture
def control() -> ControlInMemory:
    """Holds `clip` with all that a stream can have, and a watch of another stream."""
    control = ControlInMemory()
    version = control.write(stream_key("clip"), ControlRecord(stream=CLIP))
    for stream_id, watch_id in (("clip", "people"), ("clip", "cars"), ("clip2", "people")):
        watch = Watch(stream_id=stream_id, watch_id=watch_id)
        control.write(watch_key(stream_id, watch_id), ControlRecord(watch=watch))
    control.write(epoch_key("clip"), ControlRecord(epoch=EpochBegin(stream_id="clip")))
    end = FileEnd(stream_id="clip", stream_version=version)
    control.write(end_key("clip"), ControlRecord(end=end))
    return control


def call(control: ControlInMemory, method: str, request: object) -> None:
    async def whole() -> Any:
        desk = control.desk()
        try:
            await getattr(StreamServicer(desk, OnePartitionLog(), lambda: 7), method)(request, None)
        finally:
            desk.close()

    asyncio.run(asyncio.wait_for(whole(), 10))


def remove(control: ControlInMemory) -> None:
    call(control, "RemoveStream", RemoveStreamRequest(stream_id="clip"))


def left(control: ControlInMemory) -> tuple[list[str], list[str], list[str]]:
    view = control.view
    return [*view.watches_of("clip")], [*view.epochs], [*view.ended]


def test_however_far_a_removal_was_read_the_watches_end_with_their_stream(control: ControlInMemory) -> None:
    """Who sees a watch go while its stream is there tells subscribers that the watch was removed."""
    before = len(control.views)
    remove(control)
    assert all("clip" not in view.streams for view in control.views[before:])
    assert left(control) == ([], [], [])
    assert list(control.view.watches) == [("clip2", "people")]
    with pytest.raises(NotFound):
        remove(control)


@pytest.mark.parametrize("num_written", range(5))
def test_a_removal_that_was_cut_short_can_be_repeated(control: ControlInMemory, num_written: int) -> None:
    control.room = num_written
    with pytest.raises(Unavailable):
        remove(control)
    control.room = 1000
    remove(control)
    assert "clip" not in control.view.streams
    assert left(control) == ([], [], [])


def test_a_stream_that_is_added_has_nothing_of_a_former_one(control: ControlInMemory) -> None:
    control.room = 1
    with pytest.raises(Unavailable):
        remove(control)
    assert left(control) != ([], [], [])
    control.room, before = 1000, len(control.views)
    call(control, "AddStream", AddStreamRequest(stream=CLIP))
    assert "clip" in control.view.streams
    assert left(control) == ([], [], [])
    assert not any(view.watches_of("clip") for view in control.views[before:] if "clip" in view.streams)
