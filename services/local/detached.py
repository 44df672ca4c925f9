"""A local stack that stays up when the command that started it ends."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from services.local.stack_file import StackFile, StackState
from services.shared.errors import AlreadyExists, TimedOut, Unavailable

_START_TIMEOUT_S = 360.0
_POLL_S = 0.1


def start_detached(directory: Path, on_change: Callable[[StackState], None]) -> StackState:
    """Returns once every part is ready. Raises AlreadyExists, or Unavailable with what went wrong; then nothing runs.

    The supervising process gets this one's environment, so the settings are the same.
    """
    file = StackFile(directory)
    state = file.read()
    if state is not None and state.is_alive:
        raise AlreadyExists(f"a stack already runs in {directory}; stop it first: streamo down")
    file.end_stack()
    log_path = directory / "logs" / "supervisor.log"
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("wb") as log:
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "services.local", "--directory", str(directory)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    try:
        while time.monotonic() < deadline_s:
            is_running = supervisor.poll() is None
            state = file.read()
            if state is not None:
                on_change(state)
                if state.state == "ready":
                    return state
                if state.state == "failed":
                    raise Unavailable(state.failure)
            if not is_running:
                raise Unavailable(
                    log_path.read_text().strip() or f"the stack ended with code {supervisor.returncode}"
                )
            time.sleep(_POLL_S)
        raise TimedOut(f"the stack was not ready within {_START_TIMEOUT_S:g} s; see {log_path}")
    except BaseException:
        supervisor.terminate()
        raise
