"""How a place looks: paints, light and weather. Nothing that is told depends on it."""

import math
from dataclasses import dataclass

import numpy as np

from models.data.place.act import COLOURS

NUM_PALETTES = 6
NUM_SKINS = 3
# Ambient light by time of day: share of each colour channel that is left.
DAYLIGHT: dict[str, tuple[float, float, float]] = {
    "day": (1.0, 1.0, 1.0),
    "dusk": (0.86, 0.78, 0.74),
    "night": (0.56, 0.58, 0.66),
}
_SWAY_PERIOD_MS = 700


@dataclass(frozen=True)
class Look:
    """`long_cars`: colours whose cars have a long roof. Sizes of swings are shares of full light."""

    palette: int
    daylight: str
    skin: int
    tree: bool
    wind: bool
    post: bool
    hedge: bool
    blind_window: bool
    long_cars: tuple[str, ...]
    swing: float
    swing_period_s: float
    swing_phase: float

    @staticmethod
    def random(rng: np.random.Generator) -> "Look":
        return Look(
            palette=int(rng.integers(NUM_PALETTES)),
            daylight=str(rng.choice(list(DAYLIGHT), p=[0.6, 0.2, 0.2])),
            skin=int(rng.integers(NUM_SKINS)),
            tree=bool(rng.random() < 0.6),
            wind=bool(rng.random() < 0.3),
            post=bool(rng.random() < 0.5),
            hedge=bool(rng.random() < 0.5),
            blind_window=bool(rng.random() < 0.5),
            long_cars=tuple(colour for colour in COLOURS if rng.random() < 0.4),
            swing=float(rng.uniform(0.0, 0.07)),
            swing_period_s=float(rng.uniform(15, 120)),
            swing_phase=float(rng.uniform(0, 2 * math.pi)),
        )

    def exposure(self, time_ms: int) -> float:
        """How bright the picture is at this moment, about 1: clouds pass, the sun sinks."""
        return 1.0 + self.swing * math.sin(
            2 * math.pi * time_ms / 1000 / self.swing_period_s + self.swing_phase
        )

    def sway(self, time_ms: int) -> int:
        """Which way the tree leans: -1, 0 or 1."""
        return (0, 1, 0, -1)[time_ms // _SWAY_PERIOD_MS % 4] if self.tree and self.wind else 0
