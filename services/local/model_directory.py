"""The checkpoint that this machine serves, before anything reads it."""

import os
from pathlib import Path

_NEEDED = ("config.json", "tokenizer.json", "preprocessor_config.json")


def fault_of(path: Path) -> tuple[str, str] | None:
    """What the checkpoint in `path` lacks to be served, and how to mend it; None where it has all.

    A file that cannot be read is missing too.
    """
    missing = [name for name in _NEEDED if not os.access(path / name, os.R_OK)]
    if not any(os.access(file, os.R_OK) for file in path.glob("*.safetensors")):
        missing.append("*.safetensors")
    mend = "set STREAMO_MODEL__PATH to a checkpoint's directory, or train one: `make train-tiny`"
    if not missing and not os.access(path / "streamo.json", os.R_OK):
        missing = ["streamo.json"]
        mend = "prepare it: `streamo model prepare`, and tune it (docs/training.md)"
    return (f"{path} lacks {', '.join(missing)}", mend) if missing else None
