"""Dense inverse search (DIS) optical flow from OpenCV: no weights, fast on any CPU."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from maskvos.flow.base import FlowEstimator
from maskvos.settings.table import check_settings

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
# Outside these ranges OpenCV reads out of bounds: patches are 8 pixels wide, as are frames of 32 pixels halved twice.
# OpenCV's object leaks state between calls on frames of some 40 pixels; below this side each pair uses a new object.
_STATELESS_BELOW = 64


class DIS(FlowEstimator):
    """DIS flow (Kroeger et al., "Fast Optical Flow using Dense Inverse Search", ECCV 2016), OpenCV's implementation.

    Multi-threaded in the main process; single-threaded in data loader workers.

    Args:
        preset: ``ultrafast``, ``fast`` or ``medium`` (most accurate); the default for all parameters that are None.
        max_size: See `FlowEstimator`.
        finest_scale: Finest level of the image pyramid that is searched, 0 (full resolution) to 2 (``medium``: 1).
        patch_stride: Pixels between patches, 1 to 8 (``medium``: 3).
        refinements: Iterations of variational refinement (Brox et al., ECCV 2004) per scale (``medium``: 5).
        smoothness: Weight of the smoothness term in the refinement (all presets: 20).

    Raises:
        UserError: Unknown preset, or a number out of range.
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
        numbers = {
            "finest_scale": finest_scale,
            "patch_stride": patch_stride,
            "refinements": refinements,
            "smoothness": smoothness,
        }
        check_settings({"preset": preset, **numbers}, "flow.estimator")
        self.preset = preset
        self.changes = {name: value for name, value in numbers.items() if value is not None}
        self._natives = threading.local()

    @property
    def settings(self) -> dict[str, str | int | float | None]:
        """See `FlowEstimator.settings`."""
        return {"name": f"dis-{self.preset}", "preset": self.preset, "max_size": self.max_size, **self.changes}

    def preprocess(self, frame: np.ndarray) -> np.ndarray:
        """See `FlowEstimator.preprocess`; the result is (h, w) uint8 grey."""
        self._opencv()  # before any other call of OpenCV in a forked worker
        return self._resize(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY))

    def estimate(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """See `FlowEstimator.estimate`."""
        small = min(first.shape[1:3]) < _STATELESS_BELOW
        return np.stack(
            [(self._create() if small else self._opencv()).calc(a, b, None) for a, b in zip(first, second, strict=True)]
        )

    def _opencv(self) -> Any:
        # OpenCV's object can be neither pickled nor shared: each thread of each process, forked ones included, has one.
        if getattr(self._natives, "process", None) != os.getpid():
            if multiprocessing.parent_process() is not None:
                cv2.setNumThreads(0)  # not 1, which would destroy a forked thread pool and deadlock
            self._natives.native = self._create()
            self._natives.process = os.getpid()
        return self._natives.native

    def _create(self) -> Any:
        native = cv2.DISOpticalFlow.create(PRESETS[self.preset])
        for name, value in self.changes.items():
            _SETTERS[name](native, value)
        return native

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_natives"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._natives = threading.local()
