"""The `control` topic without Kafka."""

from collections.abc import Sequence

from services.gateway.control_desk import ControlDesk
from services.shared.control_log import Change, ControlView
from services.shared.errors import Unavailable
from streamo.v1.control_pb2 import ControlRecord


class ControlInMemory:
    """The `control` log, as reader, writer and history of a ControlDesk; takes `room` more records."""

    def __init__(self) -> None:
        self.views = [ControlView()]  # after each record
        self.room = 1000

    @property
    def view(self) -> ControlView:
        return self.views[-1]

    def desk(self) -> ControlDesk:
        return ControlDesk(self, self, self, timeout_s=10.0)  # type: ignore[arg-type]

    def write(self, key: bytes, record: ControlRecord | None) -> int:
        return self.write_all([(key, record)])

    def write_all(self, changes: Sequence[Change]) -> int:
        for key, record in changes:
            if self.room == 0:
                raise Unavailable("Kafka is away")
            self.room -= 1
            value = None if record is None else record.SerializeToString()
            self.views.append(self.view.after(key, value, self.view.next_offset))
        return self.view.next_offset - 1

    def wait_for(self, next_offset: int, timeout_s: float) -> ControlView:
        assert self.view.next_offset >= next_offset
        return self.view

    async def control_end(self) -> int:
        return self.view.next_offset
