"""Large JSON lists on disk, an element at a time: neither side ever holds the whole file."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any

_CHUNK_CHARS = 1 << 20
_SPACE = " \t\r\n"


def read_json_array(path: Path) -> Iterator[Any]:
    """The elements of the list in `path`, in order; a file that is a single object has that one element.

    ValueError, naming the file and the position, where the text is no JSON list.
    """
    with path.open(encoding="utf-8-sig") as file:
        yield from _Elements(file, path)


class _Elements:
    """A window over the text that grows until it holds the next element whole."""

    def __init__(self, file: IO[str], path: Path) -> None:
        self._file = file
        self._path = path
        self._decoder = json.JSONDecoder()
        self._text = ""
        self._at = 0
        self._dropped_chars = 0
        self._num_read = 0
        self._is_at_end = False

    def __iter__(self) -> Iterator[Any]:
        opening = self._next_char()
        if opening == "{":
            yield self._element()
            self._expect_end()
            return
        if opening != "[":
            raise self._error("expected a list of samples, '[ ... ]'")
        self._at += 1
        if self._next_char() == "]":
            self._at += 1
            self._expect_end()
            return
        while True:
            self._next_char()
            yield self._element()
            separator = self._next_char()
            self._at += 1
            if separator == "]":
                self._expect_end()
                return
            if separator != ",":
                self._at -= 1
                raise self._error(
                    "expected ',' or ']' after an element" if separator else "the file is cut off"
                )

    def _next_char(self) -> str:
        """The next character that is no space, not consumed; "" at the end of the file."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in _SPACE:
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._grow():
                return ""

    def _element(self) -> Any:
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                position = self._dropped_chars + error.pos
                if self._grow():
                    continue
                self._at = position - self._dropped_chars
                raise self._error(error.msg) from error
            # A number may go on beyond what has been read.
            position = self._dropped_chars + end
            if end == len(self._text) and self._grow():
                continue
            self._at = position - self._dropped_chars
            self._num_read += 1
            return value

    def _grow(self) -> bool:
        """Reads more, and forgets what was read before the current place; False at the end of the file."""
        if self._is_at_end:
            return False
        self._dropped_chars += self._at
        self._text = self._text[self._at :]
        self._at = 0
        # Doubling, so that an element larger than a chunk is not scanned once for every chunk of it.
        try:
            more = self._file.read(max(_CHUNK_CHARS, len(self._text)))
        except UnicodeDecodeError as error:
            raise self._error(f"is not UTF-8 ({error.reason})") from error
        self._text += more
        self._is_at_end = not more
        return bool(more)

    def _expect_end(self) -> None:
        if self._next_char():
            raise self._error("the list is followed by something else")

    def _error(self, reason: str) -> ValueError:
        position = self._dropped_chars + self._at
        return ValueError(f"{self._path}: {reason} (element {self._num_read}, character {position})")


class JsonArrayWriter:
    """Writes a JSON list element by element; the file appears whole at the end of the `with`, or not at all."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        self._file: IO[str] | None = None
        self._num_written = 0

    def __enter__(self) -> "JsonArrayWriter":
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._partial.open("w", encoding="utf-8")
        self._file.write("[")
        return self

    def write(self, element: Any) -> None:
        assert self._file is not None, "write inside the with"
        self._file.write(",\n" if self._num_written else "\n")
        json.dump(element, self._file, ensure_ascii=False)
        self._num_written += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._file is not None
        try:
            if error is None:
                self._file.write("\n]\n")
                self._file.flush()
                os.fsync(self._file.fileno())
        finally:
            self._file.close()
        if error is None:
            os.replace(self._partial, self._path)
        else:
            self._partial.unlink(missing_ok=True)
