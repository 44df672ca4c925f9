import threading
from collections.abc import Callable

from services.ingest.outbox import Outbox

WAIT_S = 10.0


class Reader:
    """Takes what is sent only while it is allowed to."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.may_take = threading.Event()
        self.was_asked = threading.Event()

    def send(self, frame: bytes) -> None:
        self.was_asked.set()
        assert self.may_take.wait(WAIT_S)
        self.taken.append(frame)


def blocked_outbox(capacity: int) -> tuple[Outbox, Reader]:
    """An outbox whose reader has frame 0 in its hand and does not take it."""
    reader = Reader()
    outbox = Outbox(reader.send, capacity)
    outbox.put(b"0")
    assert reader.was_asked.wait(WAIT_S)
    return outbox, reader


def names(numbers: range) -> list[bytes]:
    return [str(number).encode() for number in numbers]


def test_frames_leave_in_order():
    reader = Reader()
    reader.may_take.set()
    outbox = Outbox(reader.send, 100)
    for name in names(range(50)):
        outbox.put(name)
    assert outbox.wait_empty(WAIT_S)
    assert (reader.taken, outbox.num_dropped) == (names(range(50)), 0)
    outbox.close()


def test_when_full_the_oldest_are_dropped_and_each_is_counted():
    outbox, reader = blocked_outbox(capacity=3)
    for name in names(range(1, 11)):
        outbox.put(name)
    reader.may_take.set()
    assert outbox.wait_empty(WAIT_S)
    assert reader.taken == [b"0", b"8", b"9", b"10"]
    assert outbox.num_dropped == 7
    outbox.close()


def test_a_recording_can_wait_for_room_and_lose_nothing():
    outbox, reader = blocked_outbox(capacity=2)
    for name in names(range(1, 3)):
        assert outbox.wait_for_room(0)
        outbox.put(name)
    assert not outbox.wait_for_room(0)
    reader.may_take.set()
    assert outbox.wait_for_room(WAIT_S)
    outbox.put(b"3")
    assert outbox.wait_empty(WAIT_S)
    assert (reader.taken, outbox.num_dropped) == (names(range(4)), 0)
    outbox.close()


def test_it_is_not_empty_while_a_frame_is_being_handed_over():
    outbox, reader = blocked_outbox(capacity=2)
    assert not outbox.wait_empty(0)
    reader.may_take.set()
    assert outbox.wait_empty(WAIT_S)
    outbox.close()


def test_a_reader_that_is_gone_breaks_it_and_nobody_waits_for_ever():
    def gone(frame: bytes) -> None:
        raise BrokenPipeError

    send: Callable[[bytes], None] = gone
    outbox = Outbox(send, 2)
    outbox.put(b"0")
    assert outbox.wait_empty(WAIT_S)
    assert outbox.broken
