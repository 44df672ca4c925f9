"""Where the last `streamo tail` stopped."""

import os
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from tempfile import NamedTemporaryFile

from services.shared.errors import Unavailable


class KeptToken:
    """The resume token of the last tail with one filter at the same gateways, in whatever order they were named; of
    the stack of `directory`, whose port may change, none are named. Many processes may share it."""

    def __init__(
        self,
        directory: Path,
        gateways: Iterable[str],
        streams: Iterable[str],
        watches: Iterable[str],
        tasks: Iterable[str],
    ) -> None:
        streams, watches, tasks = (sorted(set(names)) for names in (streams, watches, tasks))
        wanted = "\n".join([*sorted(gateways), "/", *streams, "/", *watches, "/", *tasks])
        self._path = directory / f"tail-{sha256(wanted.encode()).hexdigest()[:16]}.token"

    def read(self) -> bytes:
        """Empty where there is none."""
        return self._path.read_bytes() if self._path.exists() else b""

    def write(self, token: bytes) -> None:
        """Whole or not at all. Raises Unavailable where the directory cannot be written to."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with NamedTemporaryFile(
                dir=self._path.parent, prefix=f"{self._path.stem}-", suffix=".tmp", delete=False
            ) as staged:
                staged.write(token)
            os.replace(staged.name, self._path)
        except OSError as error:
            raise Unavailable(
                f"how far it was told cannot be kept in {self._path.parent}: {error.strerror}; "
                "name a directory that can be written to with --directory"
            ) from error
