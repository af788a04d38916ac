"""Procedural clips as a dataset on disk, in DAVIS's layout with exact flow."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Mapping
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
    text = json.dumps(settings, indent=2, sort_keys=True)
    folder = Path(root) / f"{split}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"
    if not (folder / "settings.json").is_file():
        _write_clips(folder, text, settings, chosen)
    return [_video(folder, f"{split}-{index:05d}", int(frames), image_format) for index in range(clips)]


def clip_seed(seed: int, split: str, index: int) -> tuple[int, ...]:
    """The seed of one clip for `generate_clip`, unique to its dataset seed, split and index."""
    return (seed, SPLITS.index(split), index)


def _write_clips(folder: Path, text: str, settings: Mapping, style: Style) -> None:
    """Write all clips to a temporary folder and rename it; keeps the folder of a process that finished first."""
    log.info("synthetic: generating %d clips of %d frames in %s", settings["clips"], settings["frames"], folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as name:
            partial = Path(name)
            for index in range(settings["clips"]):
                seed = clip_seed(settings["seed"], settings["split"], index)
                clip = generate_clip(seed, settings["frames"], tuple(settings["size"]), style)
                _write_clip(partial, f"{settings['split']}-{index:05d}", clip, settings["image_format"])
            (partial / "settings.json").write_text(text)
            partial.chmod(0o755)
            try:
                os.rename(partial, folder)
            except OSError:
                if not (folder / "settings.json").is_file():
                    raise
    except OSError as error:
        raise UserError(
            f"synthetic: writing clips to {folder.parent} failed ({error.strerror}) and the partial data was removed; "
            "make room or choose another folder"
        ) from error


def _write_clip(folder: Path, name: str, clip: Clip, image_format: str) -> None:
    images, masks, flows = (folder / part / name for part in ("JPEGImages", "Annotations", "Flow"))
    for path in (images, masks, flows):
        path.mkdir(parents=True)
    for index, (rgb, mask, flow) in enumerate(zip(*clip, strict=True)):
        (images / f"{index:05d}.{image_format}").write_bytes(encode_image(rgb, f".{image_format}"))
        (masks / f"{index:05d}.png").write_bytes(encode_image(mask * 255, ".png"))
        write_flow(flows / f"{index:05d}.flo", flow)


def _video(folder: Path, name: str, frames: int, image_format: str) -> Video:
    return Video(
        name=name,
        frames=tuple(
            Frame(
                name=f"{index:05d}",
                image=folder / "JPEGImages" / name / f"{index:05d}.{image_format}",
                mask=folder / "Annotations" / name / f"{index:05d}.png",
                flow=folder / "Flow" / name / f"{index:05d}.flo",
            )
            for index in range(frames)
        ),
        dataset="synthetic",
    )
