"""The leaderboard: masks in any container are scored alike, what is wrong is named, equal input gives equal pages."""

from __future__ import annotations

import dataclasses
import importlib
import io
import shutil
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import fakes
from fakes import DAVIS_SPLITS, mask, write_davis, write_mask
from maskvos.build import build
from maskvos.cli.compose import compose
from maskvos.errors import UserError
from maskvos.metrics.reading import read_truth
from maskvos.metrics.stability import temporal_stability

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
METHOD = {
    "name": "Shifted",
    "year": 2018,
    "paper": "A | B",
    "published": {"j": 0.7, "f": 0.6, "t": 0.25},
    "published_in": "a paper",
    "where": "the authors",
    "sequences": "all",
    "first_frame_mask": False,
    "licence": "free",
    "masks": "shifted",
}


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module."""
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module("leaderboard")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with DAVIS (4 frames per sequence) and ``masks/shifted``, whose masks are one pixel too far right."""
    write_davis(tmp_path / "DAVIS", frames=4)
    for sequence in DAVIS_SPLITS["val"]:
        for index in range(4):
            write_mask(tmp_path / "masks/shifted" / sequence / f"{index:05d}.png", mask(index + 1))
    return tmp_path


def page(board: ModuleType, place: Path, **changes: Any) -> str:
    """The page of one method with changed keys; a key of value `...` is left out."""
    keys = {key: value for key, value in {**METHOD, **changes}.items() if value is not ...}
    (place / "method.yaml").write_text(yaml.safe_dump(keys))
    return board.run([place / "method.yaml"], place / "DAVIS", place / "masks")


