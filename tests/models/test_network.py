"""The network: image sizes, parts, gradients, inference folding, initialisation, precision, GPU synchronisation."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs import members
from gpu import fake_gpu
from maskvos.errors import UserError
from maskvos.models.backbones.tiny import Tiny
from maskvos.models.folding import fold_batch_norms
from maskvos.models.head import SegFormerHead
from maskvos.models.network import MaskVOS, build_network
from maskvos.models.transformer_decoder import MaskedTransformerDecoder

CONF = Path(__file__).resolve().parents[2] / "conf"
TINY = ("model=maskvos_tiny", "backbone=tiny")


def inputs(batch: int, height: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.rand(batch, 3, height, width, generator=generator),
        3 * torch.randn(batch, 2, height, width, generator=generator),
    )


@pytest.mark.parametrize("size", [(64, 64), (97, 130), (30, 201), (8, 8), (1, 1), (128, 224)])
@pytest.mark.parametrize("training", [False, True])
def test_logits_have_the_input_size(tiny: MaskVOS, size: tuple[int, int], training: bool) -> None:
    with torch.no_grad():
        if training:
            tiny = copy.deepcopy(tiny).train()
        logits, auxiliary = tiny.segment(*inputs(2, *size), aux=True)
    assert logits.shape == (2, 1, *size)
    assert logits.isfinite().all()
    fine = (-(-size[0] // 4), -(-size[1] // 4))
    assert [tuple(x.shape) for x in auxiliary] == [(2, 1, *fine)] * 3


@pytest.mark.slow
def test_full_hd(tiny: MaskVOS) -> None:
    with torch.no_grad():
        assert tiny.segment(*inputs(1, 1080, 1920)).shape == (1, 1, 1080, 1920)


@pytest.mark.parametrize("backbone", ["tiny", "swin_t", "mit_b0", "resnet18"])
def test_frames_of_a_batch_are_independent(build: Callable[..., nn.Module], backbone: str) -> None:
    network = build("model=maskvos_tiny", f"backbone={backbone}").eval()
    rgb, flow = inputs(3, 70, 99)
    with torch.no_grad():
        together = network.segment(rgb, flow)
        alone = torch.cat([network.segment(rgb[i : i + 1], flow[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


def test_frames_of_a_batch_are_independent_in_the_original(original_state: dict[str, Tensor]) -> None:
    from maskvos.weights.original import from_original

    network = from_original(original_state)
    generator = torch.Generator().manual_seed(0)
    rgb, flow_rgb = (torch.randn(2, 3, 96, 130, generator=generator) for _ in range(2))
    with torch.no_grad():
        together = network(rgb, flow_rgb)
        alone = torch.cat([network(rgb[i : i + 1], flow_rgb[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


def test_segment_preprocesses_inputs(tiny: MaskVOS) -> None:
    rgb, flow = inputs(1, 64, 96)
    with torch.no_grad():
        a, b = tiny.inputs(rgb, flow)
        assert torch.equal(tiny(a, b), tiny.segment(rgb, flow))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(a, (rgb - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1))


@pytest.mark.parametrize("fusion", ["concat", "gated", "sum", "rgb_only", "flow_only"])
@pytest.mark.parametrize("decoder", ["deformable_tiny", "fpn"])
def test_every_parameter_gets_a_gradient(build: Callable[..., nn.Module], fusion: str, decoder: str) -> None:
    overrides = [*TINY, f"model/fusion={fusion}"]
    if decoder == "fpn":
        overrides.append("model/pixel_decoder=fpn")
        overrides.append("model.pixel_decoder.channels=64")
    network = build(*overrides).train()
    # With the initial equal attention weights, some gradients are exactly zero.
    for name, parameter in network.named_parameters():
        if "attention_weights" in name or "sampling_offsets" in name:
            nn.init.normal_(parameter, std=0.1)
    logits, auxiliary = network.segment(*inputs(2, 64, 96), aux=True)
    (logits.square().mean() + sum(x.square().mean() for x in auxiliary)).backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not (p.grad.abs().sum() > 0)]
    assert without == []


@pytest.mark.parametrize(("fusion", "used", "unused"), [("rgb_only", "rgb", "flow"), ("flow_only", "flow", "rgb")])
def test_single_stream_ablations(build: Callable[..., nn.Module], fusion: str, used: str, unused: str) -> None:
    network = build(*TINY, f"model/fusion={fusion}").eval()
    assert getattr(network, f"{unused}_encoder") is None
    rgb, flow = inputs(1, 64, 96)
    other_rgb, other_flow = inputs(1, 64, 96, seed=1)
    with torch.no_grad():
        logits = network.segment(rgb, flow)
        same = network.segment(*((other_rgb, flow) if unused == "rgb" else (rgb, other_flow)))
        different = network.segment(*((other_rgb, flow) if used == "rgb" else (rgb, other_flow)))
    assert torch.equal(logits, same)
    assert not torch.allclose(logits, different)


def test_streams_with_different_encoders(build: Callable[..., nn.Module]) -> None:
    other = "{_target_:maskvos.models.backbones.tiny.Tiny,channels:[8,12,16,20]}"
    for fusion in ("concat", "gated", "sum"):
        network = build(*TINY, f"model.flow_encoder={other}", f"model/fusion={fusion}")
        assert network.eval().segment(*inputs(1, 64, 96)).shape == (1, 1, 64, 96)
        assert network.fusion.channels == (16, 32, 64, 96)


def test_shared_encoder(build: Callable[..., nn.Module]) -> None:
    shared = build(*TINY, "model.shared=true").eval()
    apart = build(*TINY).eval()
    encoder = sum(p.numel() for p in shared.rgb_encoder.parameters())
    assert sum(p.numel() for p in apart.parameters()) - sum(p.numel() for p in shared.parameters()) == encoder
    state = shared.state_dict()
    state |= {k.replace("rgb_encoder.", "flow_encoder."): v for k, v in state.items() if k.startswith("rgb_encoder.")}
    apart.load_state_dict(state)
    with torch.no_grad():
        torch.testing.assert_close(
            shared.segment(*inputs(2, 64, 96)), apart.segment(*inputs(2, 64, 96)), atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.flow_encoder=null"], "flow_encoder is null"),
        (["model.rgb_encoder=null", "model.flow_encoder=null"], "both encoders are null"),
        (["model.init=origina"], "'original'"),
        (["model.transformer_decoder.layers=2"], "at least 3"),
        (["model.transformer_decoder.heads=7"], "heads"),
        (["model.pixel_decoder.channels=30"], "multiple of 4"),
    ],
)
def test_invalid_parts(build: Callable[..., nn.Module], overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(*TINY, *overrides)


@pytest.mark.parametrize("model", members("model"))
def test_every_model_config(build: Callable[..., nn.Module], model: str) -> None:
    network = build(f"model={model}", "backbone=tiny").eval()
    with torch.no_grad():
        assert network.segment(*inputs(1, 64, 96)).isfinite().all()


@pytest.mark.parametrize(
    ("part", "choice"),
    [(folder.name, path.stem) for folder in (CONF / "model").iterdir() if folder.is_dir() for path in folder.iterdir()],
)
def test_every_config_of_a_part(build: Callable[..., nn.Module], part: str, choice: str) -> None:
    network = build(*TINY, f"model/{part}={choice}").eval()
    with torch.no_grad():
        assert network.segment(*inputs(1, 64, 96)).isfinite().all()


def test_auxiliary_outputs_do_not_change_the_logits(tiny: MaskVOS) -> None:
    with torch.no_grad():
        logits, auxiliary = tiny.segment(*inputs(2, 64, 96), aux=True)
        assert torch.equal(logits, tiny.segment(*inputs(2, 64, 96)))
    assert len(auxiliary) == len(tiny.transformer_decoder.layers)


def test_a_query_with_an_empty_mask_attends_everywhere() -> None:
    torch.manual_seed(0)
    decoder = MaskedTransformerDecoder(8, queries=3, layers=3, heads=2, ffn_channels=16).eval()
    queries = torch.randn(1, 3, 8)
    # Features of two pixels that give these mask logits; the mask of the second query is empty.
    logits = torch.tensor([[1.0, -1.0], [-1.0, -1.0], [-1.0, 1.0]])
    features = torch.linalg.lstsq(decoder.mask_embed(decoder.norm(queries))[0], logits).solution
    mask = decoder._attention_mask(queries, features.view(1, 8, 1, 2))
    assert mask[0].tolist() == [[True, False], [True, True], [False, True]]


@pytest.mark.parametrize(
    ("backbone", "padding"),
    [
        ("tiny", "replicate"),
        ("tiny", "zeros"),
        pytest.param("swin_t", "zeros", marks=pytest.mark.slow),
        ("resnet18", "replicate"),
    ],
)
def test_folded_network_is_equivalent(build: Callable[..., nn.Module], backbone: str, padding: str) -> None:
    network = build("model=maskvos_light", f"backbone={backbone}", f"model.head.padding={padding}").train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # use the statistics of the batch
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    with torch.no_grad():
        network.segment(*inputs(8, 64, 96))
    network.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    folded = network.fold()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert not folded.training
    with torch.no_grad():
        expected = network.segment(*inputs(2, 70, 99))
        logits, auxiliary = folded.segment(*inputs(2, 70, 99), aux=True)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    assert len(auxiliary) == 3
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_unknown_padding_of_the_head_is_named() -> None:
    with pytest.raises(UserError, match=r"model\.head\.padding=reflect: unknown"):
        SegFormerHead((8, 8, 8, 8), padding="reflect")


@pytest.mark.parametrize("backbone", ["efficientnetv2_s", "mit_b0"])
def test_folded_batch_norms_are_equivalent(build: Callable[..., nn.Module], backbone: str) -> None:
    """In float64, because a deep untrained network amplifies rounding."""
    encoder = build(f"backbone={backbone}", part="backbone").double().train()
    images = torch.randn(4, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        encoder(images)
        encoder.eval()
        folded = fold_batch_norms(encoder)
        assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
        for a, b in zip(encoder(images), folded(images), strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)


def test_a_convolution_with_two_consumers_is_not_folded() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.norm = nn.BatchNorm2d(4)
            nn.init.constant_(self.norm.weight, 3.0)

        def forward(self, x: Tensor) -> list[Tensor]:
            x = self.conv(x)
            return [x + self.norm(x)]

    encoder = Twice().eval()
    assert fold_batch_norms(encoder) is encoder


@pytest.mark.parametrize("backbone", ["tiny", "swin_t", "mit_b0"])
def test_initial_logits_are_moderate(build: Callable[..., nn.Module], backbone: str) -> None:
    network = build("model=maskvos", f"backbone={backbone}").train()
    with torch.no_grad():
        logits = network.segment(*inputs(2, 64, 96))
    assert 0.01 < logits.std() < 5
    assert logits.abs().max() < 20


def test_original_initialisation(build: Callable[..., nn.Module]) -> None:
    network = build(*TINY, "model.init=original")
    convs = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    values = torch.cat([conv.weight.flatten() for conv in convs])
    assert abs(values.std() - 0.01) < 2e-4
    assert abs(values.mean()) < 2e-4
    assert all((conv.bias == 0).all() for conv in convs if conv.bias is not None)


def test_original_initialisation_keeps_pretrained_weights(tmp_path: Path) -> None:
    encoder = Tiny()
    torch.save(encoder.state_dict(), tmp_path / "tiny.pth")
    network = build_network(
        rgb_encoder=Tiny(pretrained=tmp_path / "tiny.pth"), flow_encoder=Tiny(), init="original", **parts()
    )
    assert torch.equal(network.rgb_encoder.stem[0].weight, encoder.stem[0].weight)
    assert network.flow_encoder.stem[0].weight.abs().max() < 0.1


def parts() -> dict[str, object]:
    from functools import partial

    from maskvos.models.fusion import ConcatFusion
    from maskvos.models.head import SegFormerHead
    from maskvos.models.pixel_decoder import FPNPixelDecoder

    return {
        "fusion": ConcatFusion,
        "pixel_decoder": partial(FPNPixelDecoder, channels=32),
        "transformer_decoder": partial(MaskedTransformerDecoder, queries=8, layers=3, ffn_channels=32),
        "head": partial(SegFormerHead, width=16),
    }


def moving_squares(batch: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Textured squares moving over a textured background: rgb, flow, mask."""
    generator = torch.Generator().manual_seed(seed)
    rgb = F.interpolate(torch.rand(batch, 3, 8, 12, generator=generator), size=(64, 96), mode="bilinear")
    flow = torch.randn(batch, 2, 1, 1, generator=generator).expand(batch, 2, 64, 96).clone()
    mask = torch.zeros(batch, 1, 64, 96)
    for i in range(batch):
        y, x = (int(torch.randint(0, high, (), generator=generator)) for high in (34, 66))
        mask[i, :, y : y + 30, x : x + 30] = 1
        flow[i, :, y : y + 30, x : x + 30] = 4 * torch.randn(2, 1, 1, generator=generator)
    return rgb, flow, mask


