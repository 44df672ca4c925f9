"""The whole stack by the `streamo` command: up, mended, killed, cleaned up after."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from services.cli.client import Client, ClientError
from services.local.ray_cluster import temp_dir
from services.local.stack_file import StackFile, StackState


def streamo(*arguments: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "services.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)


def wait_until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "it did not come about"
        time.sleep(0.1)


def read(directory: Path) -> StackState:
    state = StackFile(directory).read()
    assert state is not None
    return state


def processes_of(directory: Path) -> list[psutil.Process]:
    """Every process that was started for the stack in `directory`, by its environment or command line."""
    found = []
    for process in psutil.process_iter():
        try:
            told = " ".join(process.cmdline()) + process.environ().get("RAY_AUTH_TOKEN_PATH", "")
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if str(directory) in told and process.pid != os.getpid():
            found.append(process)
    return found


def answers(gateway: str) -> bool:
    try:
        with Client(gateway, timeout_s=2.0) as client:
            client.list_streams()
    except ClientError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_up_mended_killed_and_cleaned_up_after(tmp_path: Path) -> None:
    directory = tmp_path / "stack"
    up = streamo("up", "--detach", "--directory", str(directory), timeout_s=400.0)
    try:
        assert up.returncode == 0, up.stderr
        state = read(directory)
        assert state.gateway in up.stdout
        assert {record.name for record in state.processes} == {"kafka", "redis", "model", "gateway", "ingest"}
        status = streamo("status", "--directory", str(directory))
        assert status.returncode == 0, status.stdout
        assert "No streams yet" in status.stdout

        # Only on loopback, but for what Ray's replicas open for each other, which asks for the token.
        for process in processes_of(directory):
            if "ServeReplica" in " ".join(process.cmdline()):
                assert process.environ()["RAY_AUTH_MODE"] == "token"
                continue
            listening = [c.laddr.ip for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
            assert {ip.removeprefix("::ffff:") for ip in listening} <= {"127.0.0.1"}, process.cmdline()

        again = streamo("up", "--detach", "--directory", str(directory))
        assert again.returncode == 1
        assert "already runs" in again.stderr

        # A part that dies comes back.
        gateway = next(record for record in state.processes if record.name == "gateway")
        os.kill(gateway.pid, signal.SIGKILL)
        wait_until(lambda: all(one.pid != gateway.pid for one in read(directory).processes))
        wait_until(lambda: answers(state.gateway))

        # A supervisor that is killed leaves its parts behind; `down` finds them, and only them.
        os.kill(state.supervisor.pid, signal.SIGKILL)
        wait_until(lambda: not read(directory).is_alive)
        assert streamo("status", "--directory", str(directory)).returncode == 1
        assert processes_of(directory)
    finally:
        down = streamo("down", "--directory", str(directory), timeout_s=120.0)
    assert down.returncode == 0, down.stderr
    assert "gateway" in down.stdout
    wait_until(lambda: not processes_of(directory))
    assert not temp_dir(directory / "model").exists()
