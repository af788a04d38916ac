"""Checkpoints and golden values of the original network; safe reading and loading of checkpoint files."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from maskvos.errors import UserError
from maskvos.models.network import MaskVOS
from maskvos.models.state_dict import load_state, read_checkpoint, tensors_of
from maskvos.weights.original import from_original, load_original, original_network


@pytest.fixture(scope="module")
def original(original_state: dict[str, Tensor]) -> MaskVOS:
    return from_original(original_state)


@pytest.mark.shared
def test_golden_parity_of_logits_and_intermediate_features(original: MaskVOS, shared: Path) -> None:
    golden = {k: torch.from_numpy(v) for k, v in np.load(shared / "golden" / "maskvos_swin_t_128.npz").items()}
    stages: dict[str, Tensor] = {}

    def keep(name: str, outputs: list[Tensor]) -> None:
        stages.update({f"{name}_{i}": out for i, out in enumerate(outputs)})

    hooks = [
        original.rgb_encoder.register_forward_hook(lambda m, i, out: keep("appearance", out)),
        original.fusion.register_forward_hook(lambda m, i, out: keep("fused", out)),
        original.pixel_decoder.register_forward_hook(lambda m, i, out: keep("pixel_decoder", out[0])),
        original.pixel_decoder.register_forward_hook(lambda m, i, out: stages.update(mask_features=out[1])),
        original.transformer_decoder.register_forward_hook(lambda m, i, out: keep("class_maps", out.classes)),
        original.transformer_decoder.register_forward_hook(lambda m, i, out: stages.update(pred_masks=out.masks)),
        original.projections.register_forward_hook(lambda m, i, out: keep("head_input", out)),
    ]
    with torch.no_grad():
        logits = original(golden.pop("rgb"), golden.pop("flow_rgb"))
    for hook in hooks:
        hook.remove()
    torch.testing.assert_close(logits, golden.pop("logits"), atol=1e-3, rtol=0)
    assert stages.keys() == golden.keys()
    for name, expected in golden.items():
        actual = stages[name][:1, : expected.shape[1]]
        assert (actual - expected).abs().max() <= 1e-4 * expected.abs().max(), name


@pytest.mark.shared
def test_a_checkpoint_file_with_module_prefix_loads(
    original: MaskVOS, original_state: dict[str, Tensor], tmp_path: Path
) -> None:
    checkpoint = {
        "epoch": 3,
        "network": {f"module.{key}": value for key, value in original_state.items()},
        "optimizer": {"state": {}, "param_groups": []},
    }
    torch.save(checkpoint, tmp_path / "original.pth")
    network = load_original(tmp_path / "original.pth")
    assert not network.training
    for (name, a), b in zip(network.state_dict().items(), original.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.shared
@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("mask2former.conv1.bias", None, r"projections\.convs\.0\.bias: not in the file"),
        ("mask2former.conv1.bias", torch.zeros(64), r"projections\.convs\.0\.bias: \(64,\) in the file"),
        ("mask2former.conv5.bias", torch.zeros(1), r"projections\.convs\.4\.bias: not in the network"),
        (
            "mask2former.convolution.bias",
            torch.zeros(1),
            "'mask2former.convolution.bias' is not a tensor",
        ),
    ],
    ids=["missing", "shape", "unexpected", "unknown name"],
)
def test_import_is_strict(original_state: dict[str, Tensor], key: str, value: Tensor | None, message: str) -> None:
    state = {**original_state, key: value}
    with pytest.raises(UserError, match=message):
        from_original({name: tensor for name, tensor in state.items() if tensor is not None})


@pytest.mark.shared
def test_every_tensor_of_the_original_is_imported(original_state: dict[str, Tensor], original: MaskVOS) -> None:
    """Except the relative position index, which follows from the window size."""
    own = original.state_dict()
    derived = [key for key in original_state if key.endswith("relative_position_index")]
    assert len(original_state) == 644
    assert len(own) == 644 - len(derived)
    assert sum(v.numel() for v in own.values()) == sum(v.numel() for k, v in original_state.items() if k not in derived)


def test_parameter_counts() -> None:
    network = original_network()

    def count(*modules: nn.Module) -> int:
        return sum(p.numel() for module in modules for p in module.parameters())

    decoder = network.pixel_decoder
    assert count(network.rgb_encoder) == count(network.flow_encoder) == 27_517_818
    assert count(network.fusion) == 1_568_160
    assert count(decoder) == 5_422_016
    assert count(decoder.layers) + decoder.level_embed.numel() == 4_393_920
    assert count(network.transformer_decoder) == 9_919_744
    assert count(network.projections) == 1_297_440
    assert count(network.head) == 508_177
    assert count(network) == 73_751_173


class Malicious:
    """Unpickling it creates a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", ["zip", "legacy", "pickle"])
def test_a_checkpoint_that_would_run_code_is_refused(protocol: str, tmp_path: Path) -> None:
    target, file = tmp_path / "created", tmp_path / "weights.pth"
    content = {"state_dict": {"a": torch.zeros(1)}, "extra": Malicious(target)}
    if protocol == "pickle":
        file.write_bytes(pickle.dumps({"extra": Malicious(target)}))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=protocol == "zip")
    with pytest.raises(UserError, match=r"weights\.pth.*refused"):
        read_checkpoint(file)
    assert not target.exists()


def test_damaged_and_missing_files(tmp_path: Path) -> None:
    intact = tmp_path / "intact.pth"
    torch.save({"a": torch.zeros(1000)}, intact)
    for name, content in {
        "cut.pth": intact.read_bytes()[:700],
        "text.pth": b"version https://git-lfs.github.com/spec/v1\n",
        "empty.ckpt": b"",
        "cut.safetensors": b"\x10\x00",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=name):
            read_checkpoint(tmp_path / name)
    with pytest.raises(UserError, match="no file"):
        read_checkpoint(tmp_path / "absent.pth")
    with pytest.raises(UserError, match="no file"):
        read_checkpoint(tmp_path)


def test_a_checkpoint_without_a_state_dict_is_refused(tmp_path: Path) -> None:
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    with pytest.raises(UserError, match=r"tensor\.pth.*Tensor"):
        read_checkpoint(tmp_path / "tensor.pth")
    with pytest.raises(UserError, match="epoch"):
        tensors_of({"epoch": 3}, "a file")


def test_safetensors(tmp_path: Path) -> None:
    save_file({"module.a": torch.arange(3.0)}, tmp_path / "w.safetensors")
    assert torch.equal(tensors_of(read_checkpoint(tmp_path / "w.safetensors"), "w")["a"], torch.arange(3.0))


def test_strict_loading_and_warm_start() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    state = {"0.weight": torch.ones(3, 2), "0.bias": torch.ones(4), "9.bias": torch.ones(1)}
    with pytest.raises(UserError, match=r"best\.ckpt.*another architecture.*0\.bias.*init_from"):
        load_state(network, state, "best.ckpt")
    skipped = load_state(network, state, "best.ckpt", strict=False)
    assert (network[0].weight == 1).all()
    assert [line.split(":")[0] for line in skipped] == ["0.bias", "1.weight", "1.bias", "9.bias"]
    with pytest.raises(UserError, match="another architecture"):
        load_state(network, {"x": torch.ones(1)}, "best.ckpt", strict=False)