@pytest.fixture(scope="module")
def trained(build: Callable[..., nn.Module]) -> MaskVOS:
    """A network trained for 70 steps on moving squares."""
    network = build(*TINY).train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3)
    for step in range(70):
        rgb, flow, mask = moving_squares(4, seed=step)
        loss = F.binary_cross_entropy_with_logits(network.segment(rgb, flow), mask)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network.eval()


def jaccard(a: Tensor, b: Tensor) -> float:
    return float((a & b).sum() / (a | b).sum())


def test_training_on_moving_squares(trained: MaskVOS) -> None:
    rgb, flow, mask = moving_squares(16, seed=1000)
    with torch.no_grad():
        assert jaccard(trained.segment(rgb, flow) > 0, mask > 0) > 0.7


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_half_precision_gives_the_same_masks(trained: MaskVOS, precision: torch.dtype) -> None:
    rgb, flow, _ = moving_squares(16, seed=1000)
    with torch.no_grad():
        full = trained.segment(rgb, flow)
        with torch.autocast("cpu", precision):
            half = trained.segment(rgb, flow)
    assert half.isfinite().all()
    assert jaccard(full > 0, half > 0) > 0.99


def test_bfloat16_training_is_finite(build: Callable[..., nn.Module]) -> None:
    network = build(*TINY).train()
    with torch.autocast("cpu", torch.bfloat16):
        logits, auxiliary = network.segment(*inputs(2, 64, 96), aux=True)
    (logits.float().mean() + sum(x.float().mean() for x in auxiliary)).backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())


