from services.gateway.progress import ProgressBook, StreamPoint
from streamo.v1.state_pb2 import StreamState


def state(last_seq: int, media_time_ms: int) -> StreamState:
    return StreamState(stream_id="a", last_seq=last_seq, media_time_ms=media_time_ms)


def test_a_state_waits_for_its_last_event() -> None:
    book = ProgressBook()
    book.decided(1, 10, state(2, 5000))
    book.passed("a", 1, 7)
    assert book.points() == []
    book.passed("a", 2, 9)
    assert book.points() == [StreamPoint("a", 1, 5000, 9)]


def test_a_later_quiet_state_counts_at_once() -> None:
    book = ProgressBook()
    book.passed("a", 2, 9)
    book.decided(1, 10, state(2, 5000))
    book.decided(1, 11, state(2, 6000))
    assert book.points(["a", "unknown"]) == [StreamPoint("a", 1, 6000, 9)]


def test_a_state_ahead_of_its_events_leaves_the_older_point() -> None:
    book = ProgressBook()
    book.passed("a", 2, 9)
    book.decided(1, 10, state(2, 5000))
    book.decided(1, 11, state(3, 7000))
    assert book.points() == [StreamPoint("a", 1, 5000, 9)]


def test_a_stream_without_events_can_be_quiet_too() -> None:
    book = ProgressBook()
    book.decided(0, 0, state(0, 1000))
    assert book.points() == [StreamPoint("a", 0, 1000, 0)]


def test_old_events_count_as_passed_only_for_states_of_the_start() -> None:
    book = ProgressBook()
    book.decided(0, 5, state(4, 1000))
    book.passed_all(0, state_end=5, next_offset=30)
    assert book.points() == []  # its record came after the start
    book.passed_all(0, state_end=6, next_offset=30)
    assert book.points() == [StreamPoint("a", 0, 1000, 30)]


def test_a_removed_stream_is_told_no_more() -> None:
    book = ProgressBook()
    book.decided(0, 0, state(0, 1000))
    book.forget("a")
    assert book.points() == []
