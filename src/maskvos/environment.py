"""Runtime environment: CPU cores, package versions, git commit, index of this process."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_name() -> str:
    """The processor's model where the system names it, else its architecture."""
    if sys.platform == "linux":
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
        if name and name != "unknown":
            return name
    return platform.processor() or platform.machine()


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
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():  # an installed package may lie inside somebody else's repository
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def processes() -> tuple[int, int]:
    """Index of this process and number of processes of a run started by torchrun, srun or Lightning; else (0, 1)."""
    launchers = [("RANK", "WORLD_SIZE"), ("LOCAL_RANK", "WORLD_SIZE")]
    if "SLURM_STEP_ID" in os.environ:
        launchers.append(("SLURM_PROCID", "SLURM_NTASKS"))
    for rank, count in launchers:
        if rank in os.environ:
            return int(os.environ[rank]), int(os.environ.get(count, 1))
    return 0, 1
