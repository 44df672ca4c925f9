"""What a local stack left on disk about itself, so that another process can find it and end it."""

import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from services.local.process_record import ProcessRecord, kill_all, tree_of
from services.local.ray_cluster import temp_dir

_TERM_TIMEOUT_S = 60.0
_LEFTOVER_TERM_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class StackState:
    """`settings` are the STREAMO_ variables that point at this stack; `environment` the others, to reach its Ray."""

    supervisor: ProcessRecord
    state: str  # starting, ready, stopping, failed
    gateway: str
    ray_address: str = ""
    settings: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    processes: tuple[ProcessRecord, ...] = ()
    # Part -> waiting, starting, ready, failed; with a word for people.
    parts: dict[str, tuple[str, str]] = field(default_factory=dict)
    failure: str = ""

    @property
    def is_alive(self) -> bool:
        return self.state != "failed" and self.supervisor.process() is not None


class StackFile:
    def __init__(self, directory: Path) -> None:
        self.path = directory / "stack.json"

    def read(self) -> StackState | None:
        """None where no stack was ever started here, or it was stopped in order."""
        try:
            value = json.loads(self.path.read_text())
        except FileNotFoundError:
            return None
        value["supervisor"] = ProcessRecord.from_json(value["supervisor"])
        value["processes"] = tuple(ProcessRecord.from_json(one) for one in value["processes"])
        value["parts"] = {name: (str(state), str(detail)) for name, (state, detail) in value["parts"].items()}
        return StackState(**value)

    def write(self, state: StackState) -> None:
        """Whole or not at all: a reader never sees half of it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        staged = self.path.with_suffix(".tmp")
        staged.touch(mode=0o600)
        staged.write_text(json.dumps(asdict(state), indent=2))
        os.replace(staged, self.path)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def end_stack(self) -> list[str]:
        """Ends the stack described here, in order where its supervisor still lives; the names of what was ended.

        A process is touched only if it is the very one that was started: same id and same start time.
        """
        state = self.read()
        if state is None:
            return []
        ended = []
        supervisor = state.supervisor.process() if state.is_alive else None
        if supervisor is not None and supervisor.pid != os.getpid():
            supervisor.terminate()
            psutil.wait_procs([supervisor], timeout=_TERM_TIMEOUT_S)
            kill_all([supervisor] if supervisor.is_running() else [])
            ended.append(state.supervisor.name)
        left = {
            record.name: process for record in state.processes if (process := record.process()) is not None
        }
        trees = [process for one in left.values() for process in tree_of(one.pid)]
        for process in left.values():
            process.terminate()
        _, alive = psutil.wait_procs(list(left.values()), timeout=_LEFTOVER_TERM_TIMEOUT_S)
        kill_all(process for process in [*alive, *trees] if process.is_running())
        shutil.rmtree(temp_dir(self.path.parent / "model"), ignore_errors=True)
        self.remove()
        return ended + list(left)
