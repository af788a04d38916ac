"""Contract tests for every backbone of conf/backbone, and tests of single backbones and weight layouts."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants
from torch import nn

from maskvos.errors import UserError
from maskvos.models.backbones import base, hub
from maskvos.models.backbones.mit import MixTransformer
from maskvos.models.backbones.swin import Swin, shift_mask
from maskvos.models.backbones.timm import TimmBackbone

CONF = Path(__file__).resolve().parents[2] / "conf" / "backbone"
LARGE = {"efficientnetv2_m", "efficientnetv2_l", "mit_b1", "mit_b2", "mit_b3", "mit_b4", "mit_b5", "swin_s", "swin_b"}
NAMES = [
    pytest.param(path.stem, marks=[pytest.mark.slow] if path.stem in LARGE else [])
    for path in sorted(CONF.glob("*.yaml"))
]


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network, and an empty hub cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    base._warn_once.cache_clear()


@pytest.fixture(scope="module", params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def backbone(name: str, build: Callable[..., nn.Module]) -> base.Backbone:
    return build(f"backbone={name}", part="backbone").eval()


class TestEveryBackbone:
    """The interface that the rest of the network relies on."""

    @pytest.mark.parametrize("size", [(64, 64), (70, 99), (33, 128)])
    def test_output_shapes(self, backbone: base.Backbone, size: tuple[int, int]) -> None:
        with torch.no_grad():
            maps = backbone(torch.randn(2, 3, *size))
        expected = [
            (2, channels, math.ceil(size[0] / stride), math.ceil(size[1] / stride))
            for channels, stride in zip(backbone.channels, (4, 8, 16, 32), strict=True)
        ]
        assert [tuple(x.shape) for x in maps] == expected
        assert all(x.isfinite().all() for x in maps)

    def test_images_of_a_batch_are_independent(self, backbone: base.Backbone) -> None:
        """In float64, because a deep untrained network amplifies rounding."""
        backbone = copy.deepcopy(backbone).double()
        images = torch.randn(3, 3, 70, 99, generator=torch.Generator().manual_seed(0)).double()
        with torch.no_grad():
            together = backbone(images)
            alone = backbone(images[1:2])
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a[1:2], b, atol=1e-6, rtol=1e-6)

    def test_every_scale_depends_on_the_image(self, backbone: base.Backbone) -> None:
        images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            for first, second in backbone(images):
                assert (first - second).abs().max() > 0.01 * first.abs().max()

    def test_every_parameter_gets_a_gradient(self, backbone: base.Backbone) -> None:
        backbone.zero_grad(set_to_none=True)
        sum(x.square().mean() for x in backbone(torch.randn(1, 3, 64, 64))).backward()
        assert [name for name, p in backbone.named_parameters() if p.grad is None] == []
        backbone.zero_grad(set_to_none=True)

    def test_loads_its_own_weights_from_a_file(
        self, backbone: base.Backbone, build: Callable[..., nn.Module], name: str, tmp_path: Path
    ) -> None:
        torch.save({"state_dict": backbone.state_dict()}, tmp_path / "weights.pth")
        loaded = build(f"backbone={name}", part="backbone", pretrained=str(tmp_path / "weights.pth"), seed=1).eval()
        images = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            for a, b in zip(backbone(images), loaded(images), strict=True):
                torch.testing.assert_close(a, b, atol=0, rtol=0)
        assert loaded.pretrained

    @pytest.mark.usefixtures("offline")
    def test_without_network_it_warns_once_and_uses_random_weights(
        self, build: Callable[..., nn.Module], name: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        built = [build(f"backbone={name}", part="backbone", pretrained=True) for _ in range(2)]
        ours = [message for message in caplog.messages if "pretrained weights are not" in message]
        assert len(ours) == 1
        assert "backbone.pretrained" in ours[0]
        assert not any(b.pretrained for b in built)


@pytest.mark.parametrize("name", ["resnet26d", "pvt_v2_b0", "mobilenetv3_small_100", "swinv2_cr_tiny_224"])
def test_a_timm_model_is_built_from_its_name(name: str) -> None:
    backbone = TimmBackbone(name).eval()
    with torch.no_grad():
        maps = backbone(torch.randn(1, 3, 70, 99))
    assert [tuple(x.shape) for x in maps] == [
        (1, c, math.ceil(70 / s), math.ceil(99 / s)) for c, s in zip(backbone.channels, (4, 8, 16, 32), strict=True)
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet1", "resnet18"),
        ("resnet18.imagenet", "no weights 'imagenet'"),
        ("vit_tiny_patch16_224", "no feature pyramid"),
        ("maxvit_tiny_rw_224", "does not support an image"),
    ],
)
def test_invalid_timm_names(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        TimmBackbone(name)


@pytest.mark.parametrize(
    "option", ["checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "pretrained_strict"]
)
def test_timm_options_that_read_files_are_refused(option: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"backbone\.{option}=/etc/weights\.pth.*not allowed.*backbone\.pretrained"):
        TimmBackbone("resnet18", **{option: "/etc/weights.pth"})


def test_weights_of_another_architecture_name_the_file(tmp_path: Path) -> None:
    torch.save(Swin(channels=24, heads=(1, 2, 4, 8)).state_dict(), tmp_path / "small.pth")
    with pytest.raises(UserError, match=r"small\.pth.*another architecture.*\(96"):
        Swin(pretrained=tmp_path / "small.pth")


def official_swin(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename timm's tensors as in the authors' files: downsampling at the end of a stage, with derived buffers."""
    official = {}
    for key, value in state.items():
        key = re.sub(r"layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", key)
        official[key.replace("head.fc.", "head.")] = value
    official["layers.0.blocks.1.attn_mask"] = torch.zeros(64, 49, 49)
    official["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49, dtype=torch.int64)
    return official


@pytest.mark.parametrize("layout", ["timm", "official"])
def test_swin_equals_timm_on_shared_weights(layout: str, tmp_path: Path) -> None:
    """For maps larger than a window, since timm does not shift smaller ones; golden values cover those."""
    sizes = {"embed_dim": 24, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 3, 6), "img_size": 448}
    reference = timm.create_model("swin_tiny_patch4_window7_224", features_only=True, **sizes).eval()
    state = timm.create_model("swin_tiny_patch4_window7_224", **sizes).state_dict()
    reference.load_state_dict(
        {re.sub(r"^layers\.(\d)", r"layers_\1", k): v for k, v in state.items() if not k.startswith(("head", "norm."))}
    )
    content = {"model": official_swin(state)} if layout == "official" else state
    torch.save(content, tmp_path / "swin.pth")
    ours = Swin(24, (2, 2, 2, 2), (1, 2, 3, 6), pretrained=tmp_path / "swin.pth").eval()
    images = torch.randn(1, 3, 448, 448)
    with torch.no_grad():
        for a, b in zip(ours(images), reference(images), strict=True):
            torch.testing.assert_close(a, b.permute(0, 3, 1, 2), atol=1e-4, rtol=1e-4)


