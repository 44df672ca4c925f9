"""Events of a newer version are told too, by the numbers of what this one has no names for."""

from services.cli.event_line import event_line
from streamo.v1.event_pb2 import Event, EventKind


def test_what_a_newer_version_has_added_is_told_by_its_number() -> None:
    event = Event(stream_id="gate", watch_id="cars", kind=99, task=98, reason=97)  # type: ignore[arg-type]
    line = event_line(event).plain
    assert "gate" in line and "99" in line and "98" in line and "(97)" in line


def test_a_closed_event_is_told_with_its_text() -> None:
    event = Event(
        stream_id="gate", watch_id="cars", kind=EventKind.EVENT_KIND_CLOSE, task=3, text="a car left"
    )
    line = event_line(event).plain
    assert "CLOSE" in line and "a car left" in line


def test_long_names_are_told_whole() -> None:
    line = event_line(Event(stream_id="warehouse-north-entrance", watch_id="people-without-helmets")).plain
    assert "warehouse-north-entrance people-without-helmets " in line
