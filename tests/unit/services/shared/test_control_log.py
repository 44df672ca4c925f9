import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.shared import control_log
from services.shared.control_log import ControlView, ControlWriter, end_key, epoch_key, stream_key, watch_key
from services.shared.settings import KafkaSettings
from streamo.v1.control_pb2 import ControlRecord, EpochBegin, FileEnd
from streamo.v1.stream_pb2 import Stream
from streamo.v1.watch_pb2 import Watch


def stream(name: str) -> bytes:
    return ControlRecord(stream=Stream(stream_id=name, source="a.mp4")).SerializeToString()


def watch(stream_id: str, name: str, instruction: str = "Tell me.") -> bytes:
    record = ControlRecord(watch=Watch(stream_id=stream_id, watch_id=name, instruction=instruction))
    return record.SerializeToString()


def test_a_watch_has_its_records_offset_as_version():
    view = ControlView().after(watch_key("gate", "cars"), watch("gate", "cars"), 7)
    assert view.watches["gate", "cars"].version == 7
    assert view.next_offset == 8


def test_a_null_value_takes_the_key_away():
    view = ControlView().after(stream_key("gate"), stream("gate"), 0).after(stream_key("gate"), None, 1)
    assert not view.streams
    assert view.next_offset == 2


def test_a_view_never_changes_under_its_holder():
    before = ControlView().after(stream_key("gate"), stream("gate"), 0)
    before.after(stream_key("yard"), stream("yard"), 1)
    assert set(before.streams) == {"gate"}


def test_a_file_added_again_is_no_longer_ended():
    end = ControlRecord(end=FileEnd(stream_id="clip", stream_version=0)).SerializeToString()
    view = ControlView().after(stream_key("clip"), stream("clip"), 0).after(end_key("clip"), end, 1)
    assert view.is_ended("clip")
    assert not view.after(stream_key("clip"), stream("clip"), 2).is_ended("clip")


def test_an_epoch_is_the_offset_of_its_record():
    begin = ControlRecord(epoch=EpochBegin(stream_id="gate")).SerializeToString()
    assert ControlView().after(epoch_key("gate"), begin, 41).epochs["gate"] == 41


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"nonsense/x", b""),
        (b"nonsense/x", None),
        (b"nonsense/x", stream("x")),
        (stream_key("gate"), b"\xff\xff"),
        (stream_key("gate"), b""),
        (watch_key("gate", "cars"), b""),
        (epoch_key("gate"), b""),
        (end_key("gate"), b""),
        (stream_key("gate"), stream("yard")),
        (watch_key("gate", "cars"), stream("gate")),
        (watch_key("gate", "cars"), watch("yard", "cars")),
        (watch_key("gate", "cars"), watch("gate", "people")),
        (epoch_key("gate"), ControlRecord(epoch=EpochBegin(stream_id="yard")).SerializeToString()),
        (end_key("gate"), ControlRecord(end=FileEnd(stream_id="yard")).SerializeToString()),
    ],
)
def test_a_record_that_is_none_of_ours_is_told(key, value):
    with pytest.raises(ValueError, match="control record 3"):
        ControlView().after(key, value, 3)


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(["x", "y", "z"]), st.booleans()), max_size=30
    ),
)
def test_compaction_never_changes_what_the_log_says(changes):
    """Reading only the last record of each key, at its old offset, gives the same watches."""
    whole, last = ControlView(), {}
    for offset, (stream_id, watch_id, removed) in enumerate(changes):
        key, value = (
            watch_key(stream_id, watch_id),
            None if removed else watch(stream_id, watch_id, str(offset)),
        )
        whole = whole.after(key, value, offset)
        last.pop(key, None)
        last[key] = (value, offset)
    compacted = ControlView()
    for key, (value, offset) in last.items():
        compacted = compacted.after(key, value, offset)
    assert dict(compacted.watches) == dict(whole.watches)


class Sent:
    def __init__(self, offset: int, log: list[str]) -> None:
        self.offset, self._log = offset, log

    def get(self, timeout: float) -> "Sent":
        self._log.append(f"waited for {self.offset}")
        return self


class Producer:
    def __init__(self) -> None:
        self.log: list[str] = []

    def send(self, topic: str, key: bytes, value: bytes | None, partition: int) -> Sent:
        self.log.append(f"sent {key.decode()}")
        return Sent(len(self.log) - 1, self.log)


def test_changes_that_belong_together_are_sent_before_any_is_waited_for(monkeypatch):
    """So that readers get them together, as far as can be."""
    made = Producer()
    monkeypatch.setattr(control_log, "producer", lambda _: made)
    writer = ControlWriter(KafkaSettings())
    assert writer.write_all([(stream_key("gate"), None), (watch_key("gate", "cars"), None)]) == 1
    assert made.log == ["sent stream/gate", "sent watch/gate/cars", "waited for 0", "waited for 1"]
