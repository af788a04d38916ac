"""The weights that come with the package."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from maskvos import bundled
from maskvos.errors import UserError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of bundled weights with one file, ``light``."""
    monkeypatch.setattr(bundled, "FOLDER", tmp_path)
    bundled.write(tmp_path / "light.safetensors", {"a": torch.rand(3)}, {"version": "1", "scores": {"j": 0.5}})
    return tmp_path


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["task=predict", "input=a.mp4"], ["+experiment=light", "ckpt_path=light", "task=predict", "input=a.mp4"]),
        (["-m", "task=predict"], ["-m", "+experiment=light", "ckpt_path=light", "task=predict"]),
        (["task=test", "ckpt_path=light"], ["+experiment=light", "task=test", "ckpt_path=light"]),
        (["+experiment=light", "ckpt_path=light"], None),
        (["task=predict", "ckpt_path=runs/best.ckpt"], None),
        (["task=predict", "+experiment=swin_t"], None),
        (["task=predict", "backend=onnx"], None),
        (["task=test"], None),
        ([], None),
    ],
)
def test_what_is_meant_where_no_checkpoint_is_named(folder: Path, typed: list[str], meant: list[str] | None) -> None:
    assert bundled.complete(typed) == (typed if meant is None else meant)
    assert bundled.complete(bundled.complete(typed)) == bundled.complete(typed)


def test_a_file_of_the_users_own_goes_before_a_name(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bundled.find("light") == folder / "light.safetensors"
    assert bundled.find("heavy") is None
    monkeypatch.chdir(tmp_path)
    (tmp_path / "light").mkdir()
    assert bundled.find("light") is None


def test_weights_are_written_in_half_precision_with_their_making(tmp_path: Path) -> None:
    weight, count = torch.randn(4, 5), torch.tensor(70_000)
    bundled.write(tmp_path / "x.safetensors", {"weight": weight.T, "count": count}, {"command": "make it"})
    read = load_file(tmp_path / "x.safetensors")
    torch.testing.assert_close(read["weight"].float(), weight.T, atol=1e-3, rtol=1e-3)
    assert read["weight"].dtype == torch.float16
    assert read["count"] == count


def test_the_making_can_be_asked_for(folder: Path) -> None:
    assert bundled.about("light") == {"version": "1", "scores": '{"j": 0.5}'}
    with pytest.raises(UserError, match="no weights 'heavy' come with the package; there are: light"):
        bundled.about("heavy")


def test_weights_beyond_half_precision_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="weight has values beyond half precision"):
        bundled.write(tmp_path / "x.safetensors", {"weight": torch.tensor([1e6])}, {})
    assert not list(tmp_path.iterdir())
