"""The flow cache: never stale, atomic writes, concurrent processes."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import pickle
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset

from flow.conftest import Difference, numbered_frame, write_rgb
from maskvos.errors import UserError
from maskvos.flow.base import stream_flow
from maskvos.flow.codec import read_flow, write_flow
from maskvos.flow.colours import flow_to_rgb
from maskvos.flow.compute import compute_flows
from maskvos.flow.dis import DIS
from maskvos.flow.store import FlowStore
from maskvos.types import Frame, Video

MakeVideo = Callable[..., Video]


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("gap", [1, 2, 4])
def test_stream_equals_load(make_video: MakeVideo, tmp_path: Path, cached: bool, direction: str, gap: int) -> None:
    video = make_video(5)
    store = FlowStore(Difference(), tmp_path / "cache" if cached else None, direction, gap)
    frames = [numbered_frame(i) for i in range(5)]
    streamed = list(stream_flow(frames, Difference(), direction, gap))
    through_store = list(store.stream(video, frames))
    for index in range(5):
        loaded = store.load(video, index)
        np.testing.assert_array_equal(loaded, streamed[index][1]())
        np.testing.assert_array_equal(loaded, through_store[index][1]())


def test_last_frame_has_negated_backward_flow_and_a_single_frame_zero_flow(make_video: MakeVideo) -> None:
    video, store = make_video(3), FlowStore(Difference())
    assert store.load(video, 1)[0, 0].tolist() == [10, 102]
    assert store.load(video, 2)[0, 0].tolist() == [10, -101]
    assert (FlowStore(Difference()).load(make_video(1, "single"), 0) == 0).all()
    with pytest.raises(IndexError):
        store.load(video, 3)


def test_cached_flow_is_not_computed_again(make_video: MakeVideo, tmp_path: Path) -> None:
    video, estimator = make_video(4), Difference()
    store = FlowStore(estimator, tmp_path / "cache")
    first = [store.load(video, i) for i in range(4)]
    assert estimator.calls == 4
    again = FlowStore(Difference(), tmp_path / "cache")
    for i in range(4):
        np.testing.assert_array_equal(again.load(video, i), first[i])
    assert again.estimator.calls == 0  # type: ignore[union-attr]


@pytest.mark.parametrize(("format", "rounding"), [("flo", 0), ("png", 1 / 128 + 1e-6)])
def test_first_epoch_sees_the_cached_values(tmp_path: Path, texture: np.ndarray, format: str, rounding: float) -> None:
    shifted = np.roll(texture, (1, 2), (0, 1))
    frames = tuple(Frame(str(i), write_rgb(tmp_path / f"{i}.png", rgb)) for i, rgb in enumerate((texture, shifted)))
    store = FlowStore(DIS(), tmp_path / "cache", format=format)
    computed = store.load(Video("clip", frames), 0)
    np.testing.assert_array_equal(store.load(Video("clip", frames), 0), computed)
    error = np.abs(computed - FlowStore(DIS()).load(Video("clip", frames), 0)).max()
    assert rounding / 2 <= error <= rounding


def test_changed_settings_never_read_stale_flow(make_video: MakeVideo, tmp_path: Path) -> None:
    video, cache = make_video(6), tmp_path / "cache"
    FlowStore(Difference(), cache).load(video, 2)
    others = [
        FlowStore(Difference("other"), cache),
        FlowStore(Difference(max_size=7), cache),
        FlowStore(Difference(), cache, direction="backward"),
        FlowStore(Difference(), cache, gap=2),
    ]
    paths = {FlowStore(Difference(), cache).path(video, 2)}
    for store in others:
        store.load(video, 2)
        assert store.estimator.calls == 1  # type: ignore[union-attr]
        paths.add(store.path(video, 2))
    assert len(paths) == 5
    assert all(path.exists() for path in paths)


def test_replaced_image_never_reads_stale_flow(make_video: MakeVideo, tmp_path: Path) -> None:
    video, store = make_video(3), FlowStore(Difference(), tmp_path / "cache")
    assert store.load(video, 0)[0, 0, 0] == 10
    write_rgb(video.frames[1].image, numbered_frame(7))
    assert store.load(video, 0)[0, 0, 0] == 70
    # Uncompressed images all have the same file size.
    raw = [Frame(str(i), write_rgb(tmp_path / "raw" / f"{i}.ppm", numbered_frame(i, 90, 90))) for i in range(2)]
    assert store.load(Video("raw", tuple(raw)), 0)[0, 0, 0] == 10
    write_rgb(raw[1].image, numbered_frame(5, 90, 90))
    assert store.load(Video("raw", tuple(raw)), 0)[0, 0, 0] == 50


def test_appending_frames_recomputes_only_the_end(make_video: MakeVideo, tmp_path: Path) -> None:
    store = FlowStore(Difference(), tmp_path / "cache")
    compute_flows([make_video(4)], store, progress=False)
    summary = compute_flows([make_video(6)], store, progress=False)
    assert (summary.computed, summary.reused) == (3, 3)


def test_cache_and_dataset_can_be_moved(make_video: MakeVideo, tmp_path: Path) -> None:
    video, store = make_video(3), FlowStore(Difference(), tmp_path / "cache")
    compute_flows([video], store, progress=False)
    (tmp_path / "data").rename(tmp_path / "moved")
    (tmp_path / "cache").rename(tmp_path / "elsewhere")
    frames = tuple(Frame(f.name, tmp_path / "moved" / "clip" / f.image.name) for f in video.frames)
    moved = FlowStore(Difference(), tmp_path / "elsewhere")
    moved.load(Video("clip", frames, dataset="fake"), 1)
    assert moved.estimator.calls == 0  # type: ignore[union-attr]


def test_names_are_escaped_and_stay_distinct(make_video: MakeVideo, tmp_path: Path) -> None:
    images = make_video(2).frames
    store = FlowStore(Difference(), tmp_path / "cache")
    paths = set()
    for name in ("a/b", "a_b", "..", ".", "../../a", "c:d", "ü"):
        video = Video(name, images, dataset="set/one")
        store.load(video, 0)
        paths.add(store.path(video, 0))
        assert (tmp_path / "cache").resolve() in store.path(video, 0).resolve().parents
    assert len(paths) == 7
    assert all(path.exists() for path in paths)
    assert {path.name for path in tmp_path.iterdir()} == {"data", "cache"}


def test_cache_folder_describes_its_flow(make_video: MakeVideo, tmp_path: Path) -> None:
    store = FlowStore(DIS("fast", max_size=64), tmp_path / "cache", "backward", 3)
    store.load(make_video(5), 0)
    note = json.loads((store.folder() / "flow.json").read_text())
    assert note["estimator"] == {"name": "dis-fast", "preset": "fast", "max_size": 64}
    assert (note["direction"], note["gap"]) == ("backward", 3)
    assert note["fingerprint"] in str(store.folder())


def test_precomputed_flow_is_read_in_every_format(tmp_path: Path) -> None:
    flow = np.random.default_rng(0).normal(0, 3, (6, 8, 2)).astype(np.float32)
    longest = float(np.linalg.norm(flow, axis=-1).max())
    write_flow(tmp_path / "0.flo", flow)
    write_flow(tmp_path / "1.png", flow)
    write_rgb(tmp_path / "2.png", flow_to_rgb(flow))
    cv2.imwrite(str(tmp_path / "3.jpg"), np.full((6, 8, 3), 255, np.uint8))
    suffixes = (".flo", ".png", ".png", ".jpg")
    video = Video("v", tuple(Frame(str(i), Path("unused"), flow=tmp_path / f"{i}{s}") for i, s in enumerate(suffixes)))
    store = FlowStore(None, max_flow=longest)
    np.testing.assert_array_equal(store.load(video, 0), flow)
    np.testing.assert_allclose(store.load(video, 1), flow, atol=1 / 127)
    np.testing.assert_allclose(store.load(video, 2), flow, atol=0.05 * longest)
    assert (store.load(video, 3) == 0).all()
    streamed = list(store.stream(video, [np.zeros((6, 8, 3), np.uint8)] * 4))
    np.testing.assert_array_equal(streamed[0][1](), flow)


@pytest.mark.parametrize("format", ["flo", "png"])
@pytest.mark.parametrize("kept", [0, 5, 40, -1])
def test_damaged_files_of_the_cache_are_computed_again(
    make_video: MakeVideo, tmp_path: Path, format: str, kept: int
) -> None:
    video, store = make_video(3), FlowStore(Difference(), tmp_path / "cache", format=format)
    whole = store.load(video, 1)
    path = store.path(video, 1)
    data = path.read_bytes()
    assert store.is_cached(video, 1)
    path.write_bytes(data[:kept])
    assert not store.is_cached(video, 1)
    np.testing.assert_array_equal(store.load(video, 1), whole)
    assert path.read_bytes() == data
    path.unlink()
    assert not store.is_cached(video, 1)


def test_errors_name_corrupt_and_missing_images(make_video: MakeVideo, tmp_path: Path) -> None:
    video, store = make_video(3), FlowStore(Difference(), tmp_path / "cache")
    video.frames[1].image.write_bytes(b"not an image")
    with pytest.raises(UserError, match=r"00001\.png \(12 bytes\) is not an image"):
        store.load(video, 1)
    video.frames[1].image.write_bytes(b"")
    with pytest.raises(UserError, match=r"0 bytes"):
        store.load(video, 1)
    video.frames[1].image.unlink()
    for cache in (None, tmp_path / "cache"):
        with pytest.raises(UserError, match=r"00001\.png.* cannot be read"):
            FlowStore(Difference(), cache).load(video, 0)
    write_rgb(video.frames[1].image, numbered_frame(1, 6, 9))
    with pytest.raises(UserError, match=r"video 'clip', from frame '00000'.*8x6 and 9x6"):
        store.load(video, 0)


def test_misuse_is_rejected(make_video: MakeVideo, tmp_path: Path) -> None:
    movie = Video("m", file=tmp_path / "m.mp4")
    with pytest.raises(UserError, match="no precomputed flow"):
        FlowStore().load(make_video(2), 0)
    with pytest.raises(UserError, match="read as a stream"):
        FlowStore(Difference()).load(movie, 0)
    with pytest.raises(UserError, match=r"m\.mp4.*choose flow=dis"):
        list(FlowStore().stream(movie, [numbered_frame(0)]))
    with pytest.raises(UserError, match="one direction only"):
        FlowStore().load(make_video(2), 0, "backward")
    with pytest.raises(UserError, match="did you mean 'png'"):
        FlowStore(Difference(), format="pngs")
    with pytest.raises(UserError, match="not cached"):
        FlowStore(None, tmp_path)
    for store in (FlowStore(Difference()), FlowStore()):
        with pytest.raises(UserError, match=r"flow\.cache"):
            compute_flows([make_video(2)], store, progress=False)


def test_joining_shares_the_cache(make_video: MakeVideo, tmp_path: Path) -> None:
    video = make_video(4)
    store = FlowStore(Difference(), cache=tmp_path / "cache")
    other = store.joining("backward", 2)
    alone = FlowStore(Difference(), direction="backward", gap=2)
    for index in range(4):
        np.testing.assert_array_equal(other.load(video, index), alone.load(video, index))
    assert other.path(video, 0).exists()
    assert not store.path(video, 0).exists()
    with pytest.raises(UserError, match="precomputed flow has one direction and gap"):
        FlowStore().joining("backward")
    with pytest.raises(UserError, match="settings without an estimator"):
        FlowStore({"max_size": 448})  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"flow\.estimator=3: "):
        FlowStore(3)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="backwards"):
        store.joining("backwards")


def test_movie_is_streamed_without_caching(tmp_path: Path) -> None:
    frames = [numbered_frame(i) for i in range(4)]
    movie = Video("m", file=tmp_path / "m.mp4")
    streamed = list(FlowStore(Difference(), tmp_path / "cache").stream(movie, iter(frames)))
    assert [flow()[0, 0, 0] for _, flow in streamed] == [10, 10, 10, 10]
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_dataset_is_computed_once(make_video: MakeVideo, tmp_path: Path, workers: int) -> None:
    videos = [make_video(11, "a"), make_video(1, "b"), Video("m", file=tmp_path / "m.mp4")]
    store = FlowStore(Difference(), tmp_path / "cache", both_directions=True)
    summary = compute_flows(videos, store, workers=workers, progress=False)
    assert (summary.computed, summary.reused, summary.problems) == (22, 0, ())
    assert summary.movies == (str(tmp_path / "m.mp4"),)
    assert summary.rate > 0
    again = compute_flows(videos, store, workers=workers, progress=False)
    assert (again.computed, again.reused) == (0, 22)
    assert not list((tmp_path / "cache").rglob("b"))  # a single frame has zero flow and no file
    for direction, first in (("forward", 10), ("backward", -10)):
        assert store.load(videos[0], 3, direction)[0, 0, 0] == first
    if workers == 0:
        assert store.estimator.calls <= 22 + 6  # type: ignore[union-attr]  # a few to know the disk space


def test_shards_cover_the_dataset_once(make_video: MakeVideo, tmp_path: Path) -> None:
    videos = [make_video(20, "a"), make_video(9, "b"), make_video(3, "c")]
    store = FlowStore(Difference(), tmp_path / "cache")
    shards = [compute_flows(videos, store, shard=f"{k}/4", progress=False) for k in (1, 2, 3, 4)]
    assert sum(shard.computed for shard in shards) == 32
    assert all(shard.reused == 0 for shard in shards)
    for shard in ("0/4", "5/4", "4", "a/b", "1/0", "-1/4"):
        with pytest.raises(UserError, match="shard="):
            compute_flows(videos, store, shard=shard, progress=False)


def test_corrupt_image_affects_its_own_flow_only(make_video: MakeVideo, tmp_path: Path) -> None:
    video, store = make_video(8), FlowStore(Difference(), tmp_path / "cache")
    video.frames[3].image.write_bytes(b"broken")
    summary = compute_flows([video], store, progress=False)
    assert summary.computed == 6  # the two pairs with frame 3 failed
    assert len(summary.problems) == 1
    assert "00003.png" in str(summary)
    write_rgb(video.frames[3].image, numbered_frame(3))
    assert compute_flows([video], store, progress=False).computed == 2


def test_truncated_image_is_reported(tmp_path: Path, texture: np.ndarray) -> None:
    frames = tuple(Frame(str(i), write_rgb(tmp_path / f"{i}.png", texture)) for i in range(2))
    data = frames[1].image.read_bytes()
    frames[1].image.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"1\.png is truncated"):
        FlowStore(Difference()).load(Video("clip", frames), 0)


@pytest.mark.parametrize("workers", [0, 1])
def test_unwritable_cache_aborts_the_run(make_video: MakeVideo, tmp_path: Path, workers: int) -> None:
    (tmp_path / "file").write_text("")
    store = FlowStore(Difference(), tmp_path / "file" / "cache")
    with pytest.raises(UserError, match=r"could not be written .*Choose another place"):
        compute_flows([make_video(20)], store, workers=workers, progress=False)
    assert workers or store.estimator.calls <= 9 + 6  # type: ignore[union-attr]  # not all frames are computed


def test_images_are_saved_on_request(make_video: MakeVideo, tmp_path: Path) -> None:
    video, cache = make_video(4), tmp_path / "cache"
    compute_flows([video], FlowStore(Difference(), cache), progress=False)
    assert not list(cache.rglob("*.wheel.png"))
    store = FlowStore(Difference(), cache, save_images=True)
    compute_flows([video], store, progress=False)
    assert store.estimator.calls == 0  # type: ignore[union-attr]  # drawn from the cached flow
    images = sorted(cache.rglob("*.wheel.png"))
    assert len(images) == 4
    np.testing.assert_array_equal(cv2.imread(str(images[2]))[..., ::-1], flow_to_rgb(store.load(video, 2)))
    assert compute_flows([video], store, progress=False).reused == 4


def test_gpu_estimator_runs_in_this_process(make_video: MakeVideo, tmp_path: Path) -> None:
    class OnGpu(Difference):
        on_gpu = True

    store = FlowStore(OnGpu(), tmp_path / "cache")
    assert compute_flows([make_video(5)], store, workers=2, progress=False).computed == 5
    assert store.estimator.calls >= 5  # type: ignore[union-attr]


def test_missing_weights_are_reported_before_the_run_starts(make_video: MakeVideo, tmp_path: Path) -> None:
    class Offline(Difference):
        def prepare(self) -> None:
            raise UserError("no weights")

    with pytest.raises(UserError, match="no weights"):
        compute_flows([make_video(5)], FlowStore(Offline(), tmp_path / "cache"), progress=False)
    assert not (tmp_path / "cache").exists()


class Slow(Difference):
    """Slow enough to be killed in the middle."""

    def estimate(self, first, second):  # type: ignore[no-untyped-def]
        time.sleep(0.02 * len(first))
        return super().estimate(first, second)


def test_killed_run_is_resumable(make_video: MakeVideo, tmp_path: Path) -> None:
    videos, cache = [make_video(60)], tmp_path / "cache"
    store = FlowStore(Slow(), cache)
    process = multiprocessing.get_context("fork").Process(
        target=compute_flows, args=(videos, store), kwargs={"progress": False}
    )
    process.start()
    deadline = time.monotonic() + 30
    while len(files(cache)) < 10 and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)  # type: ignore[arg-type]
    process.join()
    summary = compute_flows(videos, store, progress=False)
    assert summary.reused >= 8
    assert summary.computed >= 1
    assert summary.computed + summary.reused == 60
    for i in range(59):
        assert store.load(videos[0], i)[0, 0, 1] == 101 + i


def test_several_processes_fill_one_cache(make_video: MakeVideo, tmp_path: Path) -> None:
    videos, store = [make_video(24)], FlowStore(Slow(), tmp_path / "cache")
    fork = multiprocessing.get_context("fork")
    run = [fork.Process(target=compute_flows, args=(videos, store), kwargs={"progress": False}) for _ in range(3)]
    for process in run:
        process.start()
    for process in run:
        process.join()
    assert [process.exitcode for process in run] == [0, 0, 0]
    assert not [path for path in files(tmp_path / "cache") if path.suffix == ".part"]
    assert compute_flows(videos, store, progress=False).reused == 24
    for i in range(23):
        assert store.load(videos[0], i)[0, 0, 1] == 101 + i


class Loaded(Dataset):
    def __init__(self, video: Video, store: FlowStore) -> None:
        self.video, self.store = video, store

    def __len__(self) -> int:
        return len(self.video.frames)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        flow = self.store.load(self.video, index)
        return flow, cv2.getNumThreads()


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_loader_workers_compute_with_one_thread_each(tmp_path: Path, texture: np.ndarray, start: str) -> None:
    frames = tuple(
        Frame(str(i), write_rgb(tmp_path / f"{i}.png", np.roll(texture, 2 * i, 1)[:64, :64])) for i in range(4)
    )
    video, store = Video("clip", frames), FlowStore(DIS("fast"))
    threads = cv2.getNumThreads()
    cv2.setNumThreads(2)
    here = store.load(video, 0)  # must not leak the OpenCV object or its (now idle) threads to workers
    time.sleep(0.3)
    loader = DataLoader(Loaded(video, store), batch_size=None, num_workers=2, multiprocessing_context=start)
    loaded = list(loader)
    cv2.setNumThreads(threads)
    assert {count for _, count in loaded} == {1}
    np.testing.assert_allclose(loaded[0][0], here, atol=1e-4)


def test_store_can_be_pickled_after_use(make_video: MakeVideo) -> None:
    video, store = make_video(2), FlowStore(DIS("ultrafast"))
    flow = store.load(video, 0)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(store)).load(video, 0), flow)


@pytest.mark.parametrize("file_format", ["png", "flo"])
def test_the_disk_space_is_known_before_the_start(
    make_video, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, file_format: str
) -> None:
    videos = [make_video(9, "a"), make_video(5, "b")]
    store = FlowStore(Difference(), tmp_path / "cache", format=file_format)
    free = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free._replace(free=10))
    with pytest.raises(UserError, match=r"14 maps take about .* and 0.0 kB are free; make room") as error:
        compute_flows(videos, store, progress=False)
    assert ("flow.format=png" in str(error.value)) is (file_format == "flo")
    assert not list((tmp_path / "cache").rglob(f"*.{file_format}"))
    monkeypatch.undo()
    with caplog.at_level(logging.INFO):
        compute_flows(videos, store, progress=False)
        compute_flows(videos, store, progress=False)  # nothing to say: all are there
    [message] = [record.message for record in caplog.records if record.message.startswith("flow: ")]
    said = re.match(r"flow: 14 of 14 maps to compute, about ([\d.]+) kB in ", message)
    assert said is not None
    taken = sum(path.stat().st_size for path in (tmp_path / "cache").rglob(f"*.{file_format}"))
    assert float(said[1]) * 1e3 == pytest.approx(taken, rel=0.3)


@pytest.mark.parametrize(("old", "new"), [("flo", "png"), ("png", "flo")])
def test_maps_in_the_other_format_are_used(make_video, tmp_path: Path, old: str, new: str) -> None:
    video = make_video(4)
    before = FlowStore(Difference(), tmp_path / "cache", format=old)
    compute_flows([video], before, progress=False)
    store = FlowStore(Difference(), tmp_path / "cache", format=new)
    assert compute_flows([video], store, progress=False).reused == 4
    assert not list((tmp_path / "cache").rglob(f"*.{new}"))
    np.testing.assert_array_equal(store.load(video, 1), before.load(video, 1))


def test_the_default_format_takes_a_ninth_and_is_as_exact_as_it_says(texture: np.ndarray, tmp_path: Path) -> None:
    flow = DIS()([texture], [np.roll(texture, (1, 3), (0, 1))])[0]
    store = FlowStore(DIS(), tmp_path)
    assert store.bytes_of(flow) < FlowStore(DIS(), tmp_path, format="flo").bytes_of(flow) / 3
    write_flow(tmp_path / f"a.{store.format}", flow)
    assert np.abs(read_flow(tmp_path / f"a.{store.format}") - flow).max() <= 1 / 128
