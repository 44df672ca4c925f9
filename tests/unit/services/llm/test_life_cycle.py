"""Whatever the model decides, every OPEN is ended exactly once, by an event that repeats its id."""

from hypothesis import given
from hypothesis import strategies as st

from models.vlm.state import State
from services.llm.frame import FrameId, FrameMark
from services.llm.life_cycle import LifeCycle
from streamo.v1.event_pb2 import Event, EventKind, Reason, Stamps
from streamo.v1.task_pb2 import Task
from streamo.v1.watch_pb2 import Watch

TASKS = [Task.TASK_NARRATION, Task.TASK_ACTION, Task.TASK_EVENT, Task.TASK_GROUNDING, Task.TASK_QA]


def run(task: Task, states: list[State], version: int = 1) -> list[Event]:
    life_cycle = LifeCycle(
        Watch(watch_id="cars", stream_id="gate", task=task, instruction="cars", version=version)
    )
    events = [life_cycle.start(mark(0))]
    for number, state in enumerate(states):
        if (event := life_cycle.decide(state, mark(number), Stamps())) is not None:
            events.append(event)
        if state is State.RESPONSE:
            events.append(life_cycle.reply(mark(number), 1000 * number, (1, 2), "text", Stamps()))
    return events + life_cycle.end(Reason.REASON_WATCH_REMOVED, mark(len(states) - 1))


def mark(number: int) -> FrameMark:
    return FrameMark(FrameId(7, number), 1000 * (number + 1))


@given(st.sampled_from(TASKS), st.lists(st.sampled_from(list(State)), min_size=1, max_size=40))
def test_every_open_is_ended_exactly_once(task: Task, states: list[State]):
    opened: set[str] = set()
    seen: set[str] = set()
    for event in run(task, states):
        match event.kind:
            case EventKind.EVENT_KIND_OPEN:
                assert not opened
                assert event.event_id not in seen
                opened.add(event.event_id)
            case EventKind.EVENT_KIND_CLOSE | EventKind.EVENT_KIND_RETRACT if opened:
                opened.remove(event.event_id)
            case EventKind.EVENT_KIND_RETRACT:
                raise AssertionError("nothing was open")
            case _:
                assert event.event_id not in seen
        seen.add(event.event_id)
        assert event.span.start_ms <= event.span.end_ms
    assert not opened


@given(st.sampled_from(TASKS), st.lists(st.sampled_from(list(State)), min_size=1, max_size=10))
def test_ids_are_the_same_in_every_attempt_and_differ_between_versions(task: Task, states: list[State]):
    assert run(task, states) == run(task, states)
    ids = {event.event_id for event in run(task, states)}
    assert not ids & {event.event_id for event in run(task, states, version=2)}
