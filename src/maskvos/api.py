"""The Python API: load a segmenter, segment videos, score masks. ``import maskvos`` offers these names.

Example:
    >>> import maskvos
    >>> model = maskvos.load()
    >>> for frame in model.stream("my_clip.mp4"):
    ...     print(frame.index, frame.mask.mean())
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskvos.build import build
from maskvos.data.sources import expand, opened
from maskvos.errors import UserError, nearest, require
from maskvos.inference.engines import Engine, OnnxEngine, OpenVINOEngine, check_engine, has_gpu
from maskvos.inference.live import write_source
from maskvos.inference.segmenter import SegmentedFrame, Segmenter
from maskvos.inference.tta import TTA
from maskvos.inference.writer import PredictionWriter
from maskvos.settings.table import PRECISIONS, check_settings
from maskvos.types import Video
from maskvos.weights import bundled
from maskvos.weights.config import InferenceConfig, find_checkpoint, read_config
from maskvos.weights.exported import PROGRAMS, SUFFIXES, check_trusted

if TYPE_CHECKING:
    from maskvos.metrics.folder import Missing
    from maskvos.metrics.protocol import Protocol
    from maskvos.metrics.results import Summary

__all__ = ["SegmentedFrame", "Segmenter", "evaluate", "load", "segment"]

DEVICES = ("auto", "cpu", "cuda", "gpu", "mps")


def load(
    weights: str | Path = bundled.DEFAULT,
    *,
    device: str = "auto",
    precision: str = "32-true",
    backend: str = "auto",
    threshold: float = 0.5,
    trust: Sequence[str] = (),
    config: InferenceConfig | None = None,
    batch_size: int | None = None,
    fill_gaps: int | None = None,
    raft: str | Path | None = None,
) -> Segmenter:
    """Load a segmenter.

    Network, input size, optical flow and test-time augmentation are rebuilt from the file itself.

    Args:
        weights: Name of bundled weights, a checkpoint of a training, or an exported network.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``; exported networks run on the CPU.
        precision: ``32-true``, ``bf16-mixed`` or ``16-mixed``; exported networks take the first only, except in
            OpenVINO.
        backend: ``torch`` for checkpoints; ``onnx``, ``openvino``, ``torchscript`` or ``pt2`` for exported networks.
            Bundled weights run in any of the first three. ``auto`` goes by the file's suffix; bundled weights run in
            ONNX Runtime on the CPU where it is installed, and otherwise in PyTorch.
        threshold: Probability above which a pixel belongs to the object.
        trust: Packages besides maskvos whose classes the checkpoint's configuration may build; and formats of exported
            files that are programs, ``torchscript`` and ``pt2``, which are refused otherwise.
        config: Use these settings instead of those in the file.
        batch_size: Frames per forward pass for videos on disk in PyTorch, None: as the file says; the other engines
            take single frames, several at the same time.
        fill_gaps: Fill parts of the object that vanish for up to so many frames; frames come that much later. None: 2,
            but 0 in live sources and streams of arrays, whose frames come without delay.
        raft: File with RAFT's weights, for models that use its flow (``light_raft``). None: torchvision's, which are
            downloaded once.

    Returns:
        The segmenter.

    Raises:
        UserError: The file is missing or damaged, holds no configuration, asks for classes that are not trusted, or
            does not fit the backend; or the device, or RAFT's weights, are not present.

    Example:
        >>> model = maskvos.load("light", device="cpu")
        >>> probability = model(frames)  # (T, H, W, 3) uint8 to (T, H, W) float32
    """
    check_settings({"backend": backend, "threshold": threshold, "trainer": {"precision": precision}})
    if device.partition(":")[0] not in DEVICES:
        raise UserError(f"device={device}: unknown; {nearest(device, DEVICES)}")
    path = find_checkpoint(str(weights), setting="weights")
    chosen = _backend(path, backend, device, precision)
    trust = [trust] if isinstance(trust, str) else trust
    check_trusted(path, chosen, trust)
    config = _with_raft(config or _read_config(path, trust), raft, path)
    if chosen in ("onnx", *PROGRAMS) and PRECISIONS[precision] is not None:
        raise UserError(
            f"trainer.precision={precision}: {chosen} computes in float32; leave it out, or choose backend=openvino or "
            "a checkpoint"
        )
    engine = _engine(bundled.exported(path) or path, path, chosen, device, precision, config)
    if bundled.find(path.stem) != path:
        check_engine(engine, path, config.size, [1] if engine.workers > 1 else [1, 2])
    store = build(config.flow, "flow")
    if store.estimator is not None and store.cache is None:
        store.estimator.prepare()
    return Segmenter(
        engine,
        config.size,
        store,
        TTA(**config.tta),
        config.motion_as_option,
        config.batch_size if batch_size is None else batch_size,
        threshold,
        _settings(config, chosen, precision),
        config.refine,
        fill_gaps,
    )


def _settings(config: InferenceConfig, backend: str, precision: str) -> dict[str, Any]:
    """What the results depend on, beside weights and threshold, in plain values."""
    return {
        "model": config.model,
        "backend": backend,
        "size": list(config.size),
        "precision": precision,
        "motion_as_option": config.motion_as_option,
        "tta": dict(config.tta),
        "flow": {key: config.flow.get(key) for key in ("estimator", "direction", "gap")},
    }


def _backend(path: Path, backend: str, device: str, precision: str) -> str:
    """The backend that ``auto`` means for a file; a given one if it fits the file.

    Raises:
        UserError: The backend cannot run the file.
    """
    suffix = SUFFIXES.get(path.suffix)
    if backend == "auto":
        if suffix is None and bundled.exported(path) is not None:
            on_cpu = device == "cpu" or (device == "auto" and not has_gpu())
            if on_cpu and find_spec("openvino"):
                return "openvino"
            if on_cpu and find_spec("onnxruntime") and PRECISIONS[precision] is None:
                return "onnx"
        return suffix or "torch"
    if backend == "torch" and suffix is not None:
        raise UserError(f"backend=torch: {path} is an exported {suffix} file; give backend={suffix}, or a checkpoint")
    if backend != "torch" and suffix is None and (backend in PROGRAMS or bundled.exported(path) is None):
        raise UserError(
            f"backend={backend}: {path} is a checkpoint; export it first (task=export) and give the file, or use "
            "backend=torch"
        )
    return backend


def _engine(exported: Path, path: Path, backend: str, device: str, precision: str, config: InferenceConfig) -> Engine:
    if backend == "onnx":
        return OnnxEngine(exported)
    if backend == "openvino":
        return OpenVINOEngine(exported, precision)
    require("torch", f"backend={backend}")
    # Imported here, because the engines above need no torch.
    from maskvos.inference.torch_engine import TorchEngine, TorchFileEngine, resolve_device
    from maskvos.weights.checkpoint import load_network

    if backend != "torch":
        return TorchFileEngine(path, backend)
    return TorchEngine(load_network(path, config.model, config.name), resolve_device(device), precision)


def _read_config(path: Path, trust: Sequence[str]) -> InferenceConfig:
    """The validated configuration of a checkpoint or exported network, see `load`."""
    found = read_config(path)
    if found is None:
        raise UserError(
            f"{path} carries no configuration that says how to build and use its network; give a checkpoint of "
            "maskvos, or use `python -m maskvos.run +experiment=<its experiment> task=predict`"
        )
    config = InferenceConfig.from_config(found).check(str(path), trust)
    if config.flow.get("estimator") is None:
        raise UserError(
            f"{path} was trained with precomputed flow, which new videos do not have; use "
            "`python -m maskvos.run task=predict flow=dis`, which computes it, or give a config with an estimator"
        )
    return config


def _with_raft(config: InferenceConfig, raft: str | Path | None, path: Path) -> InferenceConfig:
    """The configuration with RAFT's weights from a file, if one is given."""
    if raft is None:
        return config
    estimator = config.flow.get("estimator") or {}
    if "weights" not in estimator:
        raise UserError(f"raft={raft}: {path.name} was trained with flow of another kind; leave it out")
    return replace(config, flow={**config.flow, "estimator": {**estimator, "weights": str(raft)}})


