import av
import pytest

from services.ingest.source import Source
from services.ingest.source_failure import is_hopeless, lost_connection, opening_failure
from streamo.v1 import frame_pb2
from streamo.v1.stream_pb2 import Stream

CAMERA = Source.of(Stream(source="rtsp://cam/1", username="admin", password="canary"))
FILE = Source.of(Stream(source="/videos/a.mp4"))
WEB = Source.of(Stream(source="http://host/a.mp4"))
TIMEOUT_S = 5.0


def ffmpeg_error(kind: str, text: str = "some text") -> Exception:
    return getattr(av.error, kind)(1, text, CAMERA.address)


@pytest.mark.parametrize(
    ("source", "kind", "took_s", "state"),
    [
        (CAMERA, "HTTPUnauthorizedError", 0.1, frame_pb2.SOURCE_STATE_AUTH_FAILED),
        (CAMERA, "HTTPForbiddenError", 0.1, frame_pb2.SOURCE_STATE_AUTH_FAILED),
        (CAMERA, "HTTPNotFoundError", 0.1, frame_pb2.SOURCE_STATE_NOT_FOUND),
        (CAMERA, "HTTPOtherClientError", 0.1, frame_pb2.SOURCE_STATE_DISCONNECTED),
        (CAMERA, "InvalidDataError", 0.1, frame_pb2.SOURCE_STATE_DISCONNECTED),
        (CAMERA, "InvalidDataError", 5.0, frame_pb2.SOURCE_STATE_DISCONNECTED),
        (CAMERA, "ConnectionRefusedError", 0.1, frame_pb2.SOURCE_STATE_DISCONNECTED),
        (CAMERA, "ExitError", 5.0, frame_pb2.SOURCE_STATE_DISCONNECTED),
        (CAMERA, "FileNotFoundError", 0.1, frame_pb2.SOURCE_STATE_DISCONNECTED),
        (CAMERA, "ProtocolNotFoundError", 0.1, frame_pb2.SOURCE_STATE_UNSUPPORTED),
        (FILE, "FileNotFoundError", 0.1, frame_pb2.SOURCE_STATE_NOT_FOUND),
        (FILE, "PermissionError", 0.1, frame_pb2.SOURCE_STATE_NOT_FOUND),
        (FILE, "IsADirectoryError", 0.1, frame_pb2.SOURCE_STATE_UNSUPPORTED),
        (FILE, "InvalidDataError", 0.1, frame_pb2.SOURCE_STATE_UNSUPPORTED),
        (FILE, "ArgumentError", 0.1, frame_pb2.SOURCE_STATE_UNSUPPORTED),
        (CAMERA, "ArgumentError", 0.1, frame_pb2.SOURCE_STATE_DISCONNECTED),
        (WEB, "InvalidDataError", 0.1, frame_pb2.SOURCE_STATE_UNSUPPORTED),
        (WEB, "HTTPServerError", 0.1, frame_pb2.SOURCE_STATE_DISCONNECTED),
    ],
)
def test_errors_of_opening_become_states(
    source: Source, kind: str, took_s: float, state: frame_pb2.SourceState
):
    assert opening_failure(ffmpeg_error(kind), source, took_s, TIMEOUT_S).state == state


def test_silence_and_a_closed_connection_are_told_apart_by_the_time_they_took():
    error = ffmpeg_error("InvalidDataError")
    assert "did not answer" in opening_failure(error, CAMERA, 4.9, TIMEOUT_S).detail
    assert "closed the connection" in opening_failure(error, CAMERA, 0.0, TIMEOUT_S).detail


def test_what_ffmpeg_says_is_told_without_credentials():
    error = ffmpeg_error("ConnectionRefusedError", f"could not open {CAMERA.address} as admin:canary")
    detail = lost_connection(error, CAMERA, 0.0, TIMEOUT_S, "").detail
    assert "could not open" in detail
    assert "canary" not in detail


def test_only_what_somebody_has_to_change_is_hopeless():
    states = [state for state in frame_pb2.SourceState.values() if is_hopeless(state)]
    assert sorted(states) == sorted(
        [
            frame_pb2.SOURCE_STATE_AUTH_FAILED,
            frame_pb2.SOURCE_STATE_NOT_FOUND,
            frame_pb2.SOURCE_STATE_UNSUPPORTED,
        ]
    )
