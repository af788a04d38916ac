"""End-to-end demo: train from scratch, test and predict on procedural clips, in minutes on a CPU.

python scripts/demo.py [KEY=VALUE ...]      # overrides of conf/experiment/demo.yaml
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

import maskvos
from maskvos.build import build
from maskvos.flow.colours import flow_to_rgb
from maskvos.media.draw import contact_sheet
from maskvos.media.images import read_image, write_image
from maskvos.metrics.functional import jaccard
from maskvos.run import compose, run


def main() -> None:
    """Train and test; predict a test clip with the new and the bundled weights, and draw both."""
    start = time.perf_counter()
    overrides = ["+experiment=demo", *sys.argv[1:]]
    cfg = compose(overrides)
    folder, progress = Path(cfg.paths.run), cfg.trainer.enable_progress_bar

    print("1/4 training the tiny two-stream model on procedural clips")
    run(cfg)
    checkpoint = folder / "checkpoints" / "best.ckpt"

    print("2/4 testing it on unseen clips")
    scores = run(compose([*overrides, "task=test", f"ckpt_path={checkpoint}"], folder))

    print("3/4 predicting one of these clips")
    video = build(cfg.data.test)()[0]
    clip = video.frames[0].image.parent
    outputs = {"trained here": folder / "predictions", "bundled": folder / "bundled"}
    maskvos.segment(clip, outputs["trained here"], model=maskvos.load(checkpoint, device="cpu"), progress=progress)

    print("4/4 predicting it with the bundled weights")
    maskvos.segment(clip, outputs["bundled"], model=maskvos.load(device="cpu"), progress=progress)

    flow = build(cfg.flow)
    rows, region = [], {name: [] for name in outputs}
    for index, frame in enumerate(video.frames):
        row = {"frame": read_image(frame.image), "flow": flow_to_rgb(flow.load(video, index))}
        row["truth"] = read_image(frame.mask)[..., 0] > 0
        for name, output in outputs.items():
            row[name] = read_image(output / video.name / "masks" / f"{frame.name}.png")[..., 0] > 127
            region[name].append(jaccard(row[name], row["truth"]))
        rows.append(row)
    write_image(folder / "contact_sheet.png", contact_sheet(rows[:: max(1, len(rows) // 4)], height=144))

    print(f"\ntest split:     J {scores['test/j']:.3f}  F {scores['test/f']:.3f}  J&F {scores['test/jf']:.3f}")
    print("this clip:      " + ", ".join(f"J {np.mean(j):.3f} {name}" for name, j in region.items()))
    print(f"checkpoint:     {checkpoint}")
    results = outputs["trained here"] / video.name
    print(f"masks:          {results / 'masks'}")
    print(f"overlay:        {results / 'overlay.mp4'}")
    print(f"contact sheet:  {folder / 'contact_sheet.png'}")
    print(f"total time:     {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
