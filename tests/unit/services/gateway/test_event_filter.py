import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.event_filter import Filter
from services.shared.errors import InvalidInput
from services.shared.topics import partition_of
from streamo.v1.event_pb2 import Event, EventFilter, EventKind
from streamo.v1.task_pb2 import Task

IDS = st.frozensets(st.text("abc._-", min_size=1, max_size=6), max_size=5)
FILTERS = st.builds(Filter, IDS, IDS, st.frozensets(st.integers(1, 5)))


@given(IDS, IDS, st.frozensets(st.integers(1, 5)), st.randoms())
def test_the_hash_knows_no_order(
    streams: frozenset[str], watches: frozenset[str], tasks: frozenset[int], rng
) -> None:
    def shuffled(entries):
        entries = list(entries)
        rng.shuffle(entries)
        return entries

    one = Filter.of(EventFilter(stream_ids=streams, watch_ids=watches, tasks=tasks))
    other = Filter.of(
        EventFilter(stream_ids=shuffled(streams), watch_ids=shuffled(watches), tasks=shuffled(tasks))
    )
    assert one.hash == other.hash


@given(FILTERS, FILTERS)
def test_different_filters_have_different_hashes(one: Filter, other: Filter) -> None:
    assert (one == other) == (one.hash == other.hash)


def event(kind: str = "ANSWER", stream: str = "s1", watch: str = "w1", task: int = Task.TASK_QA) -> Event:
    return Event(stream_id=stream, kind=EventKind.Value(f"EVENT_KIND_{kind}"), watch_id=watch, task=task)


@pytest.mark.parametrize(
    ("asked", "passing", "held"),
    [
        (EventFilter(), event(), None),
        (EventFilter(stream_ids=["s1"]), event(), event(stream="s2")),
        (EventFilter(watch_ids=["w1"]), event(), event(watch="w2")),
        (EventFilter(tasks=[Task.TASK_QA]), event(), event(task=Task.TASK_EVENT)),
        (EventFilter(watch_ids=["w9"], tasks=[Task.TASK_EVENT]), event("GAP", watch="", task=0), event()),
        (EventFilter(watch_ids=["w9"]), event("SOURCE", watch="", task=0), event("CLOSE")),
        (EventFilter(stream_ids=["s2"]), event("GAP", stream="s2"), event("GAP", stream="s1")),
    ],
)
def test_what_passes(asked: EventFilter, passing: Event, held: Event | None) -> None:
    wanted = Filter.of(asked)
    assert wanted.passes(passing)
    assert held is None or not wanted.passes(held)


def test_only_partitions_of_the_streams_are_read() -> None:
    assert Filter().partitions(3) == [0, 1, 2]
    assert Filter(frozenset({"a"})).partitions(8) == [partition_of("a", 8)]


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (EventFilter(stream_ids=["ok", "No"]), r"filter\.stream_ids\[1\]"),
        (EventFilter(watch_ids=[""]), r"filter\.watch_ids\[0\]"),
        (EventFilter(tasks=[0]), r"filter\.tasks\[0\]"),
        (EventFilter(tasks=[77]), r"filter\.tasks\[0\]"),
        (EventFilter(stream_ids=["a"] * 1001), r"filter\.stream_ids has 1001"),
    ],
)
def test_a_wrong_entry_is_named(asked: EventFilter, field: str) -> None:
    with pytest.raises(InvalidInput, match=field):
        Filter.of(asked)
