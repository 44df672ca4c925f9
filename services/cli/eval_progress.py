"""What the `streamo eval` commands show while they work, and how they end on a mistake."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from services.shared.errors import InvalidInput


@contextmanager
def mistakes_told() -> Iterator[None]:
    """A caller's mistake ends the command with one line instead of a traceback."""
    from models.engine.errors import EngineFull
    from models.evaluation.plots import PlotsUnavailable

    try:
        yield
    except EngineFull as error:
        raise InvalidInput(f"{error}: give a higher --at-once, or fewer --window-rounds") from error
    except (ValueError, OSError, PlotsUnavailable) as error:  # an OSError names its file
        raise InvalidInput(str(error)) from error


@contextmanager
def progress(
    console: Console, what: str, total: int
) -> Iterator[tuple[Callable[[], None], Callable[[], None]]]:
    """A bar over `total` things; gives what to call when one is done, and when a round is."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rounds]:,} rounds"),
        TimeElapsedColumn(),
        console=console,
    ) as bars:
        bar = bars.add_task(what, total=total, rounds=0)

        def on_round() -> None:
            bars.update(bar, rounds=bars.tasks[0].fields["rounds"] + 1)

        yield lambda: bars.advance(bar), on_round
