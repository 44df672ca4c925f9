"""Video sources as services on this machine, which run in a directory of their own, find them."""

from contextlib import suppress
from pathlib import Path

from services.shared.errors import InvalidInput


def local_source(source: str, name: str) -> str:
    """Paths are made whole; addresses stay. Raises InvalidInput, which names `name`, for a file that is not there or
    cannot be looked at.
    """
    if "://" in source:
        return source
    path = Path(source)
    with suppress(RuntimeError):  # "~" begins its name
        path = path.expanduser()
    try:
        path = path.resolve()
        if not path.is_file():
            raise InvalidInput(f"{name} {source}: there is no such file")
    except OSError as error:
        raise InvalidInput(f"{name} {source}: {error.strerror}") from error
    return str(path)
