"""Keeps a local stack up until it is told to stop: python -m services.local --directory DIR"""

import argparse
import signal
import sys
from pathlib import Path
from types import FrameType

from services.local.directory import DIRECTORY
from services.local.local_stack import LocalStack
from services.shared.errors import ServiceError
from services.shared.lifecycle import StopSignal


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m services.local", description=__doc__)
    parser.add_argument("--directory", type=Path, default=DIRECTORY)
    arguments = parser.parse_args()
    # Until the stack is up a signal breaks off the start; afterwards it ends the wait.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        stack = LocalStack(arguments.directory)
        with stack:
            stop = StopSignal()
            while not stop.wait(3600.0):
                pass
    except KeyboardInterrupt:
        sys.exit(130)
    except ServiceError as error:
        sys.exit(str(error))


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