NETWORKS = [
    ("model=maskvos_tiny", "backbone=tiny"),
    ("model=maskvos_tiny", "backbone=tiny", "model/fusion=gated", "model/pixel_decoder=fpn"),
    ("model=maskvos_tiny", "backbone=swin_t"),
    ("model=maskvos_tiny", "backbone=mit_b0"),
    ("model=maskvos_tiny", "backbone=convnext_tiny"),
    ("+experiment=light",),
]


SWIN, LIGHT = NETWORKS[2], NETWORKS[-1]


@pytest.mark.parametrize(
    ("state", "overrides"),
    [
        pytest.param(state, overrides, marks=[] if state == "eval" or overrides == LIGHT else pytest.mark.slow)
        for state in ("eval", "folded", "train")
        for overrides in NETWORKS
    ],
    ids=lambda part: part if isinstance(part, str) else " ".join(part),
)
def test_forward_does_not_synchronise(build: Callable[..., nn.Module], state: str, overrides: tuple[str, ...]) -> None:
    """Detects operations that synchronise with a GPU or copy between devices, without a GPU."""
    network = build(*overrides).train(state == "train")
    if state == "folded":
        network = network.eval().fold()
    with fake_gpu() as gpu, torch.set_grad_enabled(state == "train"):
        logits, _ = gpu.put(network).segment(gpu.empty(2, 3, 97, 130), gpu.empty(2, 2, 97, 130), aux=True)
    assert logits.shape == (2, 1, 97, 130)
    assert logits.device.type == "cuda"


