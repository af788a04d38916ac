"""Evaluation of saved masks."""

from __future__ import annotations

import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

import fakes
from maskvos.data.dataset import read_mask
from maskvos.errors import UserError
from maskvos.metrics import Protocol, evaluate_folder
from maskvos.metrics.reading import image_size, read_prediction, read_truth
from maskvos.types import Frame, MaskRule, Video

SIZE = (40, 60)
PALETTE = [0, 0, 0, 128, 0, 0, 0, 128, 0] + [64] * 759


def palette_image(ids):
    image = Image.frombytes("P", (ids.shape[1], ids.shape[0]), np.ascontiguousarray(ids, np.uint8).tobytes())
    image.putpalette(PALETTE)
    return image


@pytest.fixture
def dataset(tmp_path):
    """Two sequences of five and four frames with one or two objects in palette masks."""
    rng = np.random.default_rng(0)
    videos = []
    for name, count in (("bear", 5), ("train", 4)):
        frames = []
        for index in range(count):
            ids = np.zeros(SIZE, np.uint8)
            top, left = rng.integers(0, 15, 2)
            ids[top : top + 15, left : left + 20] = 1
            ids[30:36, 40:50] = 2 * (name == "train")
            mask = tmp_path / "data" / name / f"{index:05}.png"
            mask.parent.mkdir(parents=True, exist_ok=True)
            palette_image(ids).save(mask)
            frames.append(Frame(f"{index:05}", mask, mask))
        videos.append(Video(name, tuple(frames)))
    return videos


@pytest.fixture
def truth(dataset):
    return {(v.name, f.name): read_truth(f.mask, MaskRule()) > 0 for v in dataset for f in v.frames}


def save(root, masks, image=lambda mask: Image.fromarray(mask.astype(np.uint8) * 255)):
    for (video, frame), mask in masks.items():
        path = root / video / f"{frame}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image(mask).save(path)
    return root


def shifted(masks):
    return {key: np.roll(mask, 2, axis=1) for key, mask in masks.items()}


def quiet(*args, **kwargs):
    return evaluate_folder(*args, **{"workers": 1, "progress": False, **kwargs})


@pytest.mark.parametrize("inner", ["", "480p", "my_method/480p", "my_method/Annotations/480p"])
def test_finds_common_folder_layouts(tmp_path, dataset, truth, inner):
    save(tmp_path / "out" / inner, shifted(truth))
    summary = quiet(tmp_path / "out", dataset)
    assert summary.counts["frames"] == 5
    assert summary.counts["left_out"] == {"first frame": 2, "last frame": 2}
    assert 0 < summary.overall["j"] < 1


def test_finds_masks_in_subfolders_and_a_single_sequence(tmp_path, dataset, truth):
    expected = quiet(save(tmp_path / "plain", shifted(truth)), dataset)
    for video in dataset:
        shutil.copytree(tmp_path / "plain" / video.name, tmp_path / "deep" / video.name / "masks")
    assert quiet(tmp_path / "deep", dataset).overall == expected.overall
    # With both masks and soft maps, saliency metrics use the soft maps.
    for video in dataset:
        (tmp_path / "deep" / video.name / "soft").mkdir()
        for frame in video.frames:
            grey = Image.fromarray(np.full(SIZE, 51, np.uint8))
            grey.save(tmp_path / "deep" / video.name / "soft" / f"{frame.name}.png")
    assert quiet(tmp_path / "deep", dataset).overall == expected.overall
    background = [1 - truth[v.name, f.name].mean() for v in dataset[:1] for f in v.frames]
    saliency = quiet(tmp_path / "deep", dataset, Protocol("vsod", ("mae",)))
    assert saliency.sequences[0].values["mae"] == pytest.approx(np.mean([0.2 * b + 0.8 * (1 - b) for b in background]))
    one = quiet(tmp_path / "plain" / "bear", dataset[:1])
    assert one.overall == expected.sequences[0].values


@pytest.mark.parametrize(
    "image",
    [
        lambda mask: Image.fromarray(mask),
        lambda mask: Image.fromarray(mask.astype(np.uint8) * 255),
        lambda mask: Image.fromarray(mask.astype(np.uint16) * 65535),
        lambda mask: Image.fromarray(np.stack([mask.astype(np.uint8) * 255] * 3, axis=2)),
        lambda mask: Image.fromarray(mask.astype(np.uint8) * 255).convert("LA"),
        lambda mask: palette_image(mask * 2),
        lambda mask: Image.fromarray(np.stack([mask * np.uint8(9), mask * np.uint8(0), mask * np.uint8(0)], axis=2)),
    ],
    ids=["one bit", "grey", "16 bit", "rgb", "alpha", "palette", "colours"],
)
def test_png_types_are_equivalent(tmp_path, dataset, truth, image):
    masks = shifted(truth)
    expected = quiet(save(tmp_path / "grey", masks), dataset)
    summary = quiet(save(tmp_path / "out", masks, image), dataset)
    assert summary.overall == expected.overall
    assert [row.values for row in summary.frames] == [row.values for row in expected.frames]


