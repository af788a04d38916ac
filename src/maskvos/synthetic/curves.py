"""Random smooth functions of time, for paths, camera shake, deformation and light."""

from __future__ import annotations

import numpy as np

from maskvos.synthetic.rendering import Clock

STEPS = 4  # time samples per frame


class Curves:
    """Draws smooth random functions of time, sampled from -1 to the number of frames."""

    def __init__(self, rng: np.random.Generator, frames: int) -> None:
        self.rng = rng
        self.times = np.linspace(-1, frames, (frames + 1) * STEPS + 1)

    def smooth_noise(self, period: float, std: float) -> np.ndarray:
        """Zero-mean sum of three sines with about this period (frames) and standard deviation, (N,)."""
        values = np.zeros_like(self.times)
        for _ in range(3):
            speed = 2 * np.pi / (period * self.rng.uniform(0.6, 1.8))
            values += np.sin(speed * self.times + self.rng.uniform(0, 2 * np.pi))
        return values * std * np.sqrt(2 / 3)

    def interpolate(self, values: np.ndarray) -> Clock:
        """The function of time that interpolates samples (N,) linearly."""
        return lambda time: float(np.interp(time, self.times, values))

    def motion_gate(self, probability: float) -> np.ndarray:
        """1 while an object moves and 0 during its pause, (N,); it pauses with the given probability."""
        gate = np.ones_like(self.times)
        if self.rng.random() < probability:
            length = self.times[-1] - self.times[0]
            middle = self.rng.uniform(self.times[0], self.times[-1])
            distance = np.abs(self.times - middle) - length * self.rng.uniform(0.1, 0.3)
            gate = np.clip(distance / 2, 0, 1)
        return gate