@pytest.mark.parametrize(
    "overrides",
    [NETWORKS[0], *(pytest.param(network, marks=pytest.mark.slow) for network in (SWIN, LIGHT))],
    ids=" ".join,
)
def test_compiles_without_graph_breaks(build: Callable[..., nn.Module], overrides: tuple[str, ...]) -> None:
    """The eager backend needs no compiler."""
    network = build(*overrides).eval().fold()
    compiled = torch.compile(network.segment, fullgraph=True, backend="eager")
    rgb, flow = inputs(1, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(compiled(rgb, flow), network.segment(rgb, flow))


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: "some" if x.any() else "none",
        lambda x: x[x > 0],
        lambda x: x.cpu(),
        lambda x: x + torch.arange(3).to(x.device),
        lambda x: x * torch.tensor(2.0, device=x.device),
    ],
    ids=["number", "branch", "selection", "to the host", "from the host", "number from the host"],
)
def test_fake_gpu_detects_synchronisation(wait: Callable[[Tensor], object]) -> None:
    with fake_gpu() as gpu:
        x = gpu.empty(3)
        assert (x.clamp(max=1.0) + torch.zeros_like(x)).shape == (3,)
        with pytest.raises(RuntimeError, match=r"_local_scalar_dense|nonzero|copies between"):
            wait(x)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_forward_does_not_synchronise_on_a_gpu(build: Callable[..., nn.Module]) -> None:
    network = build(*TINY).eval().cuda()
    rgb, flow = (x.cuda() for x in inputs(2, 64, 96))
    with torch.no_grad():
        network.segment(rgb, flow)
        torch.cuda.set_sync_debug_mode("error")
        try:
            logits = network.segment(rgb, flow)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert logits.isfinite().all()
