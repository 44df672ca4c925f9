import pytest

from services.gateway.event_filter import Filter
from services.gateway.event_ring import EventRecord, Slice
from services.gateway.subscription import Cursor
from services.shared.errors import DataLoss
from streamo.v1.event_pb2 import Event


def record(offset: int, stream: str, seq: int, watch: str = "w") -> EventRecord:
    return EventRecord(0, offset, Event(stream_id=stream, seq=seq, watch_id=watch), "", 1, [], 0)


def test_positions_follow_record_by_record_and_then_past_the_markers() -> None:
    cursor = Cursor(Filter(), {0: 4})
    walk = cursor.advance([Slice(0, [record(4, "a", 1), record(7, "a", 2)], 9)])
    assert [(found.offset, cursor.positions[0]) for found in walk] == [(4, 5), (7, 8)]
    assert cursor.positions == {0: 9}


def test_the_first_event_of_a_stream_sets_its_base() -> None:
    slices = [Slice(0, [record(0, "a", 41), record(1, "b", 7), record(2, "a", 42), record(3, "b", 8)], 4)]
    assert len(list(Cursor(Filter(), {0: 0}).advance(slices))) == 4


def test_density_is_checked_on_events_that_the_filter_holds_back() -> None:
    wanted = Filter(watch_ids=frozenset({"mine"}))
    cursor = Cursor(wanted, {0: 0})
    slices = [Slice(0, [record(0, "a", 1, "mine"), record(1, "a", 2, "other"), record(2, "a", 4, "mine")], 3)]
    walk = cursor.advance(slices)
    assert next(walk).offset == 0
    with pytest.raises(DataLoss, match="seq 4 comes after 2"):
        next(walk)
    assert cursor.positions == {0: 2}  # whoever goes on from here gets the event that showed the hole


@pytest.mark.parametrize("seq", [1, 2], ids=["backwards", "repeat"])
def test_a_seq_that_does_not_rise_is_a_violation_too(seq: int) -> None:
    slices = [Slice(0, [record(0, "a", 2), record(1, "a", seq)], 2)]
    with pytest.raises(DataLoss):
        list(Cursor(Filter(), {0: 0}).advance(slices))


def test_a_hole_in_another_stream_harms_nobody_else() -> None:
    cursor = Cursor(Filter(stream_ids=frozenset({"a"})), {0: 0})
    slices = [Slice(0, [record(0, "b", 1), record(1, "b", 9), record(2, "a", 1)], 3)]
    assert [found.offset for found in cursor.advance(slices)] == [2]


def test_a_loss_found_before_is_told_first_and_once() -> None:
    cursor = Cursor(Filter(), {0: 0}, "seq 4 comes after 2")
    slices = [Slice(0, [record(0, "a", 4)], 1)]
    with pytest.raises(DataLoss, match="seq 4 comes after 2"):
        list(cursor.advance(slices))
    assert cursor.positions == {0: 0}
    assert [found.offset for found in cursor.advance(slices)] == [0]


def test_an_unreadable_record_is_told_and_can_be_left_behind() -> None:
    cursor = Cursor(Filter(), {0: 0})
    broken = EventRecord(0, 0, None, "does not parse", 1, [], 0)
    with pytest.raises(DataLoss, match="does not parse"):
        list(cursor.advance([Slice(0, [broken], 1)]))
    assert cursor.positions == {0: 1}
