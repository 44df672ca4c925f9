import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from services.local.process_record import ProcessRecord
from services.local.service_process import ServiceProcess
from services.shared.errors import Unavailable

# Tells that it is ready by a file, then waits; with "child" it has a child that ignores SIGTERM.
PROGRAM = """
import signal, subprocess, sys, time
from pathlib import Path
if "child" in sys.argv:
    child = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE)
    process.stdout.readline()
if "deaf" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "broken" in sys.argv:
    sys.exit("the cellar is flooded")
Path(sys.argv[1]).write_text("ready")
time.sleep(600)
"""

Make = Callable[..., ServiceProcess]


@pytest.fixture
def make(tmp_path: Path):  # type: ignore[no-untyped-def]
    made = []

    def make(*words: str, **options: object) -> ServiceProcess:
        ready = tmp_path / "ready"
        values: dict[str, object] = {
            "ready": ready.exists,
            "ready_timeout_s": 20.0,
            "stop_timeout_s": 2.0,
            **options,
        }
        process = ServiceProcess(
            "program", [sys.executable, "-c", PROGRAM, str(ready), *words], tmp_path / "program.log", **values
        )
        made.append(process)
        return process

    yield make
    for process in made:
        process.kill()


def wait_until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "it did not come about"
        time.sleep(0.02)


def test_start_returns_when_ready_and_stop_ends_it(make: Make, tmp_path: Path) -> None:
    process = make()
    process.start()
    assert (tmp_path / "ready").exists()
    pid = process.pid
    assert pid is not None
    process.stop()
    assert not psutil.pid_exists(pid)
    assert process.pid is None


def test_a_process_that_ends_while_starting_is_told_with_its_last_words(make: Make) -> None:
    with pytest.raises(Unavailable, match="the cellar is flooded"):
        make("broken").start()


def test_a_process_that_is_never_ready_is_told_and_ended(make: Make) -> None:
    process = make(ready=lambda: False, ready_timeout_s=0.3)
    with pytest.raises(Unavailable, match="was not ready within"):
        process.start()
    assert not process.is_running


def test_stop_kills_what_does_not_listen_and_its_children(make: Make) -> None:
    process = make("deaf", "child", stop_timeout_s=0.5)
    process.start()
    tree = psutil.Process(process.pid).children(recursive=True)
    assert len(tree) == 1
    process.stop()
    assert not any(one.is_running() for one in tree)


def test_kill_takes_the_whole_tree_and_start_brings_it_back(make: Make) -> None:
    process = make("child", restart=True)
    process.start()
    first = process.pid
    tree = psutil.Process(first).children(recursive=True)
    process.kill()
    assert not any(one.is_running() for one in tree)
    assert process.num_restarts == 0
    process.start()
    assert process.pid not in (None, first)


def test_a_supervised_process_that_dies_is_started_again_and_recorded(make: Make) -> None:
    records: list[ProcessRecord] = []
    process = make(restart=True, on_start=records.append)
    process.start()
    first = process.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: process.num_restarts == 1 and process.is_running)
    assert [record.pid for record in records] == [first, process.pid]
    process.stop()
    assert not process.is_running


def test_a_restart_that_fails_is_told_in_the_log_and_tried_again(make: Make) -> None:
    records: list[ProcessRecord] = []
    failed: list[ProcessRecord] = []

    def record(one: ProcessRecord) -> None:
        if records and not failed:
            failed.append(one)
            raise OSError("the disk is full")
        records.append(one)

    process = make("child", restart=True, on_start=record)
    process.start()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: process.num_restarts == 1 and process.is_running)
    assert [one.process() for one in failed] == [None], "what could not be recorded does not run"
    assert records[-1].pid == process.pid
    assert "could not be started again" in process.log_tail()
    assert "the disk is full" in process.log_tail()


def test_a_restart_whose_log_cannot_be_opened_is_tried_again(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    process = make(restart=True)
    process.start()
    first = process.pid
    assert first is not None
    process.log_path.unlink()
    process.log_path.mkdir()
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: "could not be started again" in caplog.text)
    process.log_path.rmdir()
    wait_until(lambda: process.num_restarts == 1 and process.is_running)


def test_an_unsupervised_process_stays_dead(make: Make) -> None:
    process = make()
    process.start()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: not process.is_running)
    assert process.num_restarts == 0


def test_a_child_gets_the_given_settings_and_none_of_ours(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAMO_KAFKA__PREFIX", "ours-")
    process = make(environment={"STREAMO_LLM__MAX_SESSIONS": "3"})
    process.start()
    environment = psutil.Process(process.pid).environ()
    assert environment["STREAMO_LLM__MAX_SESSIONS"] == "3"
    assert environment["OMP_NUM_THREADS"] == "1"
    assert "STREAMO_KAFKA__PREFIX" not in environment
