"""Shows how the parts of a local stack come up."""

from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:  # psutil, which is not there where only the command is installed
    from services.local.stack_file import StackState

_STYLES = {"waiting": "dim", "starting": "yellow", "ready": "green", "failed": "bold red"}


class StartProgress:
    """Given to LocalStack as `on_change`; draws while it is entered."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, refresh_per_second=4, transient=False)
        self._terminal = console.is_terminal
        self._console = console
        self._told: dict[str, str] = {}

    def __call__(self, state: "StackState") -> None:
        if self._terminal:
            self._live.update(self._table(state))
            return
        for name, (word, detail) in state.parts.items():
            if self._told.get(name) != word and word in ("ready", "failed"):
                self._console.print(f"{name}: {word} {detail}".rstrip(), markup=False)
            self._told[name] = word

    def __enter__(self) -> Self:
        if self._terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._terminal:
            self._live.stop()

    def _table(self, state: "StackState") -> Table:
        table = Table.grid(padding=(0, 2))
        for name, (word, detail) in state.parts.items():
            table.add_row(name, Text(word, style=_STYLES.get(word, "")), Text(detail))
        return table
