"""Data sets put together, and data sets divided by sequences."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence

from maskvos.errors import UserError, nearest
from maskvos.types import Video

PARTS = ("train", "held_out")


def mixture(parts: Sequence[Callable[[], list[Video]]]) -> list[Video]:
    """All videos of several data sets; ``data.weights`` says how often each is drawn.

    Args:
        parts: Each lists the videos of one data set when called.

    Returns:
        The videos, data set after data set.

    Raises:
        UserError: No part given.
    """
    if not parts:
        raise UserError("data: a mixture of no data sets; give at least one under 'parts'")
    return [video for part in parts for video in part()]


def divide(
    source: Callable[[], list[Video]], part: str = "train", share: float = 0.1, group: str | None = None
) -> list[Video]:
    """One part of a data set that its owners did not divide; whole sequences go to one part.

    Which sequences are held out follows from their names alone, so it is the same on every machine and in every run.

    Args:
        source: Lists the videos when called.
        part: ``held_out`` (chooses the checkpoint) or ``train`` (the others).
        share: Share of the groups that is held out, 0 to 1; at least one group is where it is above 0.
        group: Regular expression; sequences whose names match it with the same text stay together, such as the shots
            of one film. None: every sequence for itself.

    Returns:
        The videos of the part, in their order.

    Raises:
        UserError: An unknown part, a share that is none, or nothing left in the part.
    """
    if part not in PARTS:
        raise UserError(f"data: no part '{part}'; {nearest(part, PARTS)}")
    if not 0 <= share <= 1:
        raise UserError(f"data: share is {share}; it must be from 0 to 1")
    videos = source()

    def key(video: Video) -> str:
        found = re.match(group, video.name) if group else None
        return found[0] if found else video.name

    groups = sorted({key(video) for video in videos}, key=lambda name: hashlib.sha256(name.encode()).digest())
    held_out = set(groups[: max(1, round(share * len(groups))) if share else 0])
    chosen = [video for video in videos if (key(video) in held_out) == (part == "held_out")]
    if not chosen:
        raise UserError(f"data: nothing left in the part '{part}' of {len(videos)} videos; change share={share}")
    return chosen
