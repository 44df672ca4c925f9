"""The checkpoint that this machine serves, before anything reads it."""

import os
from pathlib import Path

_NEEDED = ("config.json", "tokenizer.json", "preprocessor_config.json")


def missing_files(path: Path) -> list[str]:
    """What a checkpoint in `path` lacks to be loaded, by name; a file that cannot be read is missing too.

    `streamo.json`, which `streamo model prepare` writes, is named alone, when all else is there.
    """
    missing = [name for name in _NEEDED if not os.access(path / name, os.R_OK)]
    if not any(os.access(file, os.R_OK) for file in path.glob("*.safetensors")):
        missing.append("*.safetensors")
    if not missing and not os.access(path / "streamo.json", os.R_OK):
        missing.append("streamo.json")
    return missing


def how_to_mend(missing: list[str]) -> str:
    if missing == ["streamo.json"]:
        return "prepare it: `streamo model prepare`, and tune it (docs/training.md)"
    return "set STREAMO_MODEL__PATH to a checkpoint's directory, or train one: `make train-tiny`"
