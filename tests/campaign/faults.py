"""Faults while a prediction or a training runs: signals, dead workers, full disks, little memory, two at once.

After each, the same command goes through, and its results are those of an undisturbed run, byte for byte.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import torch

from brightness import Brightness, predict
from campaign import fuzz, matrix
from campaign.laws import Case, content, ended, run, wait
from maskvos.environment import ended_by_sigterm
from maskvos.flow.dis import DIS
from maskvos.flow.store import FlowStore
from maskvos.inference.segmenter import Segmenter
from maskvos.run import compose
from maskvos.run import run as run_task

KINDS = ("masks", "overlay")
_SECONDS = 1.5  # about as long as an undisturbed run takes


class Slow(Brightness):
    """Takes its time."""

    def __call__(self, rgb, flow, motion=None):  # type: ignore[no-untyped-def]
        time.sleep(0.05)
        return super().__call__(rgb, flow, motion)


def _predict(slow: bool = True, memory: int | None = None) -> None:
    if memory is not None:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))
    model = Segmenter((Slow if slow else Brightness)(), (32, 48), FlowStore(DIS()), batch_size=2)
    with ended_by_sigterm():
        predict(Path("in"), Path("out"), model, kinds=KINDS)


def _movies(place: Path) -> None:
    (place / "in").mkdir()
    for suffix, codec in fuzz.MOVIES[:3]:
        (place / "in" / f"{codec}{suffix}").write_bytes(fuzz.movie(suffix, codec))


@cache
def predicted() -> dict[str, bytes]:
    """The results of an undisturbed prediction."""
    place = fuzz.scratch() / "predicted"
    place.mkdir()
    _movies(place)
    status, said = run(Case("", "", print, partial(_predict, False)), place, place / "said")
    assert status == 0, said
    return content(place / "out")


def _goes_through(place: Path, status: int) -> str | None:
    """A repeat of a prediction."""
    again, said = run(Case("", "", print, partial(_predict, False)), place, place.parent / "again")
    (place.parent / "again").unlink()
    if again:
        return f"after status {status}, the repeat: status {again}: {said[-400:]!r}"
    found = content(place / "out")
    different = [name for name in {*found, *predicted()} if found.get(name) != predicted().get(name)]
    return f"after status {status}, the repeat gives other {different[:4]}" if different else None


def killed(seed: int) -> Case:
    """A prediction that is stopped by a signal, to itself or its group."""
    chance = random.Random(f"killed {seed}")
    number, expected = chance.choice([(signal.SIGKILL, 137), (signal.SIGTERM, 143), (signal.SIGINT, 130)])
    send, after = chance.choice((os.kill, os.killpg)), chance.uniform(0.02, _SECONDS)

    def disturb(pid: int) -> None:
        time.sleep(after)
        with contextlib.suppress(ProcessLookupError):
            send(pid, number)

    name = f"seed {seed}: {number.name} by {send.__name__} after {after:.2f} s"
    return Case("signals", name, _movies, _predict, (0, expected), after=_goes_through, disturb=disturb)


def full_disk(seed: int) -> Case:
    """A prediction onto a disk that is too small."""
    size = random.Random(f"disk {seed}").randrange(4, 100)

    def prepare(place: Path) -> None:
        _movies(place)
        (place / "out").mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "none", str(place / "out")]
        subprocess.run(mount, check=True, capture_output=True)

    def after(place: Path, status: int) -> str | None:
        subprocess.run(["umount", str(place / "out")], check=True)
        return _goes_through(place, status)

    return Case("full disk", f"seed {seed}: {size} KiB", prepare, partial(_predict, False), after=after)


@cache
def can_mount() -> bool:
    """Whether this process may mount a file system."""
    place = fuzz.scratch() / "mount"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, check=False, capture_output=True).returncode:
        return False
    subprocess.run(["umount", str(place)], check=True)
    return True


def little_memory(seed: int) -> Case:
    """A prediction with little memory."""
    memory = random.Random(f"memory {seed}").randrange(1 << 20, 80 << 20)
    act = partial(_predict, False, memory)
    return Case("little memory", f"seed {seed}: {memory >> 20} MiB", _movies, act, after=_goes_through)


def two_at_once(seed: int) -> Case:
    """Two predictions into one output."""

    def act() -> None:
        pid = os.fork()
        if pid == 0:
            os._exit(ended(_predict))
        _predict()
        assert wait(pid, 60) == 0

    return Case("two at once", f"seed {seed}", _movies, act, statuses=(0,), after=_goes_through)


# ---------------------------------------------------------------- training


def _train(workers: int, *overrides: str) -> None:
    given = [*matrix.SMALL, f"paths.data={matrix.data()}", f"data.num_workers={workers}", "trainer.max_epochs=3"]
    last = Path("run/checkpoints/last.ckpt")
    given += ["ckpt_path=last"] if last.exists() else []
    run_task(compose([*given, "augment=published", "callbacks.last.every_n_steps=1", *overrides], Path("run")))


@cache
def trained() -> dict[str, torch.Tensor]:
    """The weights of an undisturbed training."""
    place = fuzz.scratch() / "trained"
    place.mkdir()
    status, said = run(Case("", "", print, partial(_train, 0), limit=200), place, place / "said")
    assert status == 0, said
    return _weights(place)


def _weights(place: Path) -> dict[str, torch.Tensor]:
    return torch.load(place / "run/checkpoints/last.ckpt", weights_only=True)["state_dict"]  # type: ignore[no-any-return]


def _resumes(place: Path, status: int) -> str | None:
    again, said = run(Case("", "", print, partial(_train, 0), limit=200), place, place.parent / "again")
    (place.parent / "again").unlink()
    if again:
        return f"after status {status}, resuming: status {again}: {said[-400:]!r}"
    found, expected = _weights(place), trained()
    different = [name for name in expected if not torch.equal(found[name], expected[name])]
    return f"after status {status}, resuming gives other weights: {len(different)} tensors" if different else None


def stopped_training(seed: int) -> Case:
    """A training that is stopped by a signal, or one of whose loading processes is killed, and resumed."""
    chance = random.Random(f"training {seed}")
    kinds: list[tuple[Callable[[int], None], tuple[int, ...]]] = [
        (lambda pid: os.kill(pid, signal.SIGKILL), (137,)),
        (lambda pid: os.killpg(pid, signal.SIGTERM), (143,)),
        (lambda pid: os.kill(pid, signal.SIGTERM), (143,)),
        (lambda pid: os.killpg(pid, signal.SIGINT), (130,)),
        (_kill_child, (2,)),
    ]
    place = seed % len(kinds)
    send, statuses = kinds[place]
    workers, after = 1 if place == 4 else chance.choice((0, 1)), chance.uniform(0.5, 6)

    def disturb(pid: int) -> None:
        end = time.monotonic() + after
        while time.monotonic() < end and not _ended(pid):
            time.sleep(0.01)
        with contextlib.suppress(ProcessLookupError):
            send(pid)

    kind = ("SIGKILL", "SIGTERM to the group", "SIGTERM", "SIGINT to the group", "dead worker")[place]
    name = f"seed {seed}: {kind} after {after:.1f} s, {workers} workers"
    act = partial(_train, workers)
    return Case("training", name, print, act, (0, *statuses), limit=200, after=_resumes, disturb=disturb)


def _ended(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def _kill_child(pid: int) -> None:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    if children:
        os.kill(int(children[0]), signal.SIGKILL)


FAULTS = {killed: 60, full_disk: 20, little_memory: 20, two_at_once: 8, stopped_training: 20}
"""Each with its number of cases in the campaign."""