def test_threshold_applies_to_soft_maps_and_not_to_labels(tmp_path, dataset, truth):
    save(tmp_path / "soft", truth, lambda mask: Image.fromarray(np.where(mask, 128, 100).astype(np.uint8)))
    scores = {
        threshold: quiet(tmp_path / "soft", dataset, Protocol("p", threshold=threshold)).overall["j"]
        for threshold in ("above_0", "above_127", "above_128")
    }
    assert scores["above_127"] == 1
    assert scores["above_128"] == 0
    assert 0 < scores["above_0"] < 1
    save(tmp_path / "labels", truth, palette_image)
    assert quiet(tmp_path / "labels", dataset, Protocol("p", threshold="above_128")).overall["j"] == 1


def test_greyscale_labels_are_not_read_as_dark_soft_maps(tmp_path, dataset, truth):
    save(tmp_path / "out", truth, lambda mask: Image.fromarray(mask.astype(np.uint8)))
    with pytest.raises(UserError, match=r"no grey value is above 1.*threshold=above_0"):
        quiet(tmp_path / "out", dataset)
    assert quiet(tmp_path / "out", dataset, Protocol("p", threshold="above_0")).overall["j"] == 1
    # Predictions without any foreground are valid.
    save(tmp_path / "empty", {key: mask & False for key, mask in truth.items()})
    assert quiet(tmp_path / "empty", dataset).overall["j"] == 0


def test_other_sizes_are_resized_with_a_note(tmp_path, dataset, truth):
    def doubled(mask):
        return Image.fromarray(np.kron(mask, np.ones((2, 2), bool)))

    save(tmp_path / "out", truth, doubled)
    summary = quiet(tmp_path / "out", dataset)
    assert summary.overall["jf"] == 1
    assert "5 frames: prediction of 120x80 resized to the truth's 60x40 (nearest pixel)" in summary.table()


def test_missing_frames_fail_or_are_handled_as_configured(tmp_path, dataset, truth):
    masks = {key: mask for key, mask in truth.items() if key not in (("bear", "00002"), ("train", "00000"))}
    out = save(tmp_path / "out", masks)
    # The first frame of 'train' is trimmed, so it may be missing.
    with pytest.raises(UserError, match=r"1 missing: bear/00002\n.*missing=zero") as caught:
        quiet(out, dataset)
    assert "train" not in str(caught.value).replace(str(tmp_path), "")
    zero = quiet(out, dataset, missing="zero")
    assert zero.sequences[0].values["j"] == pytest.approx(2 / 3)
    assert "1 frames: no prediction: scored as an empty mask" in zero.table()
    skip = quiet(out, dataset, missing="skip")
    assert skip.sequences[0].values["j"] == 1
    assert skip.sequences[0].frames == 2
    assert "1 not scored" in skip.table()
    assert "1 missing: bear/00002 (missing=skip)" in skip.table()
    with pytest.raises(UserError, match=r"missing=zeros: .*did you mean 'zero'"):
        quiet(out, dataset, missing="zeros")


def test_a_missing_sequence_is_reported_once(tmp_path, dataset, truth):
    out = save(tmp_path / "out", {key: mask for key, mask in truth.items() if key[0] == "train"})
    with pytest.raises(UserError, match=r"1 missing: bear \(all 3 frames\)"):
        quiet(out, dataset)
    assert quiet(out, dataset, missing="zero").overall["j"] == 0.5
    skip = quiet(out, dataset, missing="skip")
    assert skip.overall["j"] == 1
    assert "no frame counted, so not in the mean: bear" in skip.table()