def test_shift_mask_separates_regions() -> None:
    mask = shift_mask(10, 9, 7, torch.zeros(1))
    assert mask.shape == (4, 49, 49)
    assert (mask.diagonal(dim1=1, dim2=2) == 0).all()
    assert torch.equal(mask, mask.transpose(1, 2))
    # The first window is inside the map; the last one contains four regions.
    assert (mask[0] == 0).all()
    assert len({tuple(row) for row in (mask[3] == 0).int().tolist()}) == 4


def segformer(channels: tuple[int, ...], depths: tuple[int, ...]) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.SegformerConfig(
        hidden_sizes=list(channels), depths=list(depths), num_attention_heads=[1, 2, 5, 8], sr_ratios=[8, 4, 2, 1]
    )
    return transformers.SegformerModel(config).eval()


@pytest.mark.parametrize(
    ("variant", "depths"),
    [
        ("b0", (2, 2, 2, 2)),
        pytest.param("b1", (2, 2, 2, 2), marks=pytest.mark.slow),
        pytest.param("b2", (3, 4, 6, 3), marks=pytest.mark.slow),
        pytest.param("b3", (3, 4, 18, 3), marks=pytest.mark.slow),
        pytest.param("b4", (3, 8, 27, 3), marks=pytest.mark.slow),
        pytest.param("b5", (3, 6, 40, 3), marks=pytest.mark.slow),
    ],
)
def test_mit_equals_transformers_on_shared_weights(variant: str, depths: tuple[int, ...], tmp_path: Path) -> None:
    ours = MixTransformer(variant)
    reference = segformer(ours.channels, depths)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.05 + (1.0 if parameter.ndim == 1 else 0.0))
    torch.save(reference.state_dict(), tmp_path / "mit.bin")
    ours = MixTransformer(variant, pretrained=tmp_path / "mit.bin").eval()
    images = torch.randn(1, 3, 96, 70)
    with torch.no_grad():
        expected = reference(images, output_hidden_states=True).hidden_states
        for a, b in zip(ours(images), expected[-4:], strict=True):
            torch.testing.assert_close(a, b, atol=2e-4, rtol=2e-4)


