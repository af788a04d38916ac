"""A dataset on disk and an estimator with predictable flow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from maskvos.flow.base import FlowEstimator
from maskvos.types import Frame, Video


class Difference(FlowEstimator):
    """Flow (second's red - first's red, second's green): identifies the two frames and their order."""

    min_size = 1

    def __init__(self, name: str = "difference", max_size: int | None = None) -> None:
        super().__init__(max_size)
        self.name = name
        self.calls = 0

    @property
    def settings(self) -> dict[str, str | int | float | None]:
        return {"name": self.name, "max_size": self.max_size}

    def estimate(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        self.calls += len(first)
        first, second = first.astype(np.float32), second.astype(np.float32)
        return np.stack([second[..., 0] - first[..., 0], second[..., 1]], -1)


def numbered_frame(number: int, height: int = 6, width: int = 8) -> np.ndarray:
    """A frame of one colour: red 10 * number (modulo 250), green 100 + number."""
    return np.broadcast_to(np.array([10 * number % 250, 100 + number, 0], np.uint8), (height, width, 3)).copy()


def write_rgb(path: Path, rgb: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), rgb[..., ::-1])
    return path


@pytest.fixture
def make_video(tmp_path: Path) -> Callable[..., Video]:
    """Factory for videos of numbered frames on disk: ``make_video(count, name="clip", ...)``."""

    def make(count: int, name: str = "clip", dataset: str = "fake") -> Video:
        frames = tuple(
            Frame(f"{i:05d}", write_rgb(tmp_path / "data" / name / f"{i:05d}.png", numbered_frame(i)))
            for i in range(count)
        )
        return Video(name, frames, dataset=dataset)

    return make


@pytest.fixture(scope="session")
def texture() -> np.ndarray:
    """(160, 200, 3) uint8: smooth random texture, which every estimator can track."""
    noise = np.random.default_rng(0).integers(0, 255, (160, 200, 3)).astype(np.uint8)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2.0).astype(np.float32)
    return np.clip((smooth - smooth.mean()) * 5 + 128, 0, 255).astype(np.uint8)
