"""Combine datasets, and hold out sequences for validation."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence

from maskvos.errors import UserError, nearest
from maskvos.types import Video

SPLITS = ("train", "held_out")


def mixture(parts: Sequence[Callable[[], list[Video]]]) -> list[Video]:
    """Concatenate datasets; ``data.weights`` sets the sampling weight of each.

    Args:
        parts: Functions that list the videos of one dataset each.

    Returns:
        The videos, dataset by dataset.

    Raises:
        UserError: No dataset given.
    """
    if not parts:
        raise UserError("data: a mixture needs at least one dataset; give it under 'parts'")
    return [video for part in parts for video in part()]


def divide(
    source: Callable[[], list[Video]], split: str = "train", fraction: float = 0.1, group: str | None = None
) -> list[Video]:
    """Split off sequences for validation, for datasets without a validation split.

    The split depends on the sequence names only (by hash), so it is the same on every machine and in every run.

    Args:
        source: Function that lists the videos.
        split: ``held_out`` (for checkpoint selection) or ``train`` (the others).
        fraction: Fraction of the groups to hold out, 0 to 1; at least one group if it is above 0.
        group: Regular expression; sequences with the same match at the start of their names stay in the same split,
            e.g. the shots of one film. None: split by sequence.

    Returns:
        The videos of the split, in their original order.

    Raises:
        UserError: Unknown split, invalid fraction, or the split is empty.
    """
    if split not in SPLITS:
        raise UserError(f"data: unknown split '{split}'; {nearest(split, SPLITS)}")
    if not 0 <= fraction <= 1:
        raise UserError(f"data: fraction={fraction}: must be from 0 to 1")
    videos = source()

    def key(video: Video) -> str:
        found = re.match(group, video.name) if group else None
        return found[0] if found else video.name

    groups = sorted({key(video) for video in videos}, key=lambda name: hashlib.sha256(name.encode()).digest())
    held_out = set(groups[: max(1, round(fraction * len(groups))) if fraction else 0])
    chosen = [video for video in videos if (key(video) in held_out) == (split == "held_out")]
    if not chosen:
        raise UserError(f"data: split '{split}' of {len(videos)} videos is empty; change fraction={fraction}")
    return chosen
