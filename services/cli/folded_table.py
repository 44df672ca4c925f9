"""Tables that cut nothing off: too long a text goes on in the next line, and out of a terminal no line is too long."""

from rich.console import Console
from rich.table import Column, Table

_WIDTH_OUT_OF_A_TERMINAL = 4096


def folded_table(*headers: str) -> Table:
    return Table(*(Column(header, overflow="fold") for header in headers), box=None, pad_edge=False)


def print_folded(table: Table | str) -> None:
    """To standard output. In a pipe or a file a row is one line."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH_OUT_OF_A_TERMINAL)
    console.print(table)
