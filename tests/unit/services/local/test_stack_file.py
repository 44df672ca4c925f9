import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from services.local.process_record import ProcessRecord, kill_all, tree_of
from services.local.stack_file import StackFile, StackState


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


def gone() -> ProcessRecord:
    """A process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    record = ProcessRecord.of("gone", process.pid)
    process.communicate()
    return record


def state(**values: object) -> StackState:
    base = StackState(supervisor=gone(), state="ready", gateway="127.0.0.1:50051")
    return replace(base, **values)  # type: ignore[arg-type]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    file = StackFile(tmp_path / "new")
    assert file.read() is None
    written = state(
        supervisor=ProcessRecord.of("supervisor", os.getpid()),
        processes=(gone(),),
        parts={"kafka": ("ready", ""), "model": ("starting", "")},
        settings={"STREAMO_KAFKA__PREFIX": "x"},
    )
    file.write(written)
    assert file.read() == written
    assert written.is_alive
    assert file.path.stat().st_mode & 0o077 == 0, "others must not read it"


def test_a_killed_stack_is_found_dead_and_what_it_left_is_ended(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    file = StackFile(tmp_path)
    file.write(state(processes=(gone(), ProcessRecord.of("left", sleeper.pid))))
    found = file.read()
    assert found is not None
    assert not found.is_alive
    assert file.end_stack() == ["left"]
    assert sleeper.wait(10) is not None
    assert file.read() is None


def test_a_process_that_only_has_the_same_id_is_left_alone(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    record = ProcessRecord.of("kafka", sleeper.pid)
    earlier = replace(record, started_at_s=record.started_at_s - 60)
    file = StackFile(tmp_path)
    file.write(state(supervisor=earlier, processes=(earlier,)))
    assert file.end_stack() == []
    assert sleeper.poll() is None


def test_a_living_supervisor_is_asked_to_end_first(tmp_path: Path) -> None:
    script = """
import signal, sys
from pathlib import Path
signal.signal(signal.SIGTERM, lambda *_: (Path(sys.argv[1]).write_text("in order"), sys.exit()))
print("up", flush=True)
signal.pause()
"""
    told = tmp_path / "told"
    supervisor = subprocess.Popen([sys.executable, "-c", script, str(told)], stdout=subprocess.PIPE)
    assert supervisor.stdout is not None
    supervisor.stdout.readline()
    file = StackFile(tmp_path)
    file.write(state(supervisor=ProcessRecord.of("supervisor", supervisor.pid)))
    assert file.end_stack() == ["supervisor"]
    assert told.read_text() == "in order"
    supervisor.wait(10)


def test_kill_all_takes_descendants_and_refuses_itself(sleeper: subprocess.Popen[bytes]) -> None:
    script = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"
    parent = subprocess.Popen([sys.executable, "-c", script])
    deadline_s = time.monotonic() + 20
    while len(tree_of(parent.pid)) < 2:
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    tree = tree_of(parent.pid)
    kill_all(tree)
    parent.wait(10)
    assert not any(process.is_running() for process in tree)
    with pytest.raises(ValueError, match="own tree"):
        kill_all([psutil.Process()])
    assert sleeper.poll() is None
