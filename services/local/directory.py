"""Where a local stack keeps everything."""

from pathlib import Path

DIRECTORY = Path(".streamo")
