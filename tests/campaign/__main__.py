"""The campaign from the command line: ``make fuzz``, for as long as one likes.

Every case has a seed, which is printed where it breaks a law, and repeats it: ``python tests/campaign movies --start 17
--cases 1``.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Read when torch is loaded. A process that has used threads must not be forked.
os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE", PYTHONWARNINGS="ignore")
sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

import cv2  # noqa: E402
import torch  # noqa: E402

from campaign import faults, fuzz, matrix  # noqa: E402
from campaign.laws import Case, Verdicts, hold  # noqa: E402

KINDS = {kind.__name__: (kind, count) for kind, count in {**fuzz.FUZZERS, **matrix.MATRIX, **faults.FAULTS}.items()}
"""Kinds of cases by name, each with its function from a seed, and its number in the campaign."""


def campaign(names: list[str], place: Path, count: int | None, start: int, rounds: int, seconds: float) -> Verdicts:
    """Run cases of some kinds.

    Args:
        names: Of `KINDS`.
        place: An empty folder.
        count: Cases of each kind; None: as many as the campaign has.
        start: Seed of the first.
        rounds: Over the kinds, each with new seeds; 0: without end.
        seconds: After which no other case begins.
    """
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    (place / "sound").mkdir()
    fuzz.warm(place / "sound")

    def cases() -> Iterator[Case]:
        for turn in itertools.islice(itertools.count(), rounds or None):
            for name in names:
                kind, usual = KINDS[name]
                number = count or usual
                if name != "full_disk" or faults.can_mount():
                    yield from (kind(start + turn * number + seed) for seed in range(number))

    return hold(cases(), place, seconds)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser("campaign", description=__doc__)
    parser.add_argument("kinds", nargs="*", help=f"of {', '.join(KINDS)}; all by default")
    parser.add_argument("--cases", type=int, help="of each kind")
    parser.add_argument("--start", type=int, default=0, help="seed of the first case of each kind")
    parser.add_argument("--rounds", type=int, default=1, help="0: without end")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="after which no other case begins")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        names = given.kinds or list(KINDS)
        verdicts = campaign(names, Path(place), given.cases, given.start, given.rounds, given.seconds)
    print(verdicts.table())
    sys.exit(bool(verdicts.broken))


if __name__ == "__main__":
    main()
