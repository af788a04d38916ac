"""Engines that run a trained network on arrays: the interface, ONNX Runtime and OpenVINO.

A new engine is a class with the members of `Engine`, chosen in `maskvos.load`. Those of PyTorch: `torch_engine`.
"""

from __future__ import annotations

import ctypes.util
import hashlib
import importlib.util
import sys
import threading
from collections.abc import Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from maskvos.environment import cores
from maskvos.errors import UserError, require
from maskvos.settings.table import PRECISIONS
from maskvos.weights.exported import identify
from maskvos.weights.onnx_file import check_onnx, onnx_errors, open_onnx


class Engine(Protocol):
    """Runs a network.

    Attributes:
        digest: Short hash of the weights: equal weights, equal digests.
        workers: Number of threads that should call it at the same time; 1: batches from one thread are faster.
    """

    digest: str
    workers: int

    def __call__(self, rgb: np.ndarray, flow: np.ndarray, motion: np.ndarray | None = None) -> np.ndarray:
        """Segment a batch.

        Args:
            rgb: (B, 3, H, W) float32 in [0, 1].
            flow: (B, 2, H, W) float32, pixels, x then y.
            motion: (B,) bool; False where the motion encoder reads the RGB frame; None: flow everywhere.

        Returns:
            Logits (B, 1, H, W) float32.
        """
        ...

    def alone(self) -> Engine:
        """The same network for calls one after the other, each of which uses all cores, as a camera needs it."""
        ...


