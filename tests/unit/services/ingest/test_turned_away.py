"""What is told to those that a worker has no room for, while Kafka is there and while it is not."""

from services.ingest.turned_away import TurnedAway
from services.shared.control_log import AddedStream
from services.shared.errors import Unavailable
from streamo.v1.frame_pb2 import SourceState
from streamo.v1.stream_pb2 import Stream


class Log:
    """In place of a FrameLog and its StreamLogs; `told` has the ids of the streams in order."""

    def __init__(self) -> None:
        self.is_away = False
        self.num_tries = 0
        self.told: list[str] = []

    def of(self, added: AddedStream) -> "StreamLog":
        return StreamLog(self, added.stream.stream_id)


class StreamLog:
    def __init__(self, log: Log, stream_id: str) -> None:
        self._log = log
        self._stream_id = stream_id
        self._is_told = False

    def write_status(self, state: SourceState, detail: str, retry_in_s: float) -> None:
        assert state == SourceState.SOURCE_STATE_DISCONNECTED
        assert "max_streams = 3" in detail
        if self._is_told:
            return
        self._log.num_tries += 1
        if self._log.is_away:
            raise Unavailable("Kafka is away")
        self._is_told = True
        self._log.told.append(self._stream_id)


def added(stream_id: str, version: int) -> AddedStream:
    return AddedStream(Stream(stream_id=stream_id), version)


def test_each_is_told_once_for_as_long_as_it_waits() -> None:
    log = Log()
    turned_away = TurnedAway(log, 3)
    for _ in range(3):
        turned_away.tell([added("gate", 1), added("yard", 2)])
    assert log.told == ["gate", "yard"]


def test_while_kafka_is_away_one_is_tried_a_round_and_later_all_are_told() -> None:
    log = Log()
    turned_away = TurnedAway(log, 3)
    log.is_away = True
    for num_rounds in (1, 2):
        turned_away.tell([added("gate", 1), added("yard", 2)])
        assert log.num_tries == num_rounds
    log.is_away = False
    turned_away.tell([added("gate", 1), added("yard", 2)])
    assert log.told == ["gate", "yard"]


def test_one_that_ran_meanwhile_or_was_added_anew_is_told_again() -> None:
    log = Log()
    turned_away = TurnedAway(log, 3)
    turned_away.tell([added("gate", 1), added("yard", 2)])
    turned_away.tell([added("gate", 5)])
    turned_away.tell([added("gate", 5), added("yard", 2)])
    assert log.told == ["gate", "yard", "gate", "yard"]
