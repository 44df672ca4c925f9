"""Who a process is, beyond its id: enough to end it later without ever hitting another one."""

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import psutil

# The start time is derived from the clock at boot, which may be corrected a little while the machine runs.
_START_TOLERANCE_S = 2.0
_KILL_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class ProcessRecord:
    name: str
    pid: int
    started_at_s: float
    command: tuple[str, ...]

    @classmethod
    def of(cls, name: str, pid: int) -> "ProcessRecord":
        """Where the process has already ended, a record that matches nothing."""
        try:
            process = psutil.Process(pid)
            # A child that has not called exec yet still shows its parent's command line, so only the program counts.
            return cls(name, pid, process.create_time(), tuple(process.cmdline()))
        except psutil.NoSuchProcess:
            return cls(name, pid, 0.0, ())

    @classmethod
    def from_json(cls, value: dict[str, object]) -> "ProcessRecord":
        return cls(
            name=str(value["name"]),
            pid=int(str(value["pid"])),
            started_at_s=float(str(value["started_at_s"])),
            command=tuple(str(word) for word in value["command"]),  # type: ignore[attr-defined]
        )

    def to_json(self) -> dict[str, object]:
        return asdict(self)

    def process(self) -> psutil.Process | None:
        """The live process that this record is of; None where it ended, even if its id is another's now."""
        try:
            process = psutil.Process(self.pid)
            if abs(process.create_time() - self.started_at_s) > _START_TOLERANCE_S:
                return None
            return process if process.is_running() and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None


def tree_of(pid: int) -> list[psutil.Process]:
    """The process and all its descendants, as they are now."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def kill_all(processes: Iterable[psutil.Process]) -> None:
    """SIGKILL to those that still run, and waits until they are gone. psutil refuses an id that was given anew."""
    killed = []
    for process in processes:
        if process.pid == os.getpid():
            raise ValueError("a process cannot end its own tree")
        try:
            process.kill()
            killed.append(process)
        except psutil.NoSuchProcess:
            pass
    psutil.wait_procs(killed, timeout=_KILL_TIMEOUT_S)
