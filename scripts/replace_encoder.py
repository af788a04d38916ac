"""Replace the appearance encoder of a trained network by a pretrained one, as the start of a further training.

    python scripts/replace_encoder.py light.safetensors start.ckpt --images data +experiment=light

The features of the new encoder are regressed onto those of the old one, level by level (ridge regression over random
pixels), and the regression is absorbed into the 1x1 convolutions of `ConcatFusion`. All else keeps its weights, except
what the new network does not have. The result is worse than the trained network, and far better than random weights.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from maskvos.build import build
from maskvos.errors import UserError
from maskvos.media.images import read_image
from maskvos.models.fusion import ConcatFusion
from maskvos.models.network import MaskVOS
from maskvos.run import compose
from maskvos.weights.checkpoint import load_network
from maskvos.weights.config import InferenceConfig, read_config

_BATCH = 16
_PIXELS = (300, 300, 200, 84)  # per image and level
_RIDGE = 1e-2


def features(old: MaskVOS, new: MaskVOS, paths: list[Path], size: tuple[int, int]) -> list[tuple[Tensor, Tensor]]:
    """Features of both appearance encoders at the same random pixels, (N, C_new) and (N, C_old) float64 per level."""
    found: list[tuple[list[Tensor], list[Tensor]]] = [([], []) for _ in _PIXELS]
    for start in range(0, len(paths), _BATCH):
        images = [
            cv2.resize(read_image(path), size[::-1], interpolation=cv2.INTER_AREA)
            for path in paths[start : start + _BATCH]
        ]
        rgb = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
        pyramids = [net.rgb_encoder(net.inputs.normalise(rgb)) for net in (new, old) if net.rgb_encoder is not None]
        for level, count in enumerate(_PIXELS):
            pixels = torch.randperm(pyramids[0][level][0, 0].numel())[:count]
            for pyramid, rows in zip(pyramids, found[level], strict=True):
                rows.append(pyramid[level].flatten(2)[:, :, pixels].transpose(1, 2).flatten(0, 1).double())
    return [(torch.cat(new_rows), torch.cat(old_rows)) for new_rows, old_rows in found]


def regress(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, float]:
    """Ridge regression on standardised inputs.

    Returns:
        Weights (C_old, C_new), biases (C_old,), and R2 on the last fifth of the rows, which is left out of the fit.
    """
    mean, target_mean, std = inputs.mean(0), targets.mean(0), inputs.std(0) + 1e-6
    standard = (inputs - mean) / std
    count = len(standard) * 4 // 5
    matrix = standard[:count].T @ standard[:count] + _RIDGE * count * torch.eye(len(mean)).double()
    solution = torch.linalg.solve(matrix, standard[:count].T @ (targets[:count] - target_mean))
    errors = standard[count:] @ solution + target_mean - targets[count:]
    r2 = 1 - errors.square().sum() / (targets[count:] - target_mean).square().sum()
    weights = (solution / std[:, None]).T
    return weights, target_mean - weights @ mean, r2.item()


@torch.no_grad()
def replace_encoder(old: MaskVOS, new: MaskVOS, paths: list[Path], size: tuple[int, int]) -> list[float]:
    """Give ``new`` the weights of ``old``, except those of the appearance encoder.

    Args:
        old: The trained network.
        new: A network with another, pretrained appearance encoder; changed in place.
        paths: Images.
        size: Input height and width of the networks, pixels.

    Returns:
        R2 of the regression, per level.

    Raises:
        UserError: One of the networks fuses its streams otherwise.
    """
    if not isinstance(old.fusion, ConcatFusion) or not isinstance(new.fusion, ConcatFusion):
        raise UserError("both networks need the fusion of model/fusion=concat")
    if old.fusion.channels != new.fusion.channels:
        raise UserError(
            f"fused channels {old.fusion.channels} and {new.fusion.channels} differ; set model.fusion.channels"
        )
    state, trained = new.state_dict(), old.state_dict()
    state |= {
        name: value
        for name, value in trained.items()
        if name in state and state[name].shape == value.shape and not name.startswith("rgb_encoder.")
    }
    scores = []
    for level, (inputs, targets) in enumerate(features(old.eval(), new.eval(), paths, size)):
        weights, biases, r2 = regress(inputs, targets)
        name = f"fusion.projections.{level}"
        kernel = trained[f"{name}.weight"][:, :, 0, 0].double()
        own, other = kernel[:, : len(biases)], kernel[:, len(biases) :]
        state[f"{name}.weight"] = torch.cat((own @ weights, other), 1).float()[:, :, None, None]
        state[f"{name}.bias"] = (trained[f"{name}.bias"].double() + own @ biases).float()
        scores.append(r2)
    new.load_state_dict(state)
    return scores


def main() -> None:
    """Read both networks, regress, and write the new one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path, help="the trained network, with its configuration")
    parser.add_argument("output", type=Path, help="weights for init_from=")
    parser.add_argument("--images", type=Path, required=True, help="folder with JPEG images, at any depth")
    parser.add_argument("--count", type=int, default=400, help="number of images to use")
    options, overrides = parser.parse_known_args()
    config = InferenceConfig.from_config(read_config(options.weights) or {})
    torch.manual_seed(0)
    cfg = compose(overrides)
    paths = sorted(options.images.rglob("*.jpg"))
    if not paths:
        raise UserError(f"--images {options.images}: no JPEG image in it; give a folder with some")
    chosen = np.random.default_rng(0).permutation(len(paths))[: options.count]
    network = build(cfg.model, "model")
    old = load_network(options.weights, config.model)
    scores = replace_encoder(old, network, [paths[index] for index in chosen], (config.size[0], config.size[1]))
    torch.save({"state_dict": network.state_dict()}, options.output)
    print(f"{options.output}: R2 per level {', '.join(f'{score:.2f}' for score in scores)}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