def test_misnamed_and_extra_files_are_listed(tmp_path, dataset, truth):
    out = save(tmp_path / "out", truth)
    (out / "bear/00001.png").rename(out / "bear/frame_1.png")
    save(out, {("cow", "00000"): truth["bear", "00000"]})
    with pytest.raises(UserError) as caught:
        quiet(out, dataset)
    message = str(caught.value)
    assert "1 missing: bear/00001 (is it 'frame_1'?)" in message
    assert "2 extra: bear/frame_1.png, cow/" in message
    summary = quiet(out, dataset, missing="skip")
    assert "2 extra: bear/frame_1.png, cow/ (missing=skip)" in summary.table()


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "flipped"])
def test_unreadable_files_are_listed(tmp_path, dataset, truth, damage):
    out = save(
        tmp_path / "out",
        truth,
        lambda mask: Image.fromarray(mask * np.random.default_rng(1).integers(128, 256, SIZE, dtype=np.uint8)),
    )
    path = out / "bear/00002.png"
    data = path.read_bytes()
    middle = len(data) // 2
    path.write_bytes(
        {
            "cut": data[:middle],
            "text": b"no image",
            "empty": b"",
            "flipped": data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :],
        }[damage]
    )
    with pytest.raises(UserError, match=r"1 unreadable: .*bear.00002\.png"):
        quiet(out, dataset)
    assert quiet(out, dataset, missing="zero").sequences[0].values["j"] == pytest.approx(2 / 3)
    assert quiet(out, dataset, missing="skip").sequences[0].values["j"] == 1


def test_wrong_folders_are_rejected(tmp_path, dataset, truth):
    with pytest.raises(UserError, match="folder not found"):
        quiet(tmp_path / "nowhere", dataset)
    (tmp_path / "other" / "horse").mkdir(parents=True)
    with pytest.raises(UserError, match=r"none of the 2 sequences.*e.g. 'bear'.*found: horse"):
        quiet(tmp_path / "other", dataset)
    save(tmp_path / "two/a", truth)
    save(tmp_path / "two/b", truth)
    with pytest.raises(UserError, match="several folders contain sequences"):
        quiet(tmp_path / "two", dataset)
    with pytest.raises(UserError, match="no ground truth"):
        quiet(tmp_path / "two/a", [Video("bear", (Frame("0", tmp_path),))])
    with pytest.raises(UserError, match="workers=0"):
        quiet(tmp_path / "two/a", dataset, workers=0)


def test_workers_do_not_change_the_results_and_files_are_written(tmp_path, dataset, truth):
    save(tmp_path / "out", shifted(truth))
    one = quiet(tmp_path / "out", dataset)
    two = evaluate_folder(str(tmp_path / "out"), dataset, workers=2, output=tmp_path / "scores")
    assert two == one
    assert sorted(path.name for path in (tmp_path / "scores").iterdir()) == [
        "frames.csv",
        "sequences.csv",
        "summary.json",
    ]


def test_objects_are_matched_by_id(tmp_path, dataset):
    swapped = {}
    for video in dataset:
        for frame in video.frames:
            swapped[video.name, frame.name] = np.choose(read_truth(frame.mask, MaskRule()), [0, 2, 1])
    protocol = Protocol("davis2017_unsupervised", objects="match")
    for image in (palette_image, lambda ids: Image.fromarray(ids.astype(np.uint8))):
        summary = quiet(save(tmp_path / "ids", swapped, image), dataset, protocol)
        assert summary.overall["jf"] == 1
        assert [row.name for row in summary.sequences] == ["bear_1", "train_1", "train_2"]
        assert summary.counts["frames"] == 9
    save(tmp_path / "grey", {key: ids > 0 for key, ids in swapped.items()})
    with pytest.raises(UserError, match=r"bear/00000: object id 255.*palette"):
        quiet(tmp_path / "grey", dataset, protocol)


def test_ground_truth_follows_the_mask_rule_of_the_dataset(tmp_path):
    mask, image = tmp_path / "m.png", tmp_path / "i.png"
    soft = np.zeros((20, 30), np.uint8)
    soft[:10], soft[10:15] = 200, 100
    cv2.imwrite(str(mask), soft)
    cv2.imwrite(str(image), np.zeros((40, 60, 3), np.uint8))
    video = Video("v", (Frame("0", image, mask),), masks=MaskRule(above=127, any_size=True))
    out = save(tmp_path / "out", {("v", "0"): np.arange(40)[:, None].repeat(60, axis=1) < 20})
    assert quiet(out, [video], Protocol("p")).overall["jf"] == 1