def row(text: str, name: str) -> list[str]:
    """The cells of the first table row that starts with a name."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def test_scores_are_those_of_the_overlap(board: ModuleType, place: Path) -> None:
    text = page(board, place)
    cells = row(text, "Shifted")
    # Of a rectangle 20 pixels wide, shifted by one, 19 of 21 columns overlap; two frames of each sequence count.
    assert cells[:7] == ["Shifted", "2018", "no", "0.700", "0.600", "0.250", f"{19 / 21:.3f}"]
    assert cells[9] == f"{float(cells[8]) - 0.65:+.3f}"
    assert cells[10:] == ["0.000", "4", "2 of 20 sequences"]  # a moving rectangle keeps its shape
    assert row(text, "cows") == ["cows", cells[8]]
    assert "A \\| B" in text


def test_stability_is_that_of_successive_masks_without_unstable_sequences(
    board: ModuleType, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corner = mask(3)
    rows, columns = (int(places.mean()) for places in np.nonzero(corner))
    corner[rows:, columns:] = 0
    for sequence in DAVIS_SPLITS["val"]:
        write_mask(place / "masks/shifted" / sequence / "00002.png", corner)
    expected = temporal_stability(mask(2) > 0, corner > 0)  # of the second frame and the third, which count
    assert expected > 0
    assert row(page(board, place), "Shifted")[10] == f"{expected:.3f}"
    assert board.BENCHMARKS["davis"].protocol.unstable == build(compose(["protocol=davis2016"]).protocol).unstable
    only = dataclasses.replace(board.BENCHMARKS["davis"].protocol, unstable=DAVIS_SPLITS["val"])
    monkeypatch.setitem(board.BENCHMARKS, "davis", board.BENCHMARKS["davis"]._replace(protocol=only))
    assert row(page(board, place), "Shifted")[10] == ""


def test_equal_input_gives_an_equal_page_without_paths(board: ModuleType, place: Path) -> None:
    text = page(board, place)
    assert page(board, place) == text
    assert str(place) not in text


def _zip(folder: Path, path: Path) -> None:
    with zipfile.ZipFile(path, "w") as packed:
        for file in sorted(folder.rglob("*.png")):
            inner = file.relative_to(folder).as_posix()
            packed.write(file, f"results/480p/{inner}")
            packed.writestr(f"__MACOSX/results/480p/{inner}", b"shadow")


def _tar(folder: Path, path: Path) -> None:
    with tarfile.open(path, "w:gz") as tape:
        tape.add(folder, "./results/480p")


@pytest.mark.parametrize("pack", [_zip, _tar])
def test_archives_with_nested_folders_are_scored_as_the_folder_is(board: ModuleType, place: Path, pack: Any) -> None:
    expected = page(board, place)
    pack(place / "masks/shifted", place / "masks/packed")
    shutil.rmtree(place / "masks/shifted")
    assert page(board, place, masks="packed") == expected


def test_soft_maps_are_thresholded_and_announced(board: ModuleType, place: Path) -> None:
    expected = row(page(board, place), "Shifted")
    for file in (place / "masks/shifted").rglob("*.png"):
        Image.fromarray(np.where(np.asarray(Image.open(file)) > 0, 130, 120).astype(np.uint8)).save(file)
    cells = row(page(board, place), "Shifted")
    assert cells[:12] == expected[:12]
    assert "soft maps" in cells[12]


def test_missing_first_and_last_frames_are_announced(
    board: ModuleType, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = row(page(board, place), "Shifted")
    (place / "masks/shifted/cows/00000.png").unlink()
    for file in (place / "masks/shifted").rglob("00003.png"):
        file.unlink()
    cells = row(page(board, place), "Shifted")
    assert cells[:12] == expected[:12]
    assert "first frame missing in 1 sequences" in cells[12]
    assert "last frame missing in 2 sequences" in cells[12]
    assert "first frame missing" in capsys.readouterr().out


def test_other_missing_frames_and_sequences_are_refused(board: ModuleType, place: Path) -> None:
    (place / "masks/shifted/cows/00001.png").unlink()
    with pytest.raises(UserError, match=r"method\.yaml: .*\n.*1 missing: cows/00001"):
        page(board, place)
    shutil.rmtree(place / "masks/shifted/cows")
    with pytest.raises(UserError, match="missing: cows"):
        page(board, place)
    text = page(board, place, sequences=["blackswan"])
    assert "1 of 20 sequences" in row(text, "Shifted")[12]
    assert "| cows |" not in text


def test_further_sequences_of_the_masks_are_left_out(board: ModuleType, place: Path) -> None:
    expected = page(board, place)
    shutil.copytree(place / "masks/shifted/cows", place / "masks/shifted/breakdance")
    assert page(board, place) == expected


def test_methods_are_ordered_by_score(board: ModuleType, place: Path) -> None:
    shutil.copytree(place / "DAVIS/Annotations/480p", place / "masks/truth")
    folder = place / "methods"
    folder.mkdir()
    exact = {"name": "Exact", "published": None, "first_frame_mask": True, "masks": "truth", "sequences": ["cows"]}
    (folder / "a.yaml").write_text(yaml.safe_dump(METHOD))
    (folder / "b.yaml").write_text(yaml.safe_dump({**METHOD, **exact}))
    text = board.run([folder], place / "DAVIS", place / "masks")
    assert row(text, "sequence") == ["sequence", "Exact", "Shifted"]
    assert row(text, "Exact")[2:10] == ["yes", "", "", "", "1.000", "1.000", "1.000", ""]
    assert row(text, "blackswan")[1] == ""


@pytest.mark.parametrize(
    ("dataset", "write"),
    [
        ("fbms", fakes.write_fbms),
        ("youtube_objects", fakes.write_youtube_objects),
        ("long_videos", fakes.write_long_videos),
        ("davis2017_unsupervised", lambda root: write_davis(root, 2017)),
    ],
)
def test_other_datasets_have_their_own_protocols(board: ModuleType, tmp_path: Path, dataset: str, write: Any) -> None:
    write(tmp_path / "data")
    if dataset == "davis2017_unsupervised":
        (tmp_path / "data/Annotations").rename(tmp_path / "data/Annotations_unsupervised")
    benchmark = board.BENCHMARKS[dataset]
    videos = benchmark.videos(tmp_path / "data")
    for video in videos:
        for frame in video.frames:
            if frame.mask is not None:  # the truth, object ids where these count
                truth = read_truth(frame.mask, video.masks)
                write_mask(tmp_path / "masks/exact" / video.name / f"{frame.name}.png", truth, palette=True)
    (tmp_path / "method.yaml").write_text(yaml.safe_dump({**METHOD, "name": "Exact", "masks": "exact"}))
    text = board.run([tmp_path / "method.yaml"], tmp_path / "data", tmp_path / "masks", dataset)
    assert row(text, "Exact")[5:9] == ["1.000", "1.000", "1.000", "+0.350"]
    rows = [video.name for video in videos]
    if benchmark.protocol.objects == "match":
        rows = [f"{name}_{number}" for name in rows for number in (1, 2)]
    assert all(row(text, name) == [name, "1.000"] for name in rows)
    assert benchmark.title in text
    assert "temporal stability" not in text  # which is defined for DAVIS-2016 only
    assert f"--dataset {dataset}" in text


@pytest.mark.parametrize("name", ["../evil.png", "/evil.png", "a/../../evil.png", "..\\evil.png", "C:\\evil.png"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_archives_that_lead_outside_are_refused(board: ModuleType, place: Path, kind: str, name: str) -> None:
    path = place / "masks/hostile"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as packed:
            packed.writestr(name, b"x")
    else:
        with tarfile.open(path, "w") as tape:
            tape.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(UserError, match="leads outside"):
        page(board, place, masks="hostile")


def test_links_in_archives_that_lead_outside_are_refused(board: ModuleType, place: Path) -> None:
    with tarfile.open(place / "masks/hostile", "w") as tape:
        link = tarfile.TarInfo("cows")
        link.type, link.linkname = tarfile.SYMTYPE, "../../DAVIS/Annotations/480p/cows"
        tape.addfile(link)
    with pytest.raises(UserError, match="cannot be extracted"):
        page(board, place, masks="hostile")


def test_damaged_and_other_files_are_refused(board: ModuleType, place: Path) -> None:
    (place / "masks/other").write_bytes(b"not an archive")
    with pytest.raises(UserError, match="neither zip nor tar"):
        page(board, place, masks="other")
    _tar(place / "masks/shifted", place / "masks/cut")
    data = (place / "masks/cut").read_bytes()
    (place / "masks/cut").write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(UserError, match="cannot be extracted"):
        page(board, place, masks="cut")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"licence": ..., "license": "free"}, "unknown key 'license'; did you mean 'licence'"),
        ({"where": ..., "year": ...}, "missing keys: year, where"),
        ({"year": "2018"}, "year='2018' must be int"),
        ({"first_frame_mask": "no"}, "first_frame_mask='no' must be bool"),
        ({"published": {"j": 77.2, "f": 74.5}}, "from 0 to 1"),
        ({"published": {"j": 0.7, "t": 0.2}}, "null or {j: 0.772"),
        ({"published": {"j": 0.7, "f": 0.6, "d": 0.2}}, "null or {j: 0.772"),
        ({"sequences": "cows"}, r"write \[cows\]"),
        ({"sequences": ["cow"]}, "no 'cow' .*; did you mean 'cows'"),
        ({"masks": "shiftet"}, "no folder or archive of masks; did you mean 'shifted'"),
    ],
)
def test_wrong_yamls_are_answered_with_the_remedy(
    board: ModuleType, place: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        page(board, place, **changes)
    assert "method.yaml: " in str(caught.value)


def test_the_methods_of_this_project_are_complete(board: ModuleType) -> None:
    folder = SCRIPTS.parent / "docs/leaderboard"
    names = [board.read_method(path).name for path in sorted(folder.glob("*.yaml"))]
    text = (folder.parent / "leaderboard.md").read_text()
    assert len(names) >= 4
    assert all(f"| {name} |" in text for name in names)
