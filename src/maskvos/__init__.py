"""Unsupervised video object segmentation: masks of the main moving object of a video, without any annotation.

Names are imported when they are first used: ``import maskvos`` itself imports neither torch nor anything else.

Example:
    >>> import maskvos
    >>> model = maskvos.load()
    >>> for frame in model.stream("my_clip.mp4"):
    ...     print(frame.index, frame.mask.mean())
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# OpenMP reads this when PyTorch is loaded: idle threads sleep instead of spinning, which would take the cores from the
# decoding and flow threads, and from other programs. A value of the user's own is kept.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# ONNX Runtime reads this when it is imported: it would make up an identifier of the machine and report its use.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from maskvos.api import SegmentedFrame, Segmenter, evaluate, load, segment

__version__ = "0.2.0"
__all__ = ["SegmentedFrame", "Segmenter", "__version__", "evaluate", "load", "segment"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("maskvos.api"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
