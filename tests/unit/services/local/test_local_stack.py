"""How a local stack stops, with its parts replaced."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from services.local.local_stack import LocalStack
from services.local.stack_file import StackFile, StackState

PARTS = ("kafka", "redis", "model", "gateway", "ingest")


class Part:
    process = None

    def __init__(self, stop: Callable[[], None]) -> None:
        self.stop = stop


class Rehearsal:
    """A stack that holds its directory and whose parts count how often they were stopped; `failing` raises once."""

    def __init__(self, directory: Path, failing: str = "", failure: BaseException | None = None) -> None:
        self.stack = LocalStack(directory)
        self.num_stops = dict.fromkeys(PARTS, 0)
        self._failing, self._failure = failing, failure
        self.stack._hold_directory()
        self.stack._parts = {name: Part(lambda name=name: self._stop(name)) for name in PARTS}

    def _stop(self, name: str) -> None:
        self.num_stops[name] += 1
        if name == self._failing and self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), RuntimeError("a bug")], ids=["Ctrl-C", "a bug"])
def test_whatever_comes_in_between_every_part_is_stopped(tmp_path: Path, failure: BaseException) -> None:
    rehearsal = Rehearsal(tmp_path, "gateway", failure)
    with pytest.raises(type(failure)):
        rehearsal.stack.down()
    assert min(rehearsal.num_stops.values()) >= 1
    assert StackFile(tmp_path).read() is None
    Rehearsal(tmp_path)  # the directory is free again


def test_a_full_disk_stops_the_stack_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rehearsal = Rehearsal(tmp_path)

    def write(file: StackFile, state: StackState) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(StackFile, "write", write)
    rehearsal.stack.down()
    assert min(rehearsal.num_stops.values()) >= 1
    assert StackFile(tmp_path).read() is None
