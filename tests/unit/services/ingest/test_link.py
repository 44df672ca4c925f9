import pytest

from services.ingest.link import (
    Closed,
    Message,
    Open,
    Opened,
    Quit,
    Start,
    pack_command,
    pack_message,
    unpack_command,
    unpack_message,
)
from streamo.v1.frame_pb2 import SOURCE_STATE_ENDED, Frame, SourceStatus


@pytest.mark.parametrize("command", [Open(), Start(-1), Start(2**40), Quit()])
def test_commands_arrive_as_sent(command: Open | Start | Quit):
    assert unpack_command(pack_command(command)) == command


@pytest.mark.parametrize(
    "message",
    [
        Opened(True),
        Opened(False),
        Frame(frame_seq=3, data=b"\x00\x01", width=28, height=28),
        Closed(SourceStatus(state=SOURCE_STATE_ENDED, detail="over", num_kept=7)),
    ],
)
def test_messages_arrive_as_sent(message: Message):
    assert unpack_message(pack_message(message)) == message


@pytest.mark.parametrize("data", [b"", b"X", b"F\xff\xff\xff", b"C\xff", b"\x80\x04."])
def test_nonsense_is_refused(data: bytes):
    with pytest.raises(ValueError, match="message"):
        unpack_message(data)
