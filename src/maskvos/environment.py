"""The machine and the installation that this runs on: CPU cores, package versions, the commit of a checkout."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions of Python, of those packages that are installed, and the commit where maskvos runs from a checkout."""
    found = {"python": platform.python_version()}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    if commit := git_commit():
        found["commit"] = commit
    return found


def git_commit() -> str | None:
    """The commit of the checkout that this code runs from (``-dirty``: with local changes); None outside of one."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def processes() -> tuple[int, int]:
    """Index of this process and number of processes of a run started by torchrun, srun or Lightning; else (0, 1)."""
    slurm = ("SLURM_PROCID", "SLURM_NTASKS") if "SLURM_STEP_ID" in os.environ else ()
    rank = next((os.environ[name] for name in ("RANK", "LOCAL_RANK", *slurm[:1]) if name in os.environ), 0)
    count = next((os.environ[name] for name in ("WORLD_SIZE", *slurm[1:]) if name in os.environ), 1)
    return int(rank), int(count)
