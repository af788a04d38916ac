"""From nothing to masks of a moving object: train, test and predict on procedural clips, on the CPU, in minutes.

Usage: ``python scripts/demo.py [KEY=VALUE ...]``, with overrides of ``conf/experiment/demo.yaml``.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from maskvos.build import build
from maskvos.flow.codec import flow_to_rgb
from maskvos.media.draw import contact_sheet
from maskvos.media.images import read_image, write_image
from maskvos.metrics.functional import jaccard
from maskvos.run import compose, run


def main() -> None:
    """Train, test, predict one clip of the test split, also with the bundled weights, and draw it."""
    start = time.perf_counter()
    overrides = ["+experiment=demo", *sys.argv[1:]]
    cfg = compose(overrides)
    folder = Path(cfg.paths.run)

    print("1/4 training the tiny two-stream model on procedural clips")
    run(cfg)
    trained = f"ckpt_path={folder / 'checkpoints' / 'best.ckpt'}"

    print("2/4 testing it on clips that it has not seen")
    scores = run(compose([*overrides, "task=test", trained], folder))

    print("3/4 predicting one of these clips")
    video = build(cfg.data.test)()[0]
    clip, masks = video.frames[0].image.parent, folder / "predictions"
    run(compose([*overrides, "task=predict", trained, f"input={clip}", f"output={masks}"], folder))

    print("4/4 predicting it with the weights that come with the package")
    run(compose(["task=predict", f"input={clip}", f"output={folder / 'bundled'}"], folder))
    predictions = {"trained here": masks, "bundled": folder / "bundled"}

    flow = build(cfg.flow)
    rows, region = [], {name: [] for name in predictions}
    for index, frame in enumerate(video.frames):
        row = {"frame": read_image(frame.image), "flow": flow_to_rgb(flow.load(video, index))}
        row["truth"] = read_image(frame.mask)[..., 0] > 0
        for name, output in predictions.items():
            row[name] = read_image(output / video.name / "masks" / f"{frame.name}.png")[..., 0] > 127
            region[name].append(jaccard(row[name], row["truth"]))
        rows.append(row)
    write_image(folder / "contact_sheet.png", contact_sheet(rows[:: max(1, len(rows) // 4)], height=144))

    print(f"\nheld-out clips: J {scores['test/j']:.3f}  F {scores['test/f']:.3f}  J&F {scores['test/jf']:.3f}")
    print("this clip:      " + ", ".join(f"J {np.mean(j):.3f} {name}" for name, j in region.items()))
    print(f"checkpoint:     {folder / 'checkpoints' / 'best.ckpt'}")
    print(f"masks:          {masks / video.name / 'masks'}")
    print(f"overlay:        {masks / video.name / 'overlay.mp4'}")
    print(f"contact sheet:  {folder / 'contact_sheet.png'}")
    print(f"all in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
