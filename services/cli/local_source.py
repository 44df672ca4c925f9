"""Video sources as services on this machine, which run in a directory of their own, find them."""

from pathlib import Path

from services.shared.errors import InvalidInput


def local_source(source: str, name: str) -> str:
    """Paths are made whole; addresses stay. Raises InvalidInput for a file that is not there, under `name`."""
    if "://" in source:
        return source
    path = Path(source).expanduser().resolve()
    if not path.is_file():
        raise InvalidInput(f"{name} {source}: there is no such file")
    return str(path)
