"""Which split a group of videos belongs to."""

import hashlib
from typing import Literal

from models.data.curation.config import SplitConfig

SplitName = Literal["train", "validation", "test"]
SPLIT_NAMES: tuple[SplitName, ...] = ("train", "validation", "test")


def split_of(group_sha256: str, seed: int, config: SplitConfig) -> SplitName:
    """By the hash of the group's first video alone: videos added later move no group that they do not join, and shares
    are kept on average."""
    digest = hashlib.sha256(f"{seed}/{group_sha256}".encode()).digest()
    drawn = int.from_bytes(digest[:8], "big") / 2**64
    if drawn < config.test:
        return "test"
    return "validation" if drawn < config.test + config.validation else "train"
