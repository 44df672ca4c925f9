"""Which data is for what: four disjoint sets of seeds, and what only the test set may show."""

import hashlib

import numpy as np

from models.data.place.act import ActKind

SPLITS = ("train", "validation", "test", "demo")

# Colour, object and act that come together in the test set alone; each of the three is common elsewhere. Whoever
# comes can leave in some way that is not held out, so that no place without them runs dry.
HELD_OUT_COMBINATIONS: frozenset[tuple[ActKind, str]] = frozenset(
    {
        (ActKind.CAR_ARRIVES, "green"),
        (ActKind.CAR_PASSES, "red"),
        (ActKind.PERSON_GOES_IN, "yellow"),
        (ActKind.PERSON_COMES_OUT, "blue"),
        (ActKind.PERSON_STOPS, "red"),
        (ActKind.PERSON_WALKS_AWAY, "purple"),
        (ActKind.PERSON_WALKS_PAST, "green"),
        (ActKind.PARCEL_DELIVERED, "purple"),
        (ActKind.PARCEL_TAKEN, "yellow"),
    }
)
_TEST_WEIGHT = 3.0


def split_rng(split: str, seed: int, purpose: str = "") -> np.random.Generator:
    """The generator of one (split, seed, purpose). Hashing the split in keeps the splits' seeds disjoint."""
    check_split(split)
    digest = hashlib.sha256(f"place/{split}/{seed}/{purpose}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))


def check_split(split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"split {split!r}: must be one of {', '.join(SPLITS)}")


def weight(split: str, kind: ActKind, colour: str) -> float:
    """How often this colour does this, beside the others: 0 for what is held out, more of it in the test set."""
    if (kind, colour) not in HELD_OUT_COMBINATIONS:
        return 1.0
    return _TEST_WEIGHT if split == "test" else 0.0
