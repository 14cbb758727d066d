"""The One-Euro filter (Casiez, Roussel and Vogel, CHI 2012): smooth while a point rests, quick while it moves."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class OneEuro:
    """A low-pass filter whose cutoff rises with the speed, in face sizes a second; the time between two values may vary."""

    min_cutoff: float = 0.5  # Hz, of a point at rest: lower is smoother, and later
    beta: float = 64.0  # Hz for each face size a second: higher follows quicker, and shakes more
    speed_cutoff: float = 1.0  # Hz, of the speed's own filter

    def __call__(
        self, value: np.ndarray, before: np.ndarray, speed: np.ndarray, seconds: float, size: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """The filtered (L, 2) ``value`` and its speed (pixels a s), from those ``seconds`` ago; size: the face's (pixels)."""
        speed = speed + _share(self.speed_cutoff, seconds) * ((value - before) / seconds - speed)
        cutoff = self.min_cutoff + self.beta * np.linalg.norm(speed, axis=-1, keepdims=True) / size
        return before + _share(cutoff, seconds) * (value - before), speed


def _share(cutoff: float | np.ndarray, seconds: float) -> float | np.ndarray:
    """Of a new value, in the mean."""
    turned = 2 * np.pi * cutoff * seconds
    return turned / (turned + 1)
