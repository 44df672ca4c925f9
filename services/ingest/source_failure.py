"""Why a source gave no (more) pictures, in the words of the protocol."""

import av

from services.ingest.source import Source, SourceKind
from streamo.v1 import frame_pb2

_UNSUPPORTED = (
    av.error.ProtocolNotFoundError,
    av.error.DemuxerNotFoundError,
    av.error.DecoderNotFoundError,
    av.error.PatchWelcomeError,
)
_HOPELESS = frozenset(
    (
        frame_pb2.SOURCE_STATE_AUTH_FAILED,
        frame_pb2.SOURCE_STATE_NOT_FOUND,
        frame_pb2.SOURCE_STATE_UNSUPPORTED,
    )
)


class SourceFailure(Exception):
    """`detail` is for people, holds no credentials, and is the same each time the same thing happens."""

    def __init__(self, state: frame_pb2.SourceState, detail: str) -> None:
        super().__init__(detail)
        self.state = state
        self.detail = detail


def is_hopeless(state: frame_pb2.SourceState) -> bool:
    """Whether trying again soon makes no sense: somebody has to change something first."""
    return state in _HOPELESS


def opening_failure(error: Exception, source: Source, took_s: float, timeout_s: float) -> SourceFailure:
    """FFmpeg has many names for a camera that says nothing or closes; the time it took tells them apart."""
    match error:
        case av.error.HTTPUnauthorizedError() | av.error.HTTPForbiddenError():
            return SourceFailure(frame_pb2.SOURCE_STATE_AUTH_FAILED, "the source refuses these credentials")
        case av.error.HTTPNotFoundError():
            return SourceFailure(
                frame_pb2.SOURCE_STATE_NOT_FOUND, "the host answers, but has nothing at this path"
            )
        case FileNotFoundError() | NotADirectoryError() if source.kind == SourceKind.FILE:
            return SourceFailure(frame_pb2.SOURCE_STATE_NOT_FOUND, "there is no such file where ingest runs")
        case PermissionError() if source.kind == SourceKind.FILE:
            return SourceFailure(frame_pb2.SOURCE_STATE_NOT_FOUND, "ingest may not read this file")
        case IsADirectoryError():
            return SourceFailure(frame_pb2.SOURCE_STATE_UNSUPPORTED, "this is a directory, not a video file")
        case av.error.ArgumentError() if source.kind == SourceKind.FILE:
            # What FFmpeg says of a format that it is not to read.
            return SourceFailure(
                frame_pb2.SOURCE_STATE_UNSUPPORTED,
                "the format of this file is not supported; give a file of video, not a playlist",
            )
        case _ if isinstance(error, _UNSUPPORTED):
            return SourceFailure(frame_pb2.SOURCE_STATE_UNSUPPORTED, "what the source sends is not supported")
        case av.error.InvalidDataError() | av.error.EOFError() if source.kind != SourceKind.RTSP:
            return SourceFailure(
                frame_pb2.SOURCE_STATE_UNSUPPORTED, "the source holds no video that can be read"
            )
    return lost_connection(error, source, took_s, timeout_s, "the source did not answer")


def lost_connection(
    error: Exception, source: Source, took_s: float, timeout_s: float, silent: str
) -> SourceFailure:
    if isinstance(error, TimeoutError | av.error.ExitError) or took_s >= timeout_s * 0.95:
        detail = f"{silent} for {timeout_s:g} s"
    elif isinstance(error, av.error.InvalidDataError | av.error.EOFError):
        detail = "the source closed the connection or broke the protocol"
    elif isinstance(error, av.error.HTTPOtherClientError):
        detail = "the source refuses to play: too many viewers, or a request it does not know"
    elif isinstance(error, av.error.FFmpegError):
        detail = source.scrub(str(error.strerror)).lower()
    else:
        detail = source.scrub(str(error))
    return SourceFailure(frame_pb2.SOURCE_STATE_DISCONNECTED, detail)
