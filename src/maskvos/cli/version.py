"""What ``maskvos --version`` prints, and with ``--verbose`` what a bug report needs."""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Sequence

from maskvos import __version__
from maskvos.environment import cores, cpu_name, versions
from maskvos.errors import UserError

_PACKAGES = (
    *("torch", "torchvision", "pytorch-lightning", "hydra-core", "omegaconf", "timm", "numpy", "scipy", "pillow"),
    *("opencv-python-headless", "av", "albumentations", "onnxruntime", "onnx", "onnxscript", "openvino", "wandb"),
)
_ENGINES = {"torch": "torch", "torchscript": "torch", "pt2": "torch", "onnx": "onnxruntime", "openvino": "openvino"}
"""Values of ``backend`` and the packages that they need."""


def version_text(arguments: Sequence[str]) -> str | None:
    """What ``--version`` prints; None where it was not asked for.

    Args:
        arguments: What was typed after the command.

    Raises:
        UserError: ``--verbose`` was given without ``--version``.
    """
    verbose = "--verbose" in arguments
    if "--version" in arguments:
        return f"maskvos {__version__}" + (f"\n{environment_text()}" if verbose else "")
    if verbose:
        raise UserError("--verbose: goes with --version only; for more of a run's log, give hydra.verbose=true")
    return None


def environment_text() -> str:
    """Python, platform, devices, engines and packages, one per line."""
    engines = [name for name, package in _ENGINES.items() if importlib.util.find_spec(package) is not None]
    about = versions(_PACKAGES)
    lines = {
        "python": about.pop("python"),
        "platform": platform.platform(),
        "devices": ", ".join(devices()),
        "engines": ", ".join(engines),
        **about,
    }
    return "\n".join(f"{name:<24}{value}" for name, value in lines.items())


def devices() -> list[str]:
    """The CPU with its cores, and the GPUs that PyTorch finds."""
    found = [f"cpu ({cpu_name()}, {cores()} cores)"]
    if importlib.util.find_spec("torch") is not None:
        import torch  # takes seconds

        found += [f"cuda:{index} ({torch.cuda.get_device_name(index)})" for index in range(torch.cuda.device_count())]
        found += ["mps"] if torch.backends.mps.is_available() else []
    return found
