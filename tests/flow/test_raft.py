"""The RAFT flow estimator, with torchvision's and the authors' checkpoints."""

from __future__ import annotations

import pickle
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import URLError

import cv2
import numpy as np
import pytest
import torch
from torchvision.models.optical_flow import Raft_Small_Weights, raft_large, raft_small

from maskvos.errors import UserError
from maskvos.flow.base import pair_flow
from maskvos.flow.dis import DIS
from maskvos.flow.raft import RAFT, convert_state

_AUTHORS = (
    (r"^feature_encoder\.", "fnet."),
    (r"^context_encoder\.", "cnet."),
    (r"^(fnet|cnet)\.convnormrelu\.0\.", r"\1.conv1."),
    (r"^(fnet|cnet)\.convnormrelu\.1\.", r"\1.norm1."),
    (r"^(fnet|cnet)\.conv\.", r"\1.conv2."),
    (r"\.convnormrelu(\d)\.0\.", r".conv\1."),
    (r"\.convnormrelu(\d)\.1\.", r".norm\1."),
    (r"\.motion_encoder\.conv(corr|flow)(\d)\.0\.", lambda m: f".encoder.conv{m[1][0]}{m[2]}."),
    (r"\.motion_encoder\.conv\.0\.", ".encoder.conv."),
    (r"^mask_predictor\.convrelu\.0\.", "update_block.mask.0."),
    (r"^mask_predictor\.conv\.", "update_block.mask.2."),
)


def authors_state(state: dict[str, torch.Tensor], large: bool) -> dict[str, torch.Tensor]:
    """The same tensors under the authors' names, with the duplicates that their files contain."""
    gru = r".gru.conv\2\1." if large else r".gru.conv\2."
    renamed = {}
    for name, value in state.items():
        for pattern, replacement in (*_AUTHORS, (r"\.recurrent_block\.convgru(\d)\.conv([zrq])\.", gru)):
            name = re.sub(pattern, replacement, name)
        renamed["module." + name] = value
        if large and ".downsample.1." in name:
            renamed["module." + name.replace("downsample.1", "norm3")] = value
    return renamed


@pytest.mark.parametrize("variant", ["small", "large"])
def test_checkpoints_of_the_authors_are_converted(tmp_path: Path, variant: str) -> None:
    torch.manual_seed(0)
    network = raft_small() if variant == "small" else raft_large()
    state = authors_state(network.state_dict(), variant == "large")
    assert "module.update_block.gru.convz" + ("1" if variant == "large" else "") + ".weight" in state
    torch.save(state, tmp_path / "raft.pth")
    loaded = RAFT(variant, tmp_path / "raft.pth")._load()
    expected = network.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(value.cpu(), expected[name]) for name, value in loaded.state_dict().items())


def test_torchvision_checkpoints_are_unchanged() -> None:
    state = raft_large().state_dict()
    assert convert_state(state).keys() == state.keys()


@pytest.mark.parametrize("size", [(1, 1), (100, 131), (128, 128), (130, 141)])
def test_any_size_works(tmp_path: Path, size: tuple[int, int]) -> None:
    torch.save(raft_small().state_dict(), tmp_path / "raft.pth")
    frame = np.random.default_rng(0).integers(0, 255, (*size, 3)).astype(np.uint8)
    flow = pair_flow(frame, frame, RAFT("small", tmp_path / "raft.pth", updates=1))
    assert flow.shape == (*size, 2)
    assert np.isfinite(flow).all()


def test_bfloat16_is_close_and_kept_apart(tmp_path: Path, texture: np.ndarray) -> None:
    torch.save(raft_small().state_dict(), tmp_path / "raft.pth")
    exact, rounded = (RAFT("small", tmp_path / "raft.pth", 1, precision=p) for p in ("32-true", "bf16-mixed"))
    frame = texture[:128, :128]
    expected, flow = (pair_flow(frame, np.roll(frame, 3, axis=1), raft) for raft in (exact, rounded))
    assert flow.dtype == np.float32
    assert 0 < np.abs(flow - expected).max() < 0.2 * np.abs(expected).max()
    assert exact.fingerprint != rounded.fingerprint


