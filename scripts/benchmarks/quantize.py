"""Quantise the bundled network to 8 bits after training, and compare speed and masks with float32.

    pip install openvino
    python scripts/benchmarks/quantize.py light-int8.onnx
    maskvos <videos> --weights light-int8.onnx --backend openvino -o predictions

ONNX Runtime calibrates the convolutions, per channel, on procedural clips and their DIS flow. (With matrix products
too, OpenVINO cannot compile the file.) It is used like any other exported network. Processor times of one thread
alternate, so that other load on the machine affects all alike.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import maskvos  # sets OpenMP's waiting policy, so it comes before torch

# isort: split
import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from maskvos.errors import UserError
from maskvos.inference.engines import OnnxEngine, OpenVINOEngine
from maskvos.synthetic.clips import generate_clip
from maskvos.synthetic.dataset import clip_seed
from maskvos.synthetic.style import Style
from maskvos.text import markdown_table
from maskvos.weights import bundled

SIZE = (224, 384)


def samples(path: Path, clips: int, split: str) -> list[dict[str, np.ndarray]]:
    """What a network reads of procedural clips: ``rgb`` (1, 3, H, W) and ``flow`` (1, 2, H, W), per frame."""
    model = maskvos.load(path, backend="onnx")
    found: list[dict[str, np.ndarray]] = []
    segment = model.engine.alone()

    class Recorder:
        digest, workers = "", 1

        def __call__(self, rgb: np.ndarray, flow: np.ndarray, motion: np.ndarray | None = None) -> np.ndarray:
            found.append({"rgb": rgb, "flow": flow})
            return segment(rgb, flow, motion)

        def alone(self) -> Recorder:
            return self

    model.engine = Recorder()
    for index in range(clips):
        model(generate_clip(clip_seed(0, split, index), 8, SIZE, Style()).rgb)
    return found


def quantise(path: Path, output: Path, clips: int) -> None:
    """Write a quantised copy of a network."""

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(samples(path, clips, "train"))

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.left, None)

    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(path, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            output,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            op_types_to_quantize=["Conv"],
        )
    quantised = onnx.load(output)
    del quantised.metadata_props[:]
    quantised.metadata_props.extend(onnx.load(path).metadata_props)
    for other in [entry for entry in quantised.opset_import if entry.domain]:  # declared, but not used
        quantised.opset_import.remove(other)
    onnx.save(quantised, output)


def main() -> None:
    """Write the quantised file and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="the quantised network, .onnx")
    parser.add_argument("--clips", type=int, default=12, help="procedural clips of 8 frames for calibration")
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    path = bundled.exported(bundled.find(bundled.DEFAULT) or Path())
    if path is None:
        raise UserError(f"the bundled weights {bundled.DEFAULT} have no ONNX file; install maskvos again")
    quantise(path, options.output, options.clips)
    engines = {
        "ONNX Runtime": OnnxEngine(path),
        "ONNX Runtime, int8": OnnxEngine(options.output),
        "OpenVINO": OpenVINOEngine(path),
        "OpenVINO, bfloat16": OpenVINOEngine(path, "bf16-mixed"),
        "OpenVINO, int8": OpenVINOEngine(options.output),
        "OpenVINO, int8 and bfloat16": OpenVINOEngine(options.output, "bf16-mixed"),
    }
    frames = samples(path, 2, "val")
    expected = [engines["ONNX Runtime"](**frame) > 0 for frame in frames]
    times: dict[str, list[float]] = {name: [] for name in engines}
    agreement = {
        name: np.mean([(engine(**frame) > 0) == mask for frame, mask in zip(frames, expected, strict=True)])
        for name, engine in engines.items()
    }
    for _ in range(options.repeats):
        for name, engine in engines.items():
            begin = time.process_time()
            engine(**frames[0])
            times[name].append(time.process_time() - begin)
    medians = {name: 1e3 * statistics.median(values) for name, values in times.items()}
    rows = [
        [name, f"{took:.1f}", f"{took / medians['ONNX Runtime']:.2f}", f"{agreement[name]:.2%}"]
        for name, took in medians.items()
    ]
    print(markdown_table(["engine", "processor ms", "ratio", "pixels that agree"], rows))
    print(f"\nmegabytes: {path.stat().st_size / 1e6:.1f}, int8 {options.output.stat().st_size / 1e6:.1f}")


if __name__ == "__main__":
    main()
