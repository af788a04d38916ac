"""Example frames of a report: which frames to show, their masks, and their error maps as JPEG."""

from __future__ import annotations

import base64
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import cv2
import numpy as np
import pytorch_lightning as pl
import torch

from maskvos.data.dataset import FrameDataset, collate, read_mask
from maskvos.errors import UserError
from maskvos.inference.postprocess import probabilities
from maskvos.inference.tta import Segment
from maskvos.media.draw import draw_errors
from maskvos.media.images import read_image
from maskvos.metrics.layout import find_predictions
from maskvos.metrics.protocol import Protocol
from maskvos.metrics.reading import read_prediction
from maskvos.metrics.results import FrameRow
from maskvos.reports.scores import SHOWN, frame_score, lower_is_better, measure_of, number
from maskvos.training.module import SegmentationModule
from maskvos.types import Video

log = logging.getLogger(__name__)

EXAMPLES = 6
IMAGE_BYTES = 100_000
# Longest side of an example, pixels.
_SIDE = 640


class Example(NamedTuple):
    """A frame (H, W, 3) uint8 RGB at its own size, its ground truth (H, W) bool, and the prediction (H, W) bool."""

    image: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray


ExampleSource = Callable[[str, str], Example]
"""Maps the names of a sequence and of one of its frames to the example."""


