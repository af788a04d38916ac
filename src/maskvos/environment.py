"""Runtime environment: CPU cores, package versions, git commit, processes and their signals."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FrameType

from maskvos.errors import UserError

_limit: int | None = None
_LEAST_MEMORY = 2 << 30


def cores() -> int:
    """CPU cores that this process may use."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return count if _limit is None else min(count, _limit)


def limit_cores(count: int | None) -> None:
    """Use at most so many cores from now on, one of several processes that share a machine; None: all."""
    global _limit
    _limit = count


def cpu_name() -> str:
    """The processor's model where the system names it, else its architecture."""
    if sys.platform == "linux":
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
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


def init_worker(worker: int) -> None:
    """Prepare a worker of a data loader: no threads of OpenCV, and no signals to its process group.

    The workers occupy the cores already (PyTorch limits its own threads). Ctrl-C and what clusters send to the process
    group are for the main process, which stops at a sound place; a worker that dies before would stop it elsewhere.
    """
    import cv2  # imported here, because asking for versions should not load it

    cv2.setNumThreads(0)  # not 1, which would wait for the threads of a pool that the fork did not copy
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)


def parse_shard(shard: str | None) -> tuple[int, int]:
    """Index, from 0, and number of shards of ``"3/16"``: the third of sixteen; None is the only one.

    Raises:
        UserError: It is not <index>/<count>, or the index is out of range.
    """
    if shard is None:
        return 0, 1
    match = re.fullmatch(r"(\d+)/(\d+)", str(shard).strip())
    index, count = (int(number) for number in match.groups()) if match else (0, 0)
    if not 1 <= index <= count:
        raise UserError(f"shard={shard}: must be <index>/<count> with 1 <= index <= count, e.g. shard=3/16")
    return index - 1, count


def check_memory_limit() -> None:
    """Refuse a limit of the address space in which threads cannot start: native code would abort the process.

    Raises:
        UserError: The limit (``ulimit -v``) is below 2 GiB; with PyTorch more is needed, which it says itself.
    """
    if importlib.util.find_spec("resource") is None:  # Windows has no such limit
        return
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < _LEAST_MEMORY:
        raise UserError(
            f"the memory of this process is limited to {limit / 2**30:.2g} GiB, and must not be below 2 GiB, or 6 GiB "
            "with PyTorch; raise the limit with: ulimit -v unlimited"
        )


@contextlib.contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """SIGTERM, which clusters and containers send, ends the block as Ctrl-C does, with exit status 143."""

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # the clean-up is not interrupted
        sys.exit(128 + number)

    if threading.current_thread() is not threading.main_thread():  # where no handler may be set
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def delayed_signals() -> Iterator[None]:
    """Ctrl-C and SIGTERM act after the block: an exception within the writer of torch aborts the process."""
    if threading.current_thread() is not threading.main_thread():  # where no handler may be set
        yield
        return
    arrived: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda arrival, frame: arrived.append(arrival)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for arrival in arrived[:1]:
            signal.raise_signal(arrival)


@contextlib.contextmanager
def stopped_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM calls ``stop``, upon which the block ends by itself; a second one acts as usual."""
    if threading.current_thread() is not threading.main_thread():  # where no handler may be set
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def first(number: int, frame: FrameType | None) -> None:
        restore()
        stop()

    try:
        for number in before:
            signal.signal(number, first)
        yield
    finally:
        restore()
