"""From logits at the network's input size to logits and probabilities at the frames' own sizes."""

from __future__ import annotations

import cv2
import numpy as np

from maskvos.media.alpha import HALF, soft_alpha


def resize_logits(logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize logits bilinearly.

    Args:
        logits: (H, W) float32.
        size: Height and width of the frame, pixels.
    """
    return cv2.resize(logits, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Probabilities in [0, 1], float32, of logits; by tanh, which does not overflow."""
    return 0.5 + 0.5 * np.tanh(0.5 * logits.astype(np.float32))


def refine_edges(probability: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Let the edge of the mask follow the picture, as `SegmentedFrame.refined` does.

    Args:
        probability: (H, W) float32 in [0, 1].
        image: (H, W, 3) uint8 RGB, the frame.

    Returns:
        (H, W) float32 in [0, 1]: opacity where it is on the other side of one half than the probability, which is kept
        elsewhere.
    """
    alpha = soft_alpha(image, probability > 0.5)
    other = (alpha > HALF) != (probability > 0.5)
    return np.where(other, alpha / np.float32(255), probability)


def probabilities(logits: np.ndarray, sizes: list[tuple[int, int]]) -> list[np.ndarray]:
    """Foreground probabilities at the frames' own sizes.

    Args:
        logits: (B, 1, H, W) float32.
        sizes: B sizes (H0, W0), pixels.

    Returns:
        B arrays (H0, W0), float32 in [0, 1].
    """
    return [sigmoid(resize_logits(logit[0], size)) for logit, size in zip(logits, sizes, strict=True)]
