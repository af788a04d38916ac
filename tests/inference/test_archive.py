"""Archives: shares for several processes, and the table of all videos."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskvos.environment import parse_shard
from maskvos.errors import UserError
from maskvos.inference.archive import share, write_table
from maskvos.types import Video


def movies(folder: Path, sizes: dict[str, int]) -> list[Video]:
    folder.mkdir(parents=True, exist_ok=True)
    for name, size in sizes.items():
        (folder / name).write_bytes(b"\0" * size)
    return [Video(name, file=folder / name) for name in sizes]


@given(sizes=st.lists(st.integers(0, 300), max_size=12), count=st.integers(1, 5))
def test_shares_have_every_video_once_and_are_of_similar_size(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], count: int
) -> None:
    videos = movies(tmp_path_factory.mktemp("a"), {f"v{index}": size for index, size in enumerate(sizes)})
    shares = [share(videos, index, count) for index in range(count)]
    assert sorted(video.name for part in shares for video in part) == sorted(video.name for video in videos)
    loads = [sum(max(sizes[int(video.name[1:])], 1) for video in part) for part in shares]
    assert max(loads) - min(loads) <= max([*sizes, 1])
    assert shares == [share(videos[::-1], index, count)[::-1] for index in range(count)]  # whatever the order


def test_shards_are_named_from_one() -> None:
    assert parse_shard(None) == (0, 1)
    assert parse_shard("3/16") == (2, 16)
    for wrong in ("0/4", "5/4", "3", "a/b", "1/0"):
        with pytest.raises(UserError, match=f"shard={wrong}"):
            parse_shard(wrong)


def table(folder: Path, manifests: dict[str, dict | None]) -> list[dict[str, str]]:
    for name, manifest in manifests.items():
        if manifest is not None:
            (folder / name).mkdir(parents=True)
            (folder / name / "manifest.json").write_text(json.dumps(manifest))
    write_table(folder, [Video(name, file=Path(name)) for name in manifests])
    with (folder / "videos.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_doubtful_videos_come_first(tmp_path: Path) -> None:
    fine = {"complete": True, "frames": 10, "seconds": 0.4, "foreground": 0.1, "damaged": 0}
    rows = table(
        tmp_path,
        {
            "sure": {**fine, "confidence": 0.9},
            "unsure": {**fine, "confidence": 0.4},
            "short": {**fine, "complete": False, "expected": 20, "confidence": 0.8},
            "damaged": {**fine, "damaged": 3, "confidence": 0.7},
            "bad": {"complete": False, "frames": 0, "error": "no frame of the video can be decoded"},
            "elsewhere": None,
        },
    )
    assert [row["video"] for row in rows] == ["bad", "elsewhere", "damaged", "short", "unsure", "sure"]
    assert [row["problem"] for row in rows] == [
        "no frame of the video can be decoded",
        "not complete",
        "3 frames have errors",
        "ends after 10 of about 20 frames",
        "",
        "",
    ]
    assert rows[-1] == {
        "video": "sure",
        "frames": "10",
        "seconds": "0.4",
        "foreground": "0.1",
        "confidence": "0.9",
        "problem": "",
    }


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@a", "\tb"])
def test_no_cell_is_a_formula(tmp_path: Path, name: str) -> None:
    rows = table(tmp_path, {name: {"complete": False, "frames": 0, "error": f"{name} cannot be read"}})
    assert [(row["video"], row["problem"]) for row in rows] == [(f"'{name}", f"'{name} cannot be read")]