def segment(
    source: str | Path,
    output: str | Path,
    *,
    model: Segmenter | str | Path = bundled.DEFAULT,
    kinds: Sequence[str] = ("masks", "overlay"),
    existing: str = "resume",
    progress: bool = True,
    **writer: Any,
) -> dict[str, float]:
    """Segment videos and write the results, as ``task=predict`` does.

    Args:
        source: A movie, a folder of frames or of such, a pattern, a web address, a stream, or the number of a camera,
            see `maskvos.data.sources`.
        output: Folder for the results; ``<output>/<video>/masks/<frame>.png`` and so on, see `PredictionWriter`.
        model: A segmenter, or what `load` takes.
        kinds: What is written, names in `maskvos.inference.outputs.KINDS`: ``masks``, ``overlay``, ``cutout``, ...
        existing: ``resume``, ``overwrite`` or ``error``.
        progress: Show a progress bar on stderr.
        **writer: Further settings of `PredictionWriter`.

    Returns:
        Numbers of frames, videos and skipped videos, and frames per second.

    Raises:
        UserError: The source cannot be read, results cannot be written, or exist with other settings; of several
            videos, those that can be read are written.

    Example:
        >>> maskvos.segment("my_clip.mp4", "out", kinds=["masks", "cutout"])
    """
    segmenter = model if isinstance(model, Segmenter) else load(model)
    kinds = [kinds] if isinstance(kinds, str) else kinds
    made = PredictionWriter(output, kinds=kinds, existing=existing, settings=segmenter.settings, **writer)
    with opened(*expand(str(source)), progress=progress) as found:
        write_source(segmenter, found, made, progress)
    return made.metrics()


def evaluate(
    predictions: str | Path,
    dataset: Sequence[Video],
    *,
    protocol: Protocol | None = None,
    missing: Missing = "fail",
) -> Summary:
    """Score masks that any program saved.

    Args:
        predictions: Folder of masks, ``<predictions>/<sequence>/<frame>.png``.
        dataset: The videos with their ground truth, such as ``maskvos.data.datasets.davis.davis(root, "val")``.
        protocol: Which frames count and how scores are averaged; by default that of DAVIS-2016.
        missing: What a missing prediction means: ``fail``, ``zero`` or ``skip``.

    Returns:
        Scores per frame and per sequence, and their means.

    Raises:
        UserError: Predictions are missing, damaged or of another size than the ground truth; or ``dataset`` is a name.

    Example:
        >>> print(maskvos.evaluate("masks", davis("data/DAVIS", "val")).table())
    """
    from maskvos.metrics.folder import evaluate_folder

    if isinstance(dataset, str | Path):
        raise UserError(
            f"dataset={dataset}: expected the videos with their ground truth, such as those of "
            'maskvos.data.datasets.davis.davis("data/DAVIS", "val")'
        )
    return evaluate_folder(predictions, dataset, protocol, missing)
