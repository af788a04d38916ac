"""The laws of the campaign, and running a case in a process of its own, forked from one that has imported everything.

A case ends with a status that it may have and within its time; it says at most one error, in one message and without a
traceback; it changes nothing outside of its outputs, and leaves nothing unfinished there.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from maskvos.errors import UserError

OUTPUTS = ("out", "runs", "run", "cache", ".hydra")
"""What any case may write to, in its folder."""
_MEMORY = 8 << 30  # more is taken for a memory bomb
_TRACES = re.compile(r"Traceback|Segmentation fault|Aborted|terminate called|Fatal Python error")


@dataclass(frozen=True)
class Case:
    """Something that may go wrong.

    Attributes:
        group: What it is about, for the table of verdicts.
        name: Repeats it: what was done, with its seed.
        prepare: Writes its inputs into an empty folder.
        act: Runs in that folder, in a process of its own; ends as a command does.
        statuses: With which it may end.
        limit: Seconds within which it ends.
        after: Looks at the folder, given the status; returns what is broken, or None.
        disturb: Runs in the parent, given the process, while the case runs.
        outputs: What else it may write to, relative to its folder.
    """

    group: str
    name: str
    prepare: Callable[[Path], object]
    act: Callable[[], object]
    statuses: tuple[int, ...] = (0, 2)
    limit: float = 120
    after: Callable[[Path, int], str | None] = lambda place, status: None
    disturb: Callable[[int], object] | None = None
    outputs: tuple[str, ...] = ()


@dataclass
class Verdicts:
    """What became of the cases.

    Attributes:
        counts: Cases by group and verdict: ``done`` (status 0), ``answered`` (an error that says what to do),
            ``stopped`` (by a signal), ``broken``.
        broken: Group, name and what is broken.
    """

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    broken: list[tuple[str, str, str]] = field(default_factory=list)

    def table(self) -> str:
        """One line per group, then the broken cases."""
        kinds = ("done", "answered", "stopped", "broken")
        groups = sorted({group for group, _ in self.counts})
        rows = [("group", "cases", *kinds)]
        rows += [(g, sum(self.counts[g, k] for k in kinds), *(self.counts[g, k] for k in kinds)) for g in groups]
        rows.append(("all", *(sum(row[column] for row in rows[1:]) for column in range(1, 6))))
        lines = ["".join(str(cell).ljust(22 if place == 0 else 10) for place, cell in enumerate(row)) for row in rows]
        return "\n".join([*lines, *(f"BROKEN {group} | {name} | {why}" for group, name, why in self.broken)])


def hold(cases: Iterable[Case], place: Path, seconds: float = float("inf")) -> Verdicts:
    """Run cases, each in a folder of its own under ``place``, until there are no more or the time is up."""
    verdicts, end = Verdicts(), time.monotonic() + seconds
    for number, case in enumerate(cases):
        if time.monotonic() > end:
            break
        folder = place / f"{number}"
        why, status = verdict(case, folder)
        kind = "broken" if why else {0: "done", 2: "answered"}.get(status, "stopped")
        verdicts.counts[case.group, kind] += 1
        if why:
            verdicts.broken.append((case.group, case.name, why))
            print(f"BROKEN {case.group} | {case.name} | {why}", flush=True)
        else:
            shutil.rmtree(folder)
    return verdicts


def verdict(case: Case, folder: Path) -> tuple[str | None, int]:
    """Run a case; what is broken, or None, and its status."""
    inside = folder / "here"
    inside.mkdir(parents=True)
    case.prepare(inside)
    before = snapshot(folder)
    status, said = run(case, inside, folder / "said")
    (folder / "said").unlink()
    if status not in case.statuses:
        what = "it did not end" if status == -1 else f"status {status}"
        return f"{what}: {said.strip()[-600:]!r}", status
    if found := _TRACES.search(said):
        return f"{found[0]}: {said.strip()[-600:]!r}", status
    errors = re.findall(r"^error: ", said, flags=re.MULTILINE)
    if len(errors) != (status == 2):
        return f"{len(errors)} errors at status {status}: {said.strip()[-300:]!r}", status
    after = snapshot(folder)
    changed = {path for path in {*before, *after} if before.get(path) != after.get(path)}
    outputs = tuple(os.path.normpath(f"here/{name}") for name in (*OUTPUTS, *case.outputs))
    strange = sorted(path for path in changed if not path.startswith(outputs))
    if strange:
        return f"changed outside of its outputs: {strange[:5]}", status
    left = [path for path in after if path.endswith(".part")]
    if left and status in (0, 2):
        return f"left unfinished: {left[:3]}", status
    return case.after(inside, status), status


def run(case: Case, inside: Path, said: Path) -> tuple[int, str]:
    """Run a case in a process; its status (-1: it did not end) and what it said."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        _child(case.act, inside, said)
    if case.disturb is not None:
        case.disturb(pid)
    status = wait(pid, case.limit)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)  # workers that are left
    return status, said.read_text(errors="replace") if said.exists() else ""


def wait(pid: int, limit: float) -> int:
    """Wait for a process; its status as a shell has it, or -1 after killing its group at the end of the time."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        time.sleep(0.004)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return -1


def _child(act: Callable[[], object], inside: Path, said: Path) -> None:
    """Be the process of a case; never returns."""
    status = 1
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        output = os.open(said, os.O_WRONLY | os.O_CREAT)
        null = os.open(os.devnull, os.O_RDONLY)
        for descriptor, place in ((null, 0), (output, 1), (output, 2)):
            os.dup2(descriptor, place)
        sys.stdout, sys.stderr = (open(place, "w", closefd=False, buffering=1) for place in (1, 2))  # noqa: SIM115
        os.chdir(inside)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY, used + _MEMORY))
        status = ended(act)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def ended(act: Callable[[], object]) -> int:
    """Do something as a command does it; its status."""
    try:
        act()
    except SystemExit as error:
        return int(error.code or 0)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Sizes and times of all files, and links as they are."""
    found = {}
    for root, folders, files in os.walk(folder):
        for name in (*files, *folders):
            path = Path(root, name)
            status = path.lstat()
            found[str(path.relative_to(folder))] = (status.st_size, status.st_mtime_ns) if name in files else (0, 0)
    return found


def content(folder: Path, pattern: str = "*") -> dict[str, bytes]:
    """Bytes of the files that a run leaves, without what has dates in it."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob(pattern))
        if path.is_file() and path.name not in (".lock", "manifest.json")
    }
