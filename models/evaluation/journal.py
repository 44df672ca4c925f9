"""What a long run has done so far, on disk as it is done, so that it goes on where it was ended."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path
from typing import Any, BinaryIO


class Journal:
    """A file of JSON lines: the settings of the run, then one line a record. Use it as a context manager.

    A last line that was cut short is dropped: its record is made again. Raises ValueError, naming the first
    difference, where the file was written under other settings, and where another process is writing it.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self._path = path
        self._records: dict[str, Any] = {}
        # As they are read back: tuples are lists in JSON.
        settings = json.loads(json.dumps(settings))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        self._file: BinaryIO = path.open("r+b")
        try:
            self._lock_and_read(settings)
        except BaseException:
            self._file.close()
            raise

    def _lock_and_read(self, settings: dict[str, Any]) -> None:
        path = self._path
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"{path} is being written by another run; wait for its end, or choose another directory"
            ) from error
        if whole := _whole_lines(path):
            before, *records = (json.loads(line) for line in whole)
            if before["settings"] != settings:
                raise ValueError(
                    f"{path} was written under other settings ({_difference(before['settings'], settings)}); "
                    "choose another directory, or remove it to begin anew"
                )
            self._records = {record["key"]: record["value"] for record in records}
        # Behind the last whole line, however long it is.
        self._file.seek(sum(len(line) for line in whole))
        self._file.truncate()
        if not whole:
            self._write({"settings": settings})

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __contains__(self, key: str) -> bool:
        return key in self._records

    def __getitem__(self, key: str) -> Any:
        return self._records[key]

    def add(self, key: str, value: Any) -> None:
        """`value` must be JSON. On disk when this returns, as far as the operating system says so."""
        if key in self._records:
            raise ValueError(f"{self._path}: {key!r} is there already")
        self._records[key] = value
        self._write({"key": key, "value": value})

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        self._file.flush()


def read_journal(path: Path) -> tuple[dict[str, Any], list[Any]]:
    """Settings and records of a journal. ValueError if there is none."""
    lines = _whole_lines(path)
    if not lines:
        raise ValueError(f"{path} is missing or empty: no run has been written there")
    first, *records = (json.loads(line) for line in lines)
    return first["settings"], [record["value"] for record in records]


def _whole_lines(path: Path) -> list[bytes]:
    """With their line ends, which are b"\\n" alone: what else ends a line for Python may stand in a text."""
    if not path.is_file():
        return []
    with path.open("rb") as file:
        return [line for line in file if line.endswith(b"\n")]


def _difference(before: Any, now: Any, name: str = "") -> str:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted({*before, *now}):
            if before.get(key) != now.get(key):
                return _difference(before.get(key), now.get(key), f"{name}.{key}" if name else key)
    return f"{name or 'settings'}: {before!r} then, {now!r} now"