@pytest.mark.parametrize("rule", [MaskRule(), MaskRule(above=127), MaskRule(background=(0, 65536 * 255)), MaskRule(2)])
@pytest.mark.parametrize("mode", ["L", "P", "P grey", "RGB", "RGBA", "I;16", "ppm", "jpg"])
def test_ground_truth_is_read_as_in_training(tmp_path, rule, mode):
    values = np.random.default_rng(0).choice(np.array([0, 1, 2, 3, 127, 128, 255], np.uint8), SIZE)
    colours = np.stack([values, np.zeros_like(values), np.flipud(values) // 128], axis=2)
    path = tmp_path / f"mask.{mode if mode in ('ppm', 'jpg') else 'png'}"
    grey = Image.fromarray(values)
    image = {
        "L": lambda: grey,
        "P": lambda: palette_image(values),
        "P grey": lambda: grey.convert("P"),
        "RGBA": lambda: Image.fromarray(colours).convert("RGBA"),
        "I;16": lambda: Image.fromarray(values.astype(np.uint16)),
        "jpg": lambda: grey,
    }.get(mode, lambda: Image.fromarray(colours))()
    image.save(path)
    np.testing.assert_array_equal(read_truth(path, rule) != 0, read_mask(path, SIZE, rule) != 0)


@pytest.mark.parametrize("above", [0, 127])
def test_binary_ground_truth_is_object_1(tmp_path, truth, above):
    mask = truth["bear", "00000"]
    Image.fromarray(mask).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_truth(tmp_path / "mask.png", MaskRule(above)), mask)


def test_a_grey_ramp_palette_holds_levels(tmp_path):
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = Image.frombytes("P", (16, 16), levels.tobytes())
    image.putpalette([level for index in range(256) for level in (index,) * 3])
    image.save(tmp_path / "soft.png")
    prediction = read_prediction(tmp_path / "soft.png")
    assert prediction.kind == "levels"
    np.testing.assert_array_equal(prediction.values, levels)


def test_does_not_import_torch(tmp_path):
    code = "import sys; from maskvos.metrics import evaluate_folder, Protocol; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_duplicate_files_of_a_frame_are_reported(tmp_path, dataset, truth):
    save(tmp_path / "out", truth)
    for video in dataset:
        Image.new("L", SIZE[::-1]).save(tmp_path / "out" / video.name / "00002.jpg")
    with pytest.raises(UserError, match=r"2 extra: bear/00002\.jpg \(beside 00002\.png\), train/00002\.jpg"):
        quiet(tmp_path / "out", dataset)
    summary = quiet(tmp_path / "out", dataset, missing="skip")
    assert summary.overall["j"] == 1  # the PNG counts
    assert any("2 extra" in note for note in summary.notes)


@pytest.mark.parametrize("colours", [2, 4, 16, 17, 256])
@pytest.mark.parametrize("options", [{}, {"transparency": 0}, {"bits": 8}])
def test_palette_indices_equal_those_of_pillow(tmp_path, colours, options):
    rng = np.random.default_rng(colours)
    indices = rng.integers(0, colours, (37, 61), dtype=np.uint8)
    image = Image.frombytes("P", (61, 37), indices.tobytes())
    image.putpalette(rng.integers(0, 256, 3 * colours, dtype=np.uint8).tolist())
    image.save(tmp_path / "mask.png", **options)
    prediction = read_prediction(tmp_path / "mask.png")
    assert prediction.kind == "labels"
    np.testing.assert_array_equal(prediction.values, indices)


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_damaged_files_are_rejected(tmp_path, mode):
    noise = np.random.default_rng(0).integers(0, 2, (16, 16), dtype=np.uint8)
    image = {"1": Image.fromarray(noise > 0), "L": Image.fromarray(noise), "P": palette_image(noise)}[mode]
    image.save(tmp_path / "mask.png")
    data = (tmp_path / "mask.png").read_bytes()
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 1
        (tmp_path / "mask.png").write_bytes(damaged)
        with pytest.raises(UserError, match=r"mask\.png"):
            read_prediction(tmp_path / "mask.png")


@pytest.mark.parametrize("side", [12_000, 30_000, 60_000])
def test_files_that_would_fill_the_memory_are_rejected(tmp_path, side):
    (tmp_path / "mask.png").write_bytes(fakes.png(side, side))
    with pytest.raises(UserError, match=r"mask\.png.*resize it"):
        read_prediction(tmp_path / "mask.png")
    with pytest.raises(UserError, match=r"mask\.png.*resize it"):
        image_size(tmp_path / "mask.png")


@pytest.mark.parametrize("mode", ["1", "L", "P"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_files_are_rejected(tmp_path, mode, share):
    noise = np.random.default_rng(0).integers(0, 2, (80, 120), dtype=np.uint8)
    image = {"1": Image.fromarray(noise > 0), "L": Image.fromarray(noise), "P": palette_image(noise)}[mode]
    image.save(tmp_path / "mask.png")
    data = (tmp_path / "mask.png").read_bytes()
    (tmp_path / "mask.png").write_bytes(data[: int(share * len(data))])
    with pytest.raises(UserError, match=r"mask\.png is truncated"):
        read_prediction(tmp_path / "mask.png")
