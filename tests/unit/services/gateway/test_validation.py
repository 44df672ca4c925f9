import math

import pytest

from services.gateway.validation import checked_ask_timeout_s, checked_stream, checked_watch
from services.shared.errors import InvalidInput
from streamo.v1.stream_pb2 import Stream
from streamo.v1.task_pb2 import Task
from streamo.v1.watch_pb2 import Watch

SECRET = "hunter2"


def stream(**values: str) -> Stream:
    return Stream(**{"stream_id": "cam-1", "source": "rtsp://cam.local/main", **values})


def watch(**values: object) -> Watch:
    given = {
        "stream_id": "cam-1",
        "watch_id": "gate",
        "task": Task.TASK_EVENT,
        "instruction": "Report deliveries.",
    }
    return Watch(**{**given, **values})


@pytest.mark.parametrize(
    "source",
    [
        "rtsp://10.0.0.7:554/ch0?sub=1",
        "RTSPS://cam/x",
        "http://cam/x.m3u8",
        "https://[2001:db8::1]:8443/live",
        "file:///videos/a.mp4",
        "/videos/a:b.mp4",
        "videos/a.mp4",
        "./a:b.mp4",
    ],
)
def test_an_allowed_source_is_kept_as_it_is(source: str) -> None:
    assert checked_stream(stream(source=source)).source == source


@pytest.mark.parametrize(
    ("source", "bare", "username", "password"),
    [
        ("rtsp://ann:hunter2@cam:554/x", "rtsp://cam:554/x", "ann", "hunter2"),
        ("rtsp://ann@cam/x", "rtsp://cam/x", "ann", ""),
        ("http://ann:p%40ss%2Fw@cam/x?y=1", "http://cam/x?y=1", "ann", "p@ss/w"),
        ("rtsp://ann:p@ss@cam/x", "rtsp://cam/x", "ann", "p@ss"),
        ("rtsp://ann:hunter2@[::1]:554/x", "rtsp://[::1]:554/x", "ann", "hunter2"),
    ],
)
def test_user_info_moves_out_of_the_source(source: str, bare: str, username: str, password: str) -> None:
    kept = checked_stream(stream(source=source))
    assert (kept.source, kept.username, kept.password) == (bare, username, password)
    assert checked_stream(stream(source=bare, username=username, password=password)) == kept


def test_what_the_system_sets_is_not_taken_from_the_user() -> None:
    assert checked_stream(Stream(stream_id="a", source="/a", added_at_us=5)).added_at_us == 0
    assert checked_watch(watch(version=9)).version == 0


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"stream_id": ""}, "stream.stream_id"),
        ({"stream_id": "Cam"}, "stream.stream_id"),
        ({"stream_id": "a/b"}, "stream.stream_id"),
        ({"stream_id": "a" * 65}, "stream.stream_id"),
        ({"stream_id": "cam\n"}, "stream.stream_id"),
        ({"source": ""}, "stream.source"),
        ({"source": "  "}, "stream.source"),
        ({"source": "/a\x00b"}, "stream.source"),
        ({"source": "file:///a%00b"}, "stream.source"),
        ({"source": "file:///a%0Ab"}, "stream.source"),
        ({"source": " /a"}, "stream.source"),
        ({"source": "/" + "a" * 2000}, "stream.source"),
        ({"source": "ftp://cam/x"}, "stream.source"),
        ({"source": "concat:/etc/passwd|/a"}, "stream.source"),
        ({"source": "subfile,,start,0,end,9,,:/etc/passwd"}, "stream.source"),
        ({"source": "data:video/mp4;base64,AAAA"}, "stream.source"),
        ({"source": "file://elsewhere/a.mp4"}, "stream.source"),
        ({"source": "file://"}, "stream.source"),
        ({"source": "rtsp:///x"}, "stream.source"),
        ({"source": f"rtsp://ann:{SECRET}%FF@cam/x"}, "stream.source .* UTF-8"),
        ({"source": "rtsp://cam:port/x"}, "stream.source"),
        ({"source": "rtsp://cam:99999/x"}, "stream.source"),
        ({"source": f"rtsp://ann:{SECRET}/x@cam/main"}, "stream.source"),
        ({"source": f"rtsp://ann:12/{SECRET}@cam/main"}, "stream.source"),
        ({"source": f"rtsp://ann:{SECRET}#x@cam/main"}, "stream.source"),
        ({"source": f"rtsp://:{SECRET}@cam/main"}, "stream.password needs"),
        ({"source": f"rtsp://ann:{SECRET}@cam/x", "username": "bob"}, "different credentials"),
        ({"source": "/a.mp4", "username": "ann"}, "stream.username"),
        ({"username": "a" * 257}, "stream.username"),
        ({"username": "ann", "password": f"{SECRET}\n"}, "stream.password"),
        ({"password": SECRET}, "stream.password needs"),
    ],
)
def test_a_wrong_stream_is_refused_by_field_and_without_its_secret(
    values: dict[str, str], field: str
) -> None:
    with pytest.raises(InvalidInput, match=field) as refused:
        checked_stream(stream(**values))
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("sensitivity", [-10.0, -0.3, 0.0, 10.0])
def test_a_sensitivity_is_kept_as_it_is(sensitivity: float) -> None:
    assert checked_watch(watch(sensitivity=sensitivity)).sensitivity == sensitivity


def test_a_sensitivity_of_minus_zero_is_the_same_watch() -> None:
    assert checked_watch(watch(sensitivity=-0.0)) == checked_watch(watch())


def test_instructions_are_stripped() -> None:
    assert checked_watch(watch(instruction="  Say when.\n")).instruction == "Say when."
    assert checked_watch(watch(instruction="é" * 2000)).instruction == "é" * 2000


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"watch_id": "GATE"}, "watch.watch_id"),
        ({"stream_id": ""}, "watch.stream_id"),
        ({"task": 0}, "watch.task"),
        ({"task": 99}, "watch.task"),
        ({"instruction": " \n\t"}, "watch.instruction"),
        ({"instruction": "a" * 2001}, "watch.instruction"),
        ({"instruction": "a\x00b"}, "watch.instruction"),
        ({"sensitivity": 10.01}, "watch.sensitivity"),
        ({"sensitivity": -11.0}, "watch.sensitivity"),
        ({"sensitivity": math.inf}, "watch.sensitivity"),
        ({"sensitivity": math.nan}, "watch.sensitivity"),
        ({"once": True}, "watch.once"),
        ({"expires_at_us": 1}, "watch.expires_at_us"),
    ],
)
def test_a_wrong_watch_is_refused_by_field(values: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidInput, match=field):
        checked_watch(watch(**values))


def test_bounds_of_a_questions_time() -> None:
    assert [checked_ask_timeout_s(given) for given in (0, 1, 3600)] == [60, 1, 3600]
    with pytest.raises(InvalidInput, match="timeout_s"):
        checked_ask_timeout_s(3601)
