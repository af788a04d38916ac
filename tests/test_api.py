"""The Python API as a stranger uses it: light to import, typed, and with examples that run."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import maskvos
from maskvos.errors import UserError
from maskvos.inference.segmenter import Segmenter
from maskvos.media.images import write_image
from maskvos.media.video import VideoWriter
from maskvos.synthetic.clips import Clip, generate_clip
from maskvos.types import Frame, Video

LIBRARIES = ("torch", "torchvision", "cv2", "av", "albumentations", "timm", "safetensors", "scipy", "rich", "onnx")
HEAVY = ("torch", "pytorch_lightning", "hydra", "omegaconf", "cv2", "numpy", "matplotlib", "timm", "albumentations")


@pytest.fixture(scope="module")
def clip() -> Clip:
    return generate_clip((3,), 4, (120, 200))


@pytest.fixture(scope="module")
def model() -> Segmenter:
    return maskvos.load("light", device="cpu")


def python(code: str, cwd: Path | None = None) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_it_imports_nothing_heavy() -> None:
    code = f"import sys, maskvos; print([name for name in {HEAVY} if name in sys.modules])"
    assert python(code) == "[]"
    # The whole of it is the interpreter's start.
    seconds = float(python("import time; t = time.perf_counter(); import maskvos; print(time.perf_counter() - t)"))
    assert seconds < 0.2


def test_importing_it_lets_idle_threads_of_openmp_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import os, maskvos; print(os.environ['OMP_WAIT_POLICY'])"
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert python(code) == "PASSIVE"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert python(code) == "ACTIVE"  # the user's own setting is kept


def test_segmenting_needs_neither_hydra_nor_lightning() -> None:
    code = (
        "import sys, maskvos.api; print([n for n in ('hydra', 'pytorch_lightning', 'matplotlib') if n in sys.modules])"
    )
    assert python(code) == "[]"


def test_every_public_name_is_documented_and_listed() -> None:
    assert set(maskvos.__all__) <= set(dir(maskvos))
    for name in set(maskvos.__all__) - {"__version__"}:
        assert len(getattr(maskvos, name).__doc__) > 80
    with pytest.raises(AttributeError, match="segmnt"):
        maskvos.segmnt  # noqa: B018


def test_a_movie_a_folder_and_an_array_are_segmented_alike(clip: Clip, model: Segmenter, tmp_path: Path) -> None:
    for index, frame in enumerate(clip.rgb):
        write_image(tmp_path / "clip" / f"{index:05d}.png", frame)
    found = list(model.stream(tmp_path / "clip"))
    assert [frame.index for frame in found] == [0, 1, 2, 3]
    assert all(frame.mask.shape == (120, 200) for frame in found)
    from_array = model(clip.rgb)
    assert from_array.shape == (4, 120, 200)
    assert from_array.dtype == np.float32
    np.testing.assert_allclose(from_array, np.stack([frame.probability for frame in found]), atol=1e-4)
    with VideoWriter(tmp_path / "clip.mp4", 25) as movie:
        for frame in clip.rgb:
            movie.write(frame)
    assert [round(frame.time, 3) for frame in model.stream(tmp_path / "clip.mp4")] == [0, 0.04, 0.08, 0.12]


def test_what_segment_writes_can_be_evaluated(clip: Clip, model: Segmenter, tmp_path: Path) -> None:
    frames = []
    for index, (rgb, mask) in enumerate(zip(clip.rgb, clip.mask, strict=True)):
        image, truth = tmp_path / "clip" / f"{index:05d}.png", tmp_path / "truth" / f"{index:05d}.png"
        write_image(image, rgb)
        write_image(truth, (mask > 0).astype(np.uint8) * 255)
        frames.append(Frame(image.stem, image, truth))
    metrics = maskvos.segment(tmp_path / "clip", tmp_path / "out", model=model, kinds=["masks"], progress=False)
    assert metrics["predict/frames"] == 4
    (tmp_path / "out" / "clip" / "masks").rename(tmp_path / "masks_of_clip")
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks_of_clip").rename(tmp_path / "masks" / "clip")
    summary = maskvos.evaluate(tmp_path / "masks", [Video("clip", tuple(frames))])
    # First and last frame are left out under the protocol of DAVIS-2016.
    assert summary.counts["frames"] == 2
    assert 0 <= summary.overall["jf"] <= 1


def test_results_of_other_weights_or_thresholds_are_not_mixed(clip: Clip, tmp_path: Path) -> None:
    write_image(tmp_path / "clip" / "0.png", clip.rgb[0])
    options = {"kinds": "masks", "progress": False}
    assert maskvos.segment(tmp_path / "clip", tmp_path / "out", **options)["predict/frames"] == 1
    assert maskvos.segment(tmp_path / "clip", tmp_path / "out", **options)["predict/skipped"] == 1
    other = maskvos.load(threshold=0.05)
    with pytest.raises(UserError, match=r"with threshold=0\.5, which is 0\.05 now"):
        maskvos.segment(tmp_path / "clip", tmp_path / "out", model=other, **options)
    other = maskvos.load()
    other.settings["weights"] = "others"
    assert maskvos.load().settings["weights"] != "others"
    with pytest.raises(UserError, match="with weights="):
        maskvos.segment(tmp_path / "clip", tmp_path / "out", model=other, **options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"weights": "best"}, "weights=best: neither a file nor the name of bundled weights"),
        ({"weights": "lihgt"}, "did you mean 'light'"),
        ({"weights": "nowhere.ckpt"}, r"no file 'nowhere\.ckpt'"),
        ({"device": "gpu7x"}, "device=gpu7x: unknown; did you mean 'gpu'"),
        ({"device": "gpu7x", "backend": "onnx"}, "device=gpu7x"),
        ({"precision": "bf15"}, "'bf16'"),
        ({"backend": "onxx"}, "'onnx'"),
        ({"threshold": 2}, "threshold=2"),
        ({"backend": "pt2"}, r"backend=pt2: .*light\.safetensors is a checkpoint; export it first"),
    ],
)
def test_mistakes_are_named(options: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        maskvos.load(**{"device": "cpu", **options})


def test_the_examples_of_the_docstrings_run(clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with VideoWriter("my_clip.mp4", 25) as movie:
        for frame in clip.rgb:
            movie.write(frame)
    for document in (maskvos.__doc__, maskvos.load.__doc__, maskvos.segment.__doc__):
        lines = re.findall(r"^ *(?:>>>|\.\.\.) ?(.*)$", document or "", flags=re.M)
        assert lines
        exec("\n".join(lines), {"maskvos": maskvos, "frames": clip.rgb})
    assert len(list((tmp_path / "out" / "my_clip" / "cutout").glob("*.png"))) == 4


@pytest.mark.slow
def test_types_are_checked_from_outside(tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text(
        textwrap.dedent("""
        import numpy as np
        import maskvos

        model: maskvos.Segmenter = maskvos.load("light", device="cpu")
        for frame in model.stream("clip.mp4"):
            mask: np.ndarray = frame.mask
            time: float = frame.time
        scores: dict[str, float] = maskvos.segment("clip.mp4", "out", kinds=["masks"])
        """)
    )
    (tmp_path / "wrong.py").write_text("import maskvos\nx: int = maskvos.load(device=3)\n")
    check = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--follow-imports=silent",
        "--cache-dir",
        str(tmp_path / "cache"),
    ]
    good, bad = (
        subprocess.run([*check, name], cwd=tmp_path, capture_output=True, text=True, check=False)
        for name in ("user.py", "wrong.py")
    )
    assert good.returncode == 0, good.stdout + good.stderr
    assert bad.stdout.count("error:") == 2, bad.stdout


def test_a_name_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="dataset=davis: expected the videos"):
        maskvos.evaluate(tmp_path, "davis")  # type: ignore[arg-type]
