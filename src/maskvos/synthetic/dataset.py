"""Procedural clips as a dataset on disk, in DAVIS's layout with exact flow."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from maskvos.errors import UserError, nearest
from maskvos.flow.codec import write_flow
from maskvos.media.images import encode_image
from maskvos.synthetic.clips import Clip, generate_clip
from maskvos.synthetic.style import Style
from maskvos.types import Frame, Video

log = logging.getLogger(__name__)

# Increment when the same seed gives different clips, so that outdated clips on disk are not reused.
VERSION = 2
SPLITS = ("train", "val", "test")


def synthetic(
    root: str | Path,
    clips: int = 40,
    frames: int = 16,
    size: tuple[int, int] = (96, 160),
    seed: int = 0,
    split: str = "train",
    style: Mapping[str, object] | None = None,
    image_format: str = "jpg",
) -> list[Video]:
    """List the videos of a procedural dataset; generates it on first use.

    The clips are in ``<root>/<split>-<hash of the settings>/`` in DAVIS's layout: ``JPEGImages/<clip>/00000.jpg``,
    ``Annotations/<clip>/00000.png`` (0 or 255), ``Flow/<clip>/00000.flo`` (exact flow to the next frame), and
    ``settings.json``. The folder is created atomically and reused by the same settings only.

    Args:
        root: Parent folder; created if missing.
        clips: Number of clips.
        frames: Frames per clip.
        size: Height and width in pixels.
        seed: Random seed.
        split: ``train``, ``val`` or ``test``; splits share no clip, even at the same seed.
        style: Changes to the default `Style`, by name.
        image_format: ``jpg`` (quality 95) or ``png`` (lossless).

    Returns:
        Videos ``<split>-00000`` and so on, with mask and flow for every frame.

    Raises:
        UserError: A setting is out of range, or the folder is not writable.
    """
    if split not in SPLITS:
        raise UserError(f"synthetic: unknown split '{split}'; {nearest(split, SPLITS)}")
    if image_format not in ("jpg", "png"):
        raise UserError(f"synthetic: image_format '{image_format}'; choose 'jpg' or 'png'")
    if clips < 1 or seed < 0:
        raise UserError(f"synthetic: clips={clips}, seed={seed}; choose at least one clip and a seed of 0 or more")
    chosen = Style.of(style)
    height, width = size
    settings = {
        "version": VERSION,
        "split": split,
        "clips": int(clips),
        "frames": int(frames),
        "size": [int(height), int(width)],
        "seed": int(seed),
        "image_format": image_format,
        "style": asdict(chosen),
    }
    names = [f"{split}-{index:05d}" for index in range(clips)]
    rendered = (generate_clip(clip_seed(seed, split, i), int(frames), (height, width), chosen) for i in range(clips))
    folder = ensure_clips(Path(root), split, settings, names, rendered, image_format)
    return clip_videos(folder, names, int(frames), "synthetic", image_format)


def clip_seed(seed: int, split: str, index: int) -> tuple[int, ...]:
    """The seed of one clip for `generate_clip`, unique to its dataset seed, split and index."""
    return (seed, SPLITS.index(split), index)


def ensure_clips(
    root: Path,
    name: str,
    settings: Mapping[str, object],
    names: Sequence[str],
    clips: Iterable[Clip],
    image_format: str = "jpg",
    with_flow: bool = True,
) -> Path:
    """Write clips to the folder ``<root>/<name>-<hash of the settings>`` unless it exists.

    All are written to a temporary folder, which is then renamed; the folder of a process that finished first is kept.

    Args:
        root: Parent folder; created if missing.
        name: Start of the folder's name.
        settings: All that determines the clips, for JSON.
        names: Name of every clip.
        clips: The clips, in the order of the names; not consumed if the folder exists.
        image_format: ``jpg`` (quality 95) or ``png`` (lossless).
        with_flow: Also write the exact flow.

    Returns:
        The folder.

    Raises:
        UserError: The folder is not writable.
    """
    text = json.dumps(settings, indent=2, sort_keys=True)
    folder = root / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"
    if (folder / "settings.json").is_file():
        return folder
    log.info("%s: generating %d clips in %s", name, len(names), folder)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=root) as temporary:
            partial = Path(temporary)
            for clip_name, clip in zip(names, clips, strict=True):
                _write_clip(partial, clip_name, clip, image_format, with_flow)
            (partial / "settings.json").write_text(text)
            partial.chmod(0o755)
            try:
                os.rename(partial, folder)
            except OSError:
                if not (folder / "settings.json").is_file():
                    raise
    except OSError as error:
        raise UserError(
            f"synthetic: writing clips to {root} failed ({error.strerror}) and the partial data was removed; "
            "make room or choose another folder"
        ) from error
    return folder


def _write_clip(folder: Path, name: str, clip: Clip, image_format: str, with_flow: bool) -> None:
    images, masks, flows = (folder / part / name for part in ("JPEGImages", "Annotations", "Flow"))
    for path in (images, masks, flows) if with_flow else (images, masks):
        path.mkdir(parents=True)
    for index, (rgb, mask, flow) in enumerate(zip(*clip, strict=True)):
        (images / f"{index:05d}.{image_format}").write_bytes(encode_image(rgb, f".{image_format}"))
        (masks / f"{index:05d}.png").write_bytes(encode_image(mask * 255, ".png"))
        if with_flow:
            write_flow(flows / f"{index:05d}.flo", flow)


def clip_videos(
    folder: Path, names: Sequence[str], frames: int, dataset: str, image_format: str = "jpg", with_flow: bool = True
) -> list[Video]:
    """List the clips that `ensure_clips` wrote, as videos of a dataset."""

    def frame(name: str, index: int) -> Frame:
        return Frame(
            name=f"{index:05d}",
            image=folder / "JPEGImages" / name / f"{index:05d}.{image_format}",
            mask=folder / "Annotations" / name / f"{index:05d}.png",
            flow=folder / "Flow" / name / f"{index:05d}.flo" if with_flow else None,
        )

    return [Video(name, tuple(frame(name, index) for index in range(frames)), dataset=dataset) for name in names]
