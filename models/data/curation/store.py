"""What was paid for or took long, kept on disk under the hash of what it was made from.

A process may be killed at any moment: an entry is there whole or not at all.
"""

import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Any


def content_key(*parts: Any) -> str:
    """The same for the same JSON values, on any machine."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def write_whole(path: Path, data: bytes) -> None:
    """The file appears with all of `data`, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


class Store:
    """JSON values by key. Safe for many threads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, key: str) -> Any | None:
        """None where there is none, or none that can be read."""
        try:
            return json.loads(self._path(key).read_bytes())
        except (FileNotFoundError, ValueError):
            return None

    def put(self, key: str, value: Any) -> None:
        write_whole(self._path(key), json.dumps(value, ensure_ascii=False).encode())

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.json"


class Ledger:
    """What has been paid, a line for each reply, written before the reply is used: nothing paid goes uncounted.
    largest_tokens: of the dearest."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self.num_replies = 0
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.num_estimated = 0
        self.largest_tokens = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        needs_newline = False
        if path.exists():
            text = path.read_text("utf-8")
            needs_newline = bool(text) and not text.endswith("\n")
            for line in text.splitlines():
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue  # the line that was being written when the process was killed
                self._count(entry)
        self._file = path.open("a", encoding="utf-8")
        if needs_newline:
            self._file.write("\n")

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def add(self, prompt_tokens: int, completion_tokens: int, is_estimated: bool) -> None:
        entry = {"prompt": prompt_tokens, "completion": completion_tokens, "estimated": is_estimated}
        with self._lock:
            self._count(entry)
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _count(self, entry: dict[str, Any]) -> None:
        prompt, completion = int(entry["prompt"]), int(entry["completion"])
        self.num_replies += 1
        self.prompt_tokens += prompt
        self.completion_tokens += completion
        self.largest_tokens = max(self.largest_tokens, prompt + completion)
        self.num_estimated += bool(entry["estimated"])
