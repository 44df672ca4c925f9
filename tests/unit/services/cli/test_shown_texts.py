"""Texts of users stand in tables and lines as they were given: a bracket is no markup."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from services.cli import watch_commands
from services.cli.folded_table import print_folded
from services.cli.main import app
from services.cli.start_progress import StartProgress
from services.cli.stream_commands import streams_table
from services.local.process_record import ProcessRecord
from services.local.stack_file import StackState
from streamo.v1.frame_pb2 import SourceState
from streamo.v1.stream_pb2 import Stream, StreamStatus
from streamo.v1.task_pb2 import Task
from streamo.v1.watch_pb2 import Watch

TEXTS = ["Report [urgent] cars", "What [/what] is it?"]


class OneWatch:
    def __init__(self, instruction: str) -> None:
        self._watch = Watch(stream_id="gate", watch_id="w", task=Task.TASK_EVENT, instruction=instruction)

    def list_watches(self, stream_id: str) -> list[Watch]:
        return [self._watch]


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


@pytest.mark.parametrize("text", TEXTS)
def test_instructions_are_listed_as_they_are(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def open_client(gateway: str, directory: Path) -> Iterator[OneWatch]:
        yield OneWatch(text)

    monkeypatch.setattr(watch_commands, "open_client", open_client)
    done = CliRunner().invoke(app, ["watch", "list"], catch_exceptions=False)
    assert text in done.output


def test_sources_are_listed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    status = StreamStatus(
        stream=Stream(stream_id="gate", source="rtsp://[fe80::12]:554/main"),
        source_state=SourceState.SOURCE_STATE_DISCONNECTED,
        source_detail="no [/route] to [host]",
    )
    Console().print(streams_table([status]))
    said = capsys.readouterr().out
    assert "rtsp://[fe80::12]:554/main" in said
    assert "disconnected no [/route] to [host]" in said


@pytest.mark.parametrize("text", TEXTS)
def test_tasks_of_samples_are_shown_as_they_are(text: str, tmp_path: Path) -> None:
    samples = tmp_path / "raw.json"
    samples.write_text(json.dumps([{"video_path": "v.mp4", "task_type": text}]))
    done = CliRunner().invoke(app, ["data", "check", str(samples), "--no-videos"], catch_exceptions=False)
    assert text in done.output


def test_what_a_part_says_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    supervisor = ProcessRecord("supervisor", 1, 0.0, ())
    state = StackState(supervisor, "failed", "", parts={"gateway": ("failed", TEXTS[1])})
    StartProgress(Console())(state)
    assert f"gateway: failed {TEXTS[1]}" in capsys.readouterr().out


@pytest.mark.parametrize("text", TEXTS)
def test_tasks_of_results_are_shown_as_they_are(text: str, tmp_path: Path) -> None:
    question = {"task_type": text, "answer": "A", "streamo-push": "A"}
    results = tmp_path / "results.json"
    results.write_text(json.dumps([{"questions": [question]}]))
    done = CliRunner().invoke(
        app, ["eval", "streaming-bench", "--score", str(results)], catch_exceptions=False
    )
    assert text in done.output


def test_long_names_are_listed_whole_in_a_pipe_and_in_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    name, detail = "warehouse-north-entrance", "credentials were refused by the camera " * 3
    status = StreamStatus(
        stream=Stream(stream_id=name, source="rtsp://192.0.2.17/main"), source_detail=detail
    )
    print_folded(streams_table([status]))
    line = capsys.readouterr().out.splitlines()[1]
    assert line.startswith(f"{name} ") and "rtsp://192.0.2.17/main" in line and detail.strip() in line
    Console(width=80).print(streams_table([status]))
    narrow = capsys.readouterr().out
    assert max(map(len, narrow.splitlines())) <= 80
    assert "…" not in narrow
