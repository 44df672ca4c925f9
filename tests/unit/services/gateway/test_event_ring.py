"""The ring against a model of it: whatever was appended, readers get all of it in order, or are sent to Kafka."""

from hypothesis import given
from hypothesis import strategies as st

from services.gateway.event_ring import EventRecord, EventRing
from streamo.v1.event_pb2 import Event

MAX_RECORDS, MAX_BYTES = 8, 100


def record(offset: int, num_bytes: int = 10) -> EventRecord:
    return EventRecord(0, offset, Event(stream_id="s", seq=offset + 1), "", num_bytes, [], 0)


# Batches of (offsets without a record before it, its size), then offsets without a record at the batch's end.
BATCHES = st.lists(
    st.tuples(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 120)), max_size=6), st.integers(0, 2)),
    max_size=12,
)


@given(BATCHES, st.integers(0, 60), st.integers(1, 10))
def test_a_reader_gets_everything_in_order_or_is_told_to_read_kafka(batches, start: int, limit: int) -> None:
    ring = EventRing(0, 0, MAX_RECORDS, MAX_BYTES)
    offsets: list[int] = []
    end = 0
    for records, markers in batches:
        appended = []
        for skipped, size in records:
            end += skipped
            appended.append(record(end, size))
            offsets.append(end)
            end += 1
        end += markers
        ring.append(appended, end)
    assert ring.next_offset == end

    at, seen = start, []
    while True:
        found = ring.after(at, limit)
        if found is None:
            assert at < ring.start_offset
            return
        assert len(found.records) <= limit
        assert found.next_offset >= at
        seen += [one.offset for one in found.records]
        if found.next_offset == at:
            break
        at = found.next_offset
    assert at == max(start, end)
    assert seen == [offset for offset in offsets if offset >= start]


def test_both_bounds_hold() -> None:
    ring = EventRing(0, 0, MAX_RECORDS, MAX_BYTES)
    ring.append([record(offset, 1) for offset in range(50)], 50)
    assert ring.start_offset == 50 - MAX_RECORDS
    ring.append([record(50, MAX_BYTES + 1)], 51)
    assert ring.after(50, 1) is None  # too big to be kept: it is read from Kafka
    assert ring.after(51, 1) is not None


def test_no_room_moves_nobody() -> None:
    ring = EventRing(0, 0, MAX_RECORDS, MAX_BYTES)
    ring.append([record(0)], 1)
    found = ring.after(0, 0)
    assert found is not None
    assert (list(found.records), found.next_offset) == ([], 0)
