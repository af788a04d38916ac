"""Metrics, evaluation protocols, and scoring of masks in memory or on disk.

Names are imported lazily, so that `maskvos.metrics.functional` and `evaluate_folder` do not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maskvos.metrics.folder import evaluate_folder
    from maskvos.metrics.protocol import Protocol
    from maskvos.metrics.results import Summary
    from maskvos.metrics.video import VideoMetric

__all__ = ["Protocol", "Summary", "VideoMetric", "evaluate_folder"]

_MODULES = {"Protocol": "protocol", "Summary": "results", "VideoMetric": "video", "evaluate_folder": "folder"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
