"""What is asked of a stream, once or from now on; and at once a refusal where no frame is left."""

import asyncio
from collections.abc import Iterable
from types import SimpleNamespace

import pytest
from support.one_partition_log import OnePartitionLog

from services.gateway.resume_token import TokenIssuer
from services.gateway.subscription import Subscriptions
from services.gateway.watch_servicer import WatchServicer
from services.shared.control_log import ControlView, end_key, stream_key, watch_key
from services.shared.errors import Refused
from services.shared.settings import GatewaySettings, TelemetrySettings
from services.shared.telemetry import Telemetry
from streamo.v1.control_pb2 import ControlRecord, FileEnd
from streamo.v1.event_pb2 import Event, EventKind
from streamo.v1.frame_pb2 import SourceState
from streamo.v1.state_pb2 import StreamState
from streamo.v1.stream_pb2 import Stream
from streamo.v1.task_pb2 import Task
from streamo.v1.watch_pb2 import AddWatchRequest, AddWatchResponse, AskRequest, AskResponse, Watch

CLIP = "clip"
VERSION = 4  # of the stream that there is now
ENDED = SourceState.SOURCE_STATE_ENDED


class Desk:
    """Whatever is asked, `said` of it stands in the log at once."""

    def __init__(self, view: ControlView, states: Iterable[StreamState], **said: object) -> None:
        self._view = view
        self._log = OnePartitionLog(states)
        self._said = {"kind": EventKind.EVENT_KIND_ANSWER, "text": "Two.", **said}
        self.num_written = 0

    def lock(self, _: str) -> asyncio.Lock:
        return asyncio.Lock()

    async def view(self) -> ControlView:
        return self._view

    async def write(self, _: bytes, record: ControlRecord | None) -> int:
        self.num_written += 1
        if record is not None:
            self._log.say(Event(stream_id=CLIP, seq=1, watch_id=record.watch.watch_id, **self._said))
        return 9

    def ask(self) -> AskResponse:
        context = SimpleNamespace(time_remaining=lambda: None)
        return asyncio.run(self._servicer().Ask(AskRequest(stream_id=CLIP, question="How many?"), context))

    def add_watch(self, watch: Watch, replace: bool = False) -> AddWatchResponse:
        request = AddWatchRequest(watch=watch, replace=replace)
        return asyncio.run(self._servicer().AddWatch(request, SimpleNamespace()))

    def _servicer(self) -> WatchServicer:
        telemetry = Telemetry("gateway", TelemetrySettings())
        subscriptions = Subscriptions(self._log, TokenIssuer("c", "events", 1), GatewaySettings(), telemetry)
        return WatchServicer(self, subscriptions, lambda: 0)


def control(end_of: int | None) -> ControlView:
    """With a stream of VERSION, and the end of one of `end_of`."""
    added = ControlRecord(stream=Stream(stream_id=CLIP, source="file:///a.mp4")).SerializeToString()
    view = ControlView().after(stream_key(CLIP), added, VERSION)
    if end_of is None:
        return view
    end = ControlRecord(end=FileEnd(stream_id=CLIP, stream_version=end_of)).SerializeToString()
    return view.after(end_key(CLIP), end, VERSION + 1)


def watch(instruction: str = "Tell me when a car is parked.") -> Watch:
    return Watch(stream_id=CLIP, watch_id="cars", task=Task.TASK_EVENT, instruction=instruction)


def state(source_state: int, version: int = VERSION) -> StreamState:
    return StreamState(stream_id=CLIP, stream_version=version, source_state=source_state)


def test_a_question_to_a_recording_that_has_ended_is_refused_at_once():
    desk = Desk(control(end_of=VERSION), [state(ENDED)])
    with pytest.raises(Refused, match="stream clip is a recording that has ended"):
        desk.ask()
    assert desk.num_written == 0


def test_a_watch_on_a_recording_that_has_ended_is_refused_at_once_and_one_that_was_there_stays():
    ended = control(end_of=VERSION)
    desk = Desk(ended, [state(ENDED)])
    with pytest.raises(Refused, match="stream clip is a recording that has ended"):
        desk.add_watch(watch())
    there = ControlRecord(watch=watch()).SerializeToString()
    desk = Desk(ended.after(watch_key(CLIP, "cars"), there, VERSION + 2), [state(ENDED)])
    assert desk.add_watch(watch()).watch.version == VERSION + 2
    with pytest.raises(Refused, match="stream clip is a recording that has ended"):
        desk.add_watch(watch("Tell me when a car drives away."), replace=True)
    assert desk.num_written == 0


@pytest.mark.parametrize(
    ("view", "states"),
    [
        (control(end_of=None), []),
        (control(end_of=None), [state(SourceState.SOURCE_STATE_LIVE)]),
        # Read to its end, but its last frames are still to be decided.
        (control(end_of=VERSION), []),
        (control(end_of=VERSION), [state(SourceState.SOURCE_STATE_LIVE)]),
        # The one that ended was removed, and added again.
        (control(end_of=VERSION - 1), [state(ENDED, VERSION - 1)]),
        (control(end_of=VERSION), [state(ENDED, VERSION - 1)]),
    ],
)
def test_what_frames_are_still_to_come_for_is_asked(view, states):
    assert Desk(view, states).ask().answer.text == "Two."
    assert Desk(view, states).add_watch(watch()).watch.version == 9


def test_an_end_for_a_reason_that_this_version_does_not_know_is_told_by_its_number():
    desk = Desk(control(end_of=None), [], kind=EventKind.EVENT_KIND_ENDED, reason=99, detail="too dark")
    with pytest.raises(Refused, match=r"ended without an answer: 99 \(too dark\)"):
        desk.ask()
