"""From nothing to masks of a moving object: train, test and predict on procedural clips, on the CPU, in minutes.

Usage: ``python scripts/demo.py [KEY=VALUE ...]``, with overrides of ``conf/experiment/demo.yaml``.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from maskvos.data.video_io import read_image, write_image
from maskvos.draw import contact_sheet
from maskvos.flow.codec import flow_to_rgb
from maskvos.run import build, compose, run


def main() -> None:
    """Train, test, predict one clip of the test split, and draw it."""
    start = time.perf_counter()
    overrides = ["+experiment=demo", *sys.argv[1:]]
    cfg = compose(overrides)
    folder = Path(cfg.paths.run)

    print("1/3 training the tiny two-stream model on procedural clips")
    run(cfg)
    trained = f"ckpt_path={folder / 'checkpoints' / 'best.ckpt'}"

    print("2/3 testing it on clips that it has not seen")
    scores = run(compose([*overrides, "task=test", trained], folder))

    print("3/3 predicting one of these clips")
    video = build(cfg.data.test)()[0]
    clip, masks = video.frames[0].image.parent, folder / "predictions"
    run(compose([*overrides, "task=predict", trained, f"input={clip}", f"output={masks}"], folder))

    flow = build(cfg.flow)
    rows = []
    for index in range(0, len(video.frames), max(1, len(video.frames) // 4)):
        frame = video.frames[index]
        rows.append(
            {
                "frame": read_image(frame.image),
                "flow": flow_to_rgb(flow.load(video, index)),
                "prediction": read_image(masks / video.name / "masks" / f"{frame.name}.png")[..., 0] > 127,
                "truth": read_image(frame.mask)[..., 0] > 0,
            }
        )
    write_image(folder / "contact_sheet.png", contact_sheet(rows, height=144))

    print(f"\nheld-out clips: J {scores['test/j']:.3f}  F {scores['test/f']:.3f}  J&F {scores['test/jf']:.3f}")
    print(f"checkpoint:     {folder / 'checkpoints' / 'best.ckpt'}")
    print(f"masks:          {masks / video.name / 'masks'}")
    print(f"overlay:        {masks / video.name / 'overlay.mp4'}")
    print(f"contact sheet:  {folder / 'contact_sheet.png'}")
    print(f"all in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