def candidates(frames: Sequence[FrameRow], measure: str, best: bool) -> Iterator[FrameRow]:
    """Frames from best to worst or from worst to best, only few of each sequence, and those far apart.

    Args:
        frames: All frames, those of a sequence in order.
        measure: Score to sort by.
        best: Start with the best.
    """
    lengths = Counter(row.video for row in frames)
    positions: dict[tuple[str, str], int] = {}
    seen: Counter[str] = Counter()
    for row in frames:
        positions[row.video, row.frame] = seen[row.video]
        seen[row.video] += 1
    most = max(2, -(-EXAMPLES // max(1, len(lengths))))
    taken: dict[str, list[int]] = {}
    scored = [row for row in frames if not math.isnan(frame_score(row, measure))]
    for row in sorted(scored, key=lambda row: frame_score(row, measure), reverse=best != lower_is_better(measure)):
        position, others = positions[row.video, row.frame], taken.setdefault(row.video, [])
        if len(others) < most and all(abs(position - other) > lengths[row.video] / (2 * most) for other in others):
            others.append(position)
            yield row


def example_figures(
    frames: Sequence[FrameRow], measure: str, source: ExampleSource, advance: Callable[[], None]
) -> list[tuple[str, list[dict[str, Any]]]]:
    """The error maps of the `candidates`: ``("Worst", figures)`` and ``("Best", figures)``, at most `EXAMPLES` each.

    Calls ``advance`` after each figure.
    """
    count = min(EXAMPLES, max(1, sum(not row.left_out for row in frames) // 2))
    shown: set[tuple[str, str]] = set()
    parts = []
    for heading, best in (("Worst", False), ("Best", True)):
        figures: list[dict[str, Any]] = []
        for tries, row in enumerate(candidates(frames, measure, best)):
            if len(figures) == count or tries == 4 * EXAMPLES:
                break
            if (row.video, row.frame) in shown:
                continue
            try:
                example = source(row.video, row.frame)
            except UserError as error:
                log.warning("report: no example of %s/%s: %s", row.video, row.frame, error)
                continue
            if best and not example.truth.any():
                continue  # a correct empty mask shows nothing
            shown.add((row.video, row.frame))
            figures.append(_figure(row, measure, example))
            advance()
        parts.append((heading, figures))
    return parts


def _figure(row: FrameRow, measure: str, example: Example) -> dict[str, Any]:
    """An error map with its caption and alternative text."""
    size = max(1, int(example.truth.sum()))
    missed = int((example.truth & ~example.prediction).sum())
    wrong = int((example.prediction & ~example.truth).sum())
    if example.truth.any():
        errors = f"false negatives {missed / size:.0%}, false positives {wrong / size:.0%} of the object's area"
    else:
        errors = f"no object; {wrong:,} false positive pixels"
    names = [name for name in SHOWN if name in row.values] or [measure]
    scores = ", ".join(f"{measure_of(name)} {number(frame_score(row, name))}" for name in names)
    image = draw_errors(*_scaled(example))
    return {
        "name": f"{row.video} / {row.frame}",
        "scores": scores,
        "errors": errors,
        "alt": f"Frame {row.frame} of {row.video}: {scores}; {errors}",
        "source": _data_uri(image),
        "width": image.shape[1],
        "height": image.shape[0],
    }


def _scaled(example: Example) -> Example:
    """Resize an example to the size on the page, so that all outlines drawn on it have the same width."""
    height, width = example.truth.shape
    factor = _SIDE / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    interpolation = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    masks = (
        cv2.resize(mask.astype(np.float32), size, interpolation=interpolation) > 0.5
        for mask in (example.truth, example.prediction)
    )
    return Example(cv2.resize(example.image, size, interpolation=interpolation), *masks)


def _data_uri(image: np.ndarray) -> str:
    """Encode an image (H, W, 3) uint8 RGB as a data URL: JPEG of at most `IMAGE_BYTES`."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    for quality in (88, 75, 55, 35, 15, 5):
        _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
        if len(data) <= IMAGE_BYTES:
            break
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


def saved_masks(predictions: Path | str, videos: Sequence[Video], protocol: Protocol) -> ExampleSource:
    """Examples from mask files, found and read in the same way as by `metrics.evaluate_folder`.

    Args:
        predictions: Folder of masks.
        videos: Videos that were scored.
        protocol: Protocol that they were scored with.
    """
    files = find_predictions(predictions, videos, protocol)
    frames = {(video.name, frame.name): (video, frame) for video in videos for frame in video.frames}

    def source(name: str, frame_name: str) -> Example:
        video, frame = frames[name, frame_name]
        image = read_image(frame.image)
        size = (image.shape[0], image.shape[1])
        truth = np.zeros(size, bool) if frame.mask is None else read_mask(frame.mask, size, video.masks) > 0
        if (name, frame_name) not in files:
            return Example(image, truth, np.zeros(size, bool))
        saved = read_prediction(files[name, frame_name])
        ids = saved.kind != "levels" or protocol.objects == "match"
        mask = (saved.values != 0 if ids else protocol.foreground(saved.values)).astype(np.uint8)
        return Example(image, truth, cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT) > 0)

    return source


def predicted_masks(
    trainer: pl.Trainer, module: SegmentationModule, dataset: FrameDataset, protocol: Protocol
) -> ExampleSource:
    """Examples that the network of a running test segments again, so that the test need not keep any masks.

    Only the calling process takes part, even if the test runs in several.

    Args:
        trainer: Running the test.
        module: Module under test, with its test-time augmentation.
        dataset: Test frames, with ground truth and images.
        protocol: Protocol of the test.
    """
    indices = {
        (dataset.videos[v].name, dataset.videos[v].frames[f].name): index for index, (v, f) in enumerate(dataset.pairs)
    }

    @torch.inference_mode()
    def source(name: str, frame_name: str) -> Example:
        batch = collate([dataset[indices[name, frame_name]]])
        moved = trainer.precision_plugin.convert_input(trainer.strategy.batch_to_device(batch))
        with trainer.precision_plugin.test_step_context():
            logits = module.tta(cast(Segment, module.network.segment), moved)
        (probability,) = probabilities(logits.float().cpu().numpy(), batch["size"])
        truth = batch["truth"][0]
        prediction = protocol.foreground(probability)
        return Example(batch["image"][0], np.zeros_like(prediction) if truth is None else truth, prediction)

    return source
