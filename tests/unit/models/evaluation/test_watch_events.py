"""The evaluation's life cycle is the served one."""

from hypothesis import given, settings
from hypothesis import strategies as st

from models.data.place.query import TASKS
from models.evaluation.watch_events import watch_events
from models.vlm.state import State
from services.llm.frame import FrameId, FrameMark
from services.llm.life_cycle import LifeCycle
from streamo.v1.event_pb2 import EventKind, Reason, Stamps
from streamo.v1.task_pb2 import Task
from streamo.v1.watch_pb2 import Watch


def served(task, rounds):
    """(phase, media_ms, text, open_ms) as the LLM replica's own life cycle gives them."""
    cycle = LifeCycle(Watch(stream_id="s", watch_id="w", version=1, task=Task.Value(f"TASK_{task.upper()}")))
    opened, found = {}, []
    for number, (media_ms, state, text) in enumerate(rounds):
        frame = FrameMark(FrameId(1, number), media_ms)
        event = cycle.decide(state, frame, Stamps())
        if state is State.RESPONSE:
            event = cycle.reply(frame, media_ms, (), text, Stamps())
        if event is None:
            continue
        phase = EventKind.Name(event.kind).removeprefix("EVENT_KIND_").lower()
        if phase == "open":
            opened[event.event_id] = media_ms
        open_ms = None if phase == "open" else opened.get(event.event_id)
        assert phase != "retract" or event.reason == Reason.REASON_MODEL
        found.append((phase, media_ms, event.text, open_ms))
    return found


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(TASKS), st.lists(st.sampled_from(State), max_size=12))
def test_events_are_those_that_are_served(task, states):
    rounds = [
        (1000 * index, state, f"text {index}" if state is State.RESPONSE else "")
        for index, state in enumerate(states)
    ]
    ours = [(one.phase.value, one.media_ms, one.text, one.open_ms) for one in watch_events(task, rounds)]
    assert ours == served(task, rounds)
