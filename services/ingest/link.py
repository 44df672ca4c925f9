"""What the worker and a camera's process say to each other. No pickle: the process handles hostile media."""

import struct
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from streamo.v1.frame_pb2 import Frame, SourceStatus

_OPENED, _FRAME, _CLOSED = b"O", b"F", b"C"
_OPEN, _START, _QUIT = b"o", b"s", b"q"


@dataclass(frozen=True)
class Open:
    """To the process: open the source."""


@dataclass(frozen=True)
class Start:
    """To the process: read what it has opened; only pictures after this media time."""

    after_ms: int


@dataclass(frozen=True)
class Quit:
    """To the process: leave the source in order and end."""


@dataclass(frozen=True)
class Opened:
    """To the worker: waits for Start."""

    is_finite: bool


@dataclass(frozen=True)
class Closed:
    """To the worker, after the last frame: why there are no more; `num_kept` is of this run."""

    status: SourceStatus


Command = Open | Start | Quit
Message = Opened | Frame | Closed


def pack_command(command: Command) -> bytes:
    match command:
        case Open():
            return _OPEN
        case Start(after_ms):
            return _START + struct.pack("!q", after_ms)
        case Quit():
            return _QUIT


def unpack_command(data: bytes) -> Command:
    match data[:1]:
        case b"o":
            return Open()
        case b"s":
            return Start(struct.unpack("!q", data[1:])[0])
        case b"q":
            return Quit()
    raise ValueError(f"unknown command {data[:1]!r}")


def pack_message(message: Message) -> bytes:
    match message:
        case Opened(is_finite):
            return _OPENED + bytes((is_finite,))
        case Closed(status):
            return _CLOSED + status.SerializeToString()
    return _FRAME + message.SerializeToString()


def unpack_message(data: bytes) -> Message:
    """Raises ValueError for anything that is no message."""
    try:
        match data[:1]:
            case b"O":
                return Opened(data[1:] == b"\x01")
            case b"F":
                return Frame.FromString(data[1:])
            case b"C":
                return Closed(SourceStatus.FromString(data[1:]))
    except DecodeError as error:
        raise ValueError(f"message does not parse: {error}") from error
    raise ValueError(f"unknown message {data[:1]!r}")
