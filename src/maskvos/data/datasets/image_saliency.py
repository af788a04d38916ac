"""Still images with saliency masks, for samples without motion: DUTS (Wang et al., CVPR 2017) and sets like it."""

from __future__ import annotations

from pathlib import Path

from maskvos.data.datasets.listing import Problems, build_video, files_by_name, require_folder
from maskvos.types import MaskRule, Video

# Grey maps with soft edges: the field's binary truth is what lies above half.
RULE = MaskRule(above=127)


def image_saliency(
    root: Path | str,
    images: str = "DUTS-TR/DUTS-TR-Image",
    masks: str = "DUTS-TR/DUTS-TR-Mask",
    name: str = "DUTS",
) -> list[Video]:
    """List a set of still images.

    Args:
        root: The set's folder.
        images: Folder of the pictures below it.
        masks: Folder of the masks below it, of the same names.
        name: Name of the set.

    Returns:
        One video of one frame per picture.

    Raises:
        UserError: A missing folder; a picture without mask or a mask without picture.
    """
    layout = f"{images}/*.jpg with {masks}/*.png"
    image_folder = require_folder(name, root, *images.split("/"), expected=layout)
    mask_folder = require_folder(name, root, *masks.split("/"), expected=layout)
    problems = Problems(name)
    pictures, truths = files_by_name(image_folder), files_by_name(mask_folder)
    if not pictures:
        problems.add(f"no picture in {image_folder}; expected {layout}")
    videos = [
        build_video(
            stem,
            {stem: picture},
            {stem: truths[stem]} if stem in truths else {},
            problems,
            masks_folder=mask_folder,
            rule=RULE,
        )
        for stem, picture in pictures.items()
    ]
    for stem in truths.keys() - pictures.keys():
        problems.add(f"no picture for the mask {truths[stem]}; expected one of its name in {image_folder}")
    problems.raise_any()
    return [video for video in videos if video is not None]
