"""A segmenter for tests: what is bright is the object."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from maskvos.data.datasets.folder import folder
from maskvos.flow.dis import DIS
from maskvos.flow.store import FlowStore
from maskvos.inference.segmenter import Segmenter
from maskvos.inference.writer import PredictionWriter, write_predictions


class Brightness:
    """An engine whose logits are the red channel around its middle; it may fail at one of its calls."""

    digest = "0"

    def __init__(self, workers: int = 1) -> None:
        self.workers = workers
        self.calls = 0
        self.fail_at = -1

    def __call__(self, rgb: np.ndarray, flow: np.ndarray, motion: np.ndarray | None = None) -> np.ndarray:
        self.calls += 1
        if self.calls == self.fail_at:
            raise MemoryError
        return 20 * (rgb[:, :1] - np.float32(0.5))

    def alone(self) -> Brightness:
        return self


def segmenter(workers: int = 1) -> Segmenter:
    return Segmenter(Brightness(workers), (32, 48), FlowStore(DIS()), batch_size=2)


def predict(source: Path, output: Path, model: Segmenter | None = None, **options: object) -> PredictionWriter:
    model = model or segmenter()
    writer = PredictionWriter(output, settings=model.settings, **options)  # type: ignore[arg-type]
    write_predictions(model, folder(source), writer, progress=False)
    return writer


def manifest(path: Path) -> dict:
    """The manifest in the folder of a video's results."""
    return json.loads((path / "manifest.json").read_text())