class OnnxEngine:
    """Runs an ONNX file in ONNX Runtime, on the CPU in float32.

    Frames are independent, so several are computed at the same time on one core each: no thread waits for another, and
    other programs on the machine slow it down no more than their share.

    Args:
        path: The file.
        threads: Cores per call.

    Raises:
        UserError: The file cannot be read, or the package is missing.
    """

    def __init__(self, path: str | Path, threads: int = 1) -> None:
        self.path, _ = identify(path, "onnx")
        self.digest = file_digest(self.path)
        self.workers = max(1, cores() // threads)
        self._session = open_onnx(self.path, threads)

    def __call__(self, rgb: np.ndarray, flow: np.ndarray, motion: np.ndarray | None = None) -> np.ndarray:
        """See `Engine`.

        Raises:
            UserError: ``motion`` is False for a sample.
        """
        check_motion(motion)
        logits: np.ndarray = self._session.run(["logits"], {"rgb": rgb, "flow": flow})[0]
        return logits

    def alone(self) -> Engine:
        """See `Engine`."""
        return self._alone

    @cached_property
    def _alone(self) -> OnnxEngine:
        return OnnxEngine(self.path, cores())


class OpenVINOEngine:
    """Runs an ONNX file in OpenVINO, on the CPU; several frames at the same time, as `OnnxEngine`.

    Args:
        path: The file.
        precision: One of `PRECISIONS`; 16 bits are used only by processors that compute in them.
        threads: Cores per call.

    Raises:
        UserError: The file cannot be read, or the package is missing.
    """

    def __init__(self, path: str | Path, precision: str = "32-true", threads: int = 1) -> None:
        require("openvino")
        self.path, _ = identify(path, "onnx")
        check_onnx(self.path)
        self.precision = precision
        self.digest = file_digest(self.path)
        self.workers = max(1, cores() // threads)
        self._settings = {
            "INFERENCE_NUM_THREADS": cores(),
            "NUM_STREAMS": self.workers,
            "INFERENCE_PRECISION_HINT": {None: "f32", "bfloat16": "bf16", "float16": "f16"}[PRECISIONS[precision]],
        }
        try:
            self._model = _openvino().read_model(str(self.path))
        except RuntimeError as error:
            raise self._unreadable(error) from error
        self._compiled: dict[tuple[int, ...], Any] = {}
        self._compiling = threading.Lock()
        self._requests = threading.local()

    def __call__(self, rgb: np.ndarray, flow: np.ndarray, motion: np.ndarray | None = None) -> np.ndarray:
        """See `Engine`; the first call with a shape takes seconds."""
        check_motion(motion)
        # A request holds the tensors of one inference, so each thread has its own.
        requests = self._requests.__dict__.setdefault("by_shape", {})
        if rgb.shape not in requests:
            requests[rgb.shape] = self._compile(rgb.shape, flow.shape).create_infer_request()
        results: Any = requests[rgb.shape].infer({"rgb": rgb, "flow": flow})
        return np.array(results[0], np.float32)

    def _compile(self, rgb: tuple[int, ...], flow: tuple[int, ...]) -> Any:
        """Compile the network for one shape: it is a fifth faster than for any shape."""
        with self._compiling:
            if rgb not in self._compiled:
                try:
                    model = self._model.clone()
                    model.reshape({"rgb": rgb, "flow": flow})
                    self._compiled[rgb] = _openvino().compile_model(model, "CPU", self._settings)
                except RuntimeError as error:
                    raise self._unreadable(error) from error
            return self._compiled[rgb]

    def _unreadable(self, error: RuntimeError) -> UserError:
        return UserError(f"exported network: '{self.path}' cannot be read by OpenVINO ({str(error)[:120]})")

    def alone(self) -> Engine:
        """See `Engine`."""
        return self._alone

    @cached_property
    def _alone(self) -> OpenVINOEngine:
        return OpenVINOEngine(self.path, self.precision, cores())


@cache
def _openvino() -> Any:
    """The only OpenVINO Core of the process.

    Each Core replaces the stack on which signals are handled, and restores on release what it found. Of two, released
    in the order of creation, the second restores the first's, which is gone: the next signal would crash Python.
    """
    import openvino

    return openvino.Core()


def check_engine(engine: Engine, path: Path, size: Sequence[int], batches: Sequence[int]) -> None:
    """Try a network from a file on grey images without motion, before it is relied upon.

    Args:
        engine: Runs the network.
        path: Its file, for messages.
        size: Height and width of its input, pixels.
        batches: Numbers of images per call.

    Raises:
        UserError: It fails, or its output is of another shape or not finite.
    """
    errors: tuple[type[Exception], ...] = (RuntimeError, ValueError, TypeError, LookupError, AttributeError)
    errors += (AssertionError, MemoryError, *(onnx_errors() if isinstance(engine, OnnxEngine) else ()))
    for batch in batches:
        rgb, flow = (np.full((batch, channels, *size), value, np.float32) for channels, value in ((3, 0.5), (2, 0)))
        try:
            logits = engine(rgb, flow)
        except errors as error:
            reason = f"fails ({str(error)[:120]})"
        else:
            if logits.shape == (batch, 1, *size) and np.isfinite(logits).all():
                continue
            reason = (
                f"gives {logits.shape}" if logits.shape != (batch, 1, *size) else "gives values that are not finite"
            )
        raise UserError(
            f"network: '{path}' {reason} for a batch of {batch} at {tuple(size)} (height, width); give another file "
            "(task=export makes an exported one), or another data.size"
        )


def check_motion(motion: np.ndarray | None) -> None:
    """Refuse still images, since an exported network always reads flow.

    Raises:
        UserError: ``motion`` is False for a sample.
    """
    if motion is not None and not motion.all():
        raise UserError("an exported network always needs flow; use backend=torch for still images")


def has_gpu() -> bool:
    """Whether PyTorch is installed and finds a GPU; it is imported only where a driver is, since that takes seconds."""
    drivers = ("cuda", "nvcuda", "amdhip64")
    driver = sys.platform == "darwin" or any(ctypes.util.find_library(name) is not None for name in drivers)
    if not driver or importlib.util.find_spec("torch") is None:
        return False
    from maskvos.inference.torch_engine import resolve_device

    return resolve_device("auto").type != "cpu"


def file_digest(path: Path) -> str:
    """Short hash of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
