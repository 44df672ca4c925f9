"""What is wrong with samples, as the commands that read them show it."""

from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:  # needs pydantic's import, which other commands need not wait for
    from models.data.finding import Finding

_MAX_SHOWN = 50


class FindingLog:
    """Shows the first findings at once, and of the rest how many there were."""

    def __init__(self, console: Console, *, shows_broken: bool = True) -> None:
        """Without `shows_broken`: where what is broken ends the command, and is told as its error."""
        self._console = console
        self._shows_broken = shows_broken
        self._num_seen = 0

    def add(self, finding: "Finding") -> None:
        if finding.broken and not self._shows_broken:
            return
        self._num_seen += 1
        if self._num_seen <= _MAX_SHOWN or finding.broken:
            kind = "[red]broken[/red]" if finding.broken else "[yellow]note[/yellow]"
            self._console.print(kind, end=" ")
            self._console.print(str(finding), markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        if self._num_seen > _MAX_SHOWN:
            self._console.print(
                f"{self._num_seen} findings; the notes after the first {_MAX_SHOWN} are counted only."
            )
