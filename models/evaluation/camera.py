"""A simulated camera for streams of hours: light and noise, in pictures that are made one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from PIL import Image

View = TypeVar("View")

_NUM_NOISES = 4
_LIGHT_STEPS = 64


@dataclass(frozen=True, eq=False)
class Camera:
    """Noise repeats every few frames and light changes in steps, so that a still scene gives equal pictures."""

    gain: np.ndarray
    offset: float
    noise: int
    noise_seed: int

    @classmethod
    def random(cls, rng: np.random.Generator) -> Camera:
        gain = rng.uniform(0.85, 1.15) * rng.uniform(0.96, 1.04, size=3)
        return cls(gain, float(rng.uniform(-12, 12)), int(rng.integers(0, 8)), int(rng.integers(2**31)))

    def pictures(
        self,
        views: Iterable[tuple[View, float]],
        draw: Callable[[View, int, int], Image.Image],
        size: tuple[int, int],
    ) -> Iterator[np.ndarray]:
        """uint8 [H, W, 3] of `size` for each (view, light); light 1 is as drawn.

        `draw(view, height, width)` is asked for twice the size, and only when the view has changed.
        """
        height, width = size
        rng = np.random.default_rng(self.noise_seed)
        noises = [
            rng.integers(-self.noise, self.noise + 1, size=(height, width, 3)) for _ in range(_NUM_NOISES)
        ]
        seen: View | None = None
        clean = np.zeros((height, width, 3))
        for index, (view, light) in enumerate(views):
            if seen is None or view != seen:
                seen = view
                large = draw(view, 2 * height, 2 * width)
                clean = np.asarray(large.resize((width, height), Image.Resampling.BOX), dtype=np.float64)
            step = round(light * _LIGHT_STEPS) / _LIGHT_STEPS
            lit = clean * (self.gain * step) + self.offset + noises[index % _NUM_NOISES]
            yield np.clip(lit, 0, 255).astype(np.uint8)