def authors_mit(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename our tensors as in the authors' files."""
    official = {"head.weight": torch.zeros(1000, 256), "head.bias": torch.zeros(1000)}
    for key, value in state.items():
        key = re.sub(r"stages\.(\d)\.patch_embed\.", lambda m: f"patch_embed{int(m[1]) + 1}.", key)
        key = re.sub(r"stages\.(\d)\.blocks\.", lambda m: f"block{int(m[1]) + 1}.", key)
        official[re.sub(r"stages\.(\d)\.norm\.", lambda m: f"norm{int(m[1]) + 1}.", key)] = value
    return official


def test_mit_loads_the_authors_layout(tmp_path: Path) -> None:
    source = MixTransformer("b0").eval()
    torch.save(authors_mit(source.state_dict()), tmp_path / "mit_b0.pth")
    ours = MixTransformer("b0", pretrained=tmp_path / "mit_b0.pth").eval()
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), ours.parameters(), strict=True))


def test_an_unknown_mit_variant_suggests_the_nearest() -> None:
    with pytest.raises(UserError, match="'b5'"):
        MixTransformer("b6")


def efficientnet_single_file(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """timm's EfficientNetV2 tensors in their order, with consecutive block numbers and other layer names."""
    renamed: dict[str, torch.Tensor] = {}
    numbers: dict[str, int] = {}
    layers = {"conv_pw": "expand_conv.conv", "conv_exp": "expand_conv.conv", "conv_dw": "dwconv.conv"}
    for key, value in state.items():
        key = key.replace("conv_stem.", "stem.conv.").replace("conv_head.", "head.project_conv.conv.")
        key = re.sub(r"^bn1\.", "stem.bn.", key)
        block = re.match(r"blocks\.(\d)\.(\d+)\.", key)
        if block:
            number = numbers.setdefault(block[0], len(numbers))
            inner = key[block.end() :]
            for name, other in layers.items():
                inner = inner.replace(name, other)
            key = f"blocks.{number}.{inner}"
        renamed[key] = value
    return renamed


@pytest.mark.parametrize("layout", ["timm", "single_file", "torchvision"])
def test_efficientnetv2_loads_every_published_layout(layout: str, tmp_path: Path) -> None:
    ours = TimmBackbone("tf_efficientnetv2_s").eval()
    if layout == "torchvision":
        from torchvision.models import efficientnet_v2_s

        state = efficientnet_v2_s().state_dict()
        torch.save(state, tmp_path / "w.pth")
    else:
        state = timm.create_model("tf_efficientnetv2_s").state_dict()
        torch.save({"model": efficientnet_single_file(state)} if layout == "single_file" else state, tmp_path / "w.pth")
    loaded = TimmBackbone("tf_efficientnetv2_s", pretrained=tmp_path / "w.pth").eval()
    theirs = [value for key, value in state.items() if not key.endswith("num_batches_tracked")]
    mine = [value for key, value in loaded.body.state_dict().items() if not key.endswith("num_batches_tracked")]
    assert all(torch.equal(a, b.reshape(a.shape)) for a, b in zip(mine, theirs, strict=False))
    assert any(
        not torch.equal(a, b) for a, b in zip(ours.state_dict().values(), loaded.state_dict().values(), strict=True)
    )


def test_weights_of_another_timm_model_are_refused(tmp_path: Path) -> None:
    torch.save(timm.create_model("resnet34").state_dict(), tmp_path / "resnet34.pth")
    with pytest.raises(UserError, match="another architecture"):
        TimmBackbone("tf_efficientnetv2_s", pretrained=tmp_path / "resnet34.pth")


@pytest.mark.parametrize("reachable", [True, False])
def test_offline_mode_is_restored(reachable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "_reachable", lambda: reachable)
    inside = []

    def fail() -> None:
        with hub.offline_if_unreachable():
            inside.append(constants.HF_HUB_OFFLINE)
            raise OSError("failed download")

    with pytest.raises(OSError, match="failed download"):
        fail()
    assert inside == [not reachable]
    assert constants.HF_HUB_OFFLINE is False
