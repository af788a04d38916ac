"""Dense inverse search flow of OpenCV: no weights, fast on any CPU."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from maskvos.errors import UserError, nearest
from maskvos.flow.base import FlowEstimator

PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}
_SETTERS: dict[str, Callable[..., None]] = {
    "finest_scale": cv2.DISOpticalFlow.setFinestScale,
    "patch_stride": cv2.DISOpticalFlow.setPatchStride,
    "refinements": cv2.DISOpticalFlow.setVariationalRefinementIterations,
    "smoothness": cv2.DISOpticalFlow.setVariationalRefinementAlpha,
}
# Beyond, OpenCV reads memory that is not its own: patches are 8 pixels wide, and frames of 32 halved twice are, too.
_RANGES = {"finest_scale": (0, 2), "patch_stride": (1, 8), "refinements": (0, 1000), "smoothness": (0.01, 1e6)}
# OpenCV's object lets earlier calls shine through on frames of some 40 pixels; below this side each pair gets its own.
_FORGETFUL = 64


class DIS(FlowEstimator):
    """Kroeger et al., "Fast Optical Flow using Dense Inverse Search", ECCV 2016, as OpenCV has it.

    Uses OpenCV's threads in a main process and one thread inside a loader's worker, where the workers are the threads.

    Args:
        preset: ``ultrafast``, ``fast`` or ``medium`` (finest); what is None below is as it has it.
        max_size: See `FlowEstimator`.
        finest_scale: Where the search ends: at frames halved so many times, 0 to 2 (``medium``: 1).
        patch_stride: Pixels between patches, 1 to 8 (``medium``: 3).
        refinements: Iterations of the variational refinement (Brox et al., ECCV 2004) at each scale (``medium``: 5).
        smoothness: Weight of smoothness in that refinement (all presets: 20).

    Raises:
        UserError: The preset is not known, or a number is out of its range.
    """

    def __init__(
        self,
        preset: str = "medium",
        max_size: int | None = None,
        finest_scale: int | None = None,
        patch_stride: int | None = None,
        refinements: int | None = None,
        smoothness: float | None = None,
    ) -> None:
        super().__init__(max_size)
        if preset not in PRESETS:
            raise UserError(f"flow.estimator.preset={preset!r}: no such preset of DIS; {nearest(str(preset), PRESETS)}")
        numbers = {
            "finest_scale": finest_scale,
            "patch_stride": patch_stride,
            "refinements": refinements,
            "smoothness": smoothness,
        }
        self.preset = preset
        self.changes = {name: value for name, value in numbers.items() if value is not None}
        for name, value in self.changes.items():
            least, most = _RANGES[name]
            kind = float if name == "smoothness" else int
            if not isinstance(value, (int, kind)) or not least <= value <= most:
                what = "a number" if kind is float else "a whole number"
                raise UserError(
                    f"flow.estimator.{name}={value}: {what} from {least} to {most:g}, or null for the preset's own"
                )
        self._native: Any = None
        self._process = 0

    @property
    def settings(self) -> dict[str, str | int | float | None]:
        """Everything that the result depends on."""
        return {"name": f"dis-{self.preset}", "preset": self.preset, "max_size": self.max_size, **self.changes}

    def estimate(self, first: Tensor, second: Tensor) -> Tensor:
        """Flow at the working size, see `FlowEstimator.estimate`."""
        small = min(first.shape[-2:]) < _FORGETFUL
        flows = [
            (self._create() if small else self._opencv()).calc(_grey(a), _grey(b), None)
            for a, b in zip(first, second, strict=True)
        ]
        return torch.from_numpy(np.stack(flows)).permute(0, 3, 1, 2)

    def _opencv(self) -> Any:
        # OpenCV's object can be neither pickled nor shared with a forked worker: every process makes its own.
        if self._native is None or self._process != os.getpid():
            if get_worker_info() is not None:
                cv2.setNumThreads(0)  # not 1: that would tear down a pool inherited by a fork, and wait for ever
            self._native = self._create()
            self._process = os.getpid()
        return self._native

    def _create(self) -> Any:
        native = cv2.DISOpticalFlow.create(PRESETS[self.preset])
        for name, value in self.changes.items():
            _SETTERS[name](native, value)
        return native

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_native": None, "_process": 0}


def _grey(frame: Tensor) -> np.ndarray:
    return cv2.cvtColor(np.ascontiguousarray(frame.permute(1, 2, 0).cpu().numpy()), cv2.COLOR_RGB2GRAY)