def test_several_threads_may_use_it(tmp_path: Path) -> None:
    torch.save(raft_small().state_dict(), tmp_path / "raft.pth")
    raft = RAFT("small", tmp_path / "raft.pth", updates=2)
    frames = np.random.default_rng(0).integers(0, 255, (8, 128, 128, 3)).astype(np.uint8)
    expected = [pair_flow(frame, frame[::-1], raft) for frame in frames]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda frame: pair_flow(frame, frame[::-1], raft), frames))
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_weights_are_part_of_the_fingerprint(tmp_path: Path) -> None:
    prints = {RAFT("small").fingerprint, RAFT("large").fingerprint, RAFT("small", updates=6).fingerprint}
    for seed in (0, 1):
        torch.manual_seed(seed)
        torch.save(raft_small().state_dict(), tmp_path / "raft.pth")
        prints.add(RAFT("small", tmp_path / "raft.pth").fingerprint)
        copy = tmp_path / f"copy{seed}.pth"
        copy.write_bytes((tmp_path / "raft.pth").read_bytes())
        assert RAFT("small", copy).fingerprint == RAFT("small", tmp_path / "raft.pth").fingerprint
    assert len(prints) == 5


def test_missing_weights_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setattr(Raft_Small_Weights.DEFAULT.__class__, "get_state_dict", offline)
    raft = RAFT("small")  # constructing it needs no network
    with pytest.raises(UserError, match=r"could not be downloaded.*flow\.estimator\.weights=<path>.*flow=dis"):
        raft.prepare()
    with pytest.raises(UserError, match="random flow"):
        RAFT("small", None)


def test_invalid_weights_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.pth: cannot be read"):
        RAFT("small", tmp_path / "none.pth")
    with pytest.raises(UserError, match="did you mean 'small'"):
        RAFT("smal")
    with pytest.raises(UserError, match="updates=0"):
        RAFT(updates=0)
    with pytest.raises(UserError, match="did you mean 'bf16-mixed'"):
        RAFT(precision="bf16-mixd")

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (print, ("executed",))

    path = tmp_path / "raft.pth"
    for content in (b"", b"not weights", pickle.dumps(Evil(), protocol=2)):
        path.write_bytes(content)
        with pytest.raises(UserError, match="weights_only=True"):
            RAFT("small", path).prepare()
    torch.save(raft_large().state_dict(), path)
    with pytest.raises(UserError, match=r"do not match RAFT small.*flow=raft_large"):
        RAFT("small", path).prepare()
    torch.save([1, 2], path)
    with pytest.raises(UserError, match="not a state dict"):
        RAFT("small", path).prepare()


@pytest.mark.shared
def test_published_weights_recover_known_motion(shared: Path, texture: np.ndarray) -> None:
    raft = RAFT("small", shared / "weights" / "raft-small.pth")
    flow = pair_flow(texture, np.roll(texture, (5, -3), (1, 0)), raft)[24:-24, 24:-24]
    assert np.linalg.norm(flow - np.array((5, -3), np.float32), axis=-1).mean() < 0.5


@pytest.mark.shared
def test_published_weights_explain_real_frames(shared: Path) -> None:
    """Warping by RAFT-small removes most of the photometric error between frames.

    DIS, which minimises the photometric error directly, removes a little more. Bounding the error relative to both
    catches a wrong channel order or a shifted grid.
    """
    folder = shared / "data" / "DAVIS" / "JPEGImages" / "480p"
    errors: dict[str, list[float]] = {"none": [], "dis": [], "raft": []}
    raft, dis = RAFT("small", shared / "weights" / "raft-small.pth"), DIS()
    for sequence in ("bmx-trees", "car-roundabout"):
        first, second = (
            cv2.imread(str(path))[112:368, 260:580, ::-1].copy()
            for path in sorted((folder / sequence).glob("*.jpg"))[20:22]
        )
        flows = {"none": np.zeros((*first.shape[:2], 2), np.float32)}
        flows |= {"dis": pair_flow(first, second, dis), "raft": pair_flow(first, second, raft)}
        for name, flow in flows.items():
            errors[name].append(photometric_error(first, second, flow))
    mean = {name: float(np.mean(values)) for name, values in errors.items()}
    assert mean["raft"] < 0.5 * mean["none"]
    assert mean["raft"] < 1.5 * mean["dis"]


def photometric_error(first: np.ndarray, second: np.ndarray, flow: np.ndarray) -> float:
    """Mean absolute difference between the first frame and the second frame warped by the flow."""
    height, width = flow.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    warped = cv2.remap(second, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return float(np.abs(warped.astype(np.float32) - first.astype(np.float32)).mean())


def test_a_device_is_not_read_for_weights() -> None:
    with pytest.raises(UserError, match=r"flow\.estimator\.weights=/dev/zero: cannot be read \(not a file\)"):
        RAFT("small", "/dev/zero")
