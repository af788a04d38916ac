"""Loaders for training, validation, testing and prediction; splits and mixtures."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, DistributedSampler

from maskvos.data.dataset import FrameDataset, StreamDataset, collate
from maskvos.data.transforms import Transform
from maskvos.errors import UserError, nearest
from maskvos.flow.store import FlowStore
from maskvos.types import Batch, Video

STAGES = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("predict",)}


class EpochSampler(DistributedSampler):
    """Shuffles anew in every epoch, keeps the shares of a mixture, and tells samples their epoch.

    Being a `DistributedSampler`, it serves several processes, and Lightning leaves it in place and sets its epoch.

    Args:
        groups: For every sample, the name of the dataset that it comes from.
        weights: Dataset to its share of an epoch's samples (they need not add up to 1); None: all samples once.
        samples_per_epoch: Length of an epoch; None: as many as there are samples.
        seed: Of the order.
        num_replicas: Number of processes.
        rank: This process.
        scales: Factors on the network's size, of which each batch draws one, the same on all processes; None: no such.
        batch_size: Samples per batch and process.

    Raises:
        UserError: A weight for a dataset that is not there, or negative, or none for one that is there.
    """

    def __init__(
        self,
        groups: Sequence[str],
        weights: Mapping[str, float] | None = None,
        samples_per_epoch: int | None = None,
        seed: int = 0,
        num_replicas: int = 1,
        rank: int = 0,
        scales: Sequence[float] | None = None,
        batch_size: int = 1,
    ) -> None:
        super().__init__(groups, num_replicas=num_replicas, rank=rank, shuffle=True, seed=seed)  # type: ignore[arg-type]
        names = np.asarray(groups)
        present = sorted(set(groups))
        if weights is None:
            self.members, self.weights = [np.arange(len(names))], [1.0]
        else:
            for name in (*weights, *present):
                if name not in present or name not in weights:
                    raise UserError(
                        f"weights: {dict(weights)} for the datasets {present}: '{name}' is in one of them only; "
                        f"{nearest(name, present)}"
                    )
            if min(weights.values()) < 0 or sum(weights.values()) <= 0:
                raise UserError(f"weights: {dict(weights)}; they must not be negative, and one must be above 0")
            self.members = [np.flatnonzero(names == name) for name in present]
            self.weights = [float(weights[name]) for name in present]
        self.total = samples_per_epoch or len(names)
        self.num_samples = -(-self.total // num_replicas)
        self.scales = scales
        self.batch_size = batch_size
        # Epoch and number of its samples that an interrupted training has seen already.
        self.seen = (0, 0)

    def __iter__(self) -> Iterator[tuple[int, int] | tuple[int, int, float]]:  # type: ignore[override]
        """Yield (epoch, index), or (epoch, index, scale); no sample comes twice before all of its dataset came once."""
        rng = np.random.default_rng([self.seed, self.epoch])
        ends = np.round(np.cumsum(self.weights) / sum(self.weights) * self.total).astype(int)
        drawn = []
        for members, count in zip(self.members, np.diff(ends, prepend=0), strict=True):
            rounds = -(-count // len(members))
            drawn += [rng.permutation(members) for _ in range(rounds - 1)]
            if rounds:
                drawn.append(rng.permutation(members)[: count - (rounds - 1) * len(members)])
        order = rng.permutation(np.concatenate(drawn))
        # Every process gets equally many, as the gradients' exchange needs; the first samples fill up.
        order = np.resize(order, self.num_samples * self.num_replicas)
        epoch, count = self.seen
        own = order[self.rank :: self.num_replicas]
        for place in range(count if epoch == self.epoch else 0, len(own)):
            pair = self.epoch, int(own[place])
            if self.scales is None:
                yield pair
            else:
                # Drawn from the batch's own number, so that an interrupted epoch can be gone on with anywhere.
                draw = np.random.default_rng([self.seed, self.epoch, place // self.batch_size])
                yield *pair, float(draw.choice(self.scales))

    def __len__(self) -> int:
        return self.num_samples


class ShareSampler(DistributedSampler):
    """Shares samples out among processes in order, each sample once: a score must not count one twice.

    Being a `DistributedSampler`, it is left in place by Lightning, whose own one repeats samples to give every process
    equally many.
    """

    def __iter__(self) -> Iterator[int]:
        """Yield every n-th index."""
        return iter(range(self.rank, len(self.dataset), self.num_replicas))  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(range(self.rank, len(self.dataset), self.num_replicas))  # type: ignore[arg-type]


class VideoDataModule(pl.LightningDataModule):
    """The loaders of a run. Nothing on disk is looked at before `setup`, and then only for the stage that runs.

    Args:
        train: Lists the training videos when called.
        val: Lists the videos that choose the checkpoint.
        test: Lists the videos that results are reported on.
        predict: Lists the videos to be segmented.
        flow: Where optical flow comes from.
        size: Height and width that the network sees, pixels.
        batch_size: Training samples per step and process.
        eval_batch_size: Frames per step in validation, test and prediction.
        num_workers: Loading processes; 0: load in the main process; None: one per core, at most 8. Prediction uses at
            most one, because it streams.
        augment: Albumentations transforms for training.
        scales: Each training batch is of one of these times ``size``, frame, flow and mask together, in multiples of 32
            pixels; None: always of ``size``.
        weights: Dataset name to its share of the training samples, for mixtures.
        samples_per_epoch: Training samples per epoch; None: all of them once.
        motion_as_option: Share of training samples whose motion stream sees the RGB frame, see `FrameDataset`.
        paste: Share of training samples into which another sample's object is pasted, see `FrameDataset`.
        flow_pairs: Training samples draw their flow from these (each a ``direction`` and ``gap``, settings of
            `FlowStore`) and the usual one, equally often; None: always the usual one.
        second_look: Outside of training samples also carry the flow of this ``direction`` and ``gap`` (settings of
            `FlowStore`), for a second look at each frame; None: they do not.
        seed: Of order and augmentation; None: another one in every run.
        root: The dataset's folder, which the configuration of ``train``, ``val`` and ``test`` refers to (so that
            ``data.root=...`` changes all of them); not used here.
    """

    def __init__(
        self,
        flow: FlowStore,
        train: Callable[[], list[Video]] | None = None,
        val: Callable[[], list[Video]] | None = None,
        test: Callable[[], list[Video]] | None = None,
        predict: Callable[[], list[Video]] | None = None,
        size: Sequence[int] = (512, 512),
        batch_size: int = 8,
        eval_batch_size: int = 1,
        num_workers: int | None = None,
        augment: Sequence[Any] | None = None,
        scales: Sequence[float] | None = None,
        weights: Mapping[str, float] | None = None,
        samples_per_epoch: int | None = None,
        motion_as_option: float | None = None,
        paste: float = 0.0,
        flow_pairs: Sequence[Mapping[str, Any]] | None = None,
        second_look: Mapping[str, Any] | None = None,
        seed: int | None = 0,
        root: str | None = None,
    ) -> None:
        super().__init__()
        least = {
            "batch_size": (batch_size, 1),
            "eval_batch_size": (eval_batch_size, 1),
            "num_workers": (num_workers, 0),
        }
        for name, (value, minimum) in least.items():
            if value is not None and value < minimum:
                raise UserError(f"data.{name} is {value}; it must be at least {minimum}")
        if motion_as_option is not None and not 0 <= motion_as_option <= 1:
            raise UserError(f"data.motion_as_option is {motion_as_option}; it must be a share from 0 to 1, or null")
        if not 0 <= paste <= 1:
            raise UserError(f"data.paste is {paste}; it must be a share from 0 to 1")
        if scales is not None and (not scales or min(scales) <= 0):
            raise UserError(f"data.scales is {list(scales)}; give factors above 0 such as [0.75, 1, 1.25], or null")
        self.sources = {"train": train, "val": val, "test": test, "predict": predict}
        self.flow = flow
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = min(8, _cores()) if num_workers is None else num_workers
        self.scales = scales
        self.weights = weights
        self.samples_per_epoch = samples_per_epoch
        self.motion_as_option = motion_as_option
        self.paste = paste
        self.flow_pairs = flow_pairs or ()
        self.second = None if second_look is None else _joining(flow, second_look, "second_look")
        self.seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed
        self.train_transform = Transform(size, augment)
        self.eval_transform = Transform(size)
        # Set by whoever writes predictions, so that a repeated run leaves finished videos out.
        self.done: Callable[[str], bool] | None = None
        self._videos: dict[str, list[Video]] = {}
        self._seen = (0, 0)

    def state_dict(self) -> dict[str, Any]:
        """How far the training is in its epoch; travels in checkpoints."""
        if self.trainer is None:
            return {}
        batches = self.trainer.fit_loop.epoch_loop.batch_progress.current.processed  # type: ignore[attr-defined]
        return {"epoch": self.trainer.current_epoch, "samples": batches * self.batch_size}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue an interrupted epoch with the samples that it has not seen."""
        self._seen = (state_dict.get("epoch", 0), state_dict.get("samples", 0))

    def setup(self, stage: str) -> None:
        """List the videos of a stage (``fit``, ``validate``, ``test`` or ``predict``).

        Raises:
            UserError: The data is not there, or not as expected.
        """
        for part in STAGES[stage]:
            # A dataset without validation can be trained on; one without the part itself cannot serve the stage.
            if self.sources[part] is not None or part != "val" or stage == "validate":
                self.videos(part)

    def videos(self, part: str) -> list[Video]:
        """The videos of ``train``, ``val``, ``test`` or ``predict``; listed once.

        Raises:
            UserError: The data has no such part, or it has no video, or two videos of one name.
        """
        if part not in self._videos:
            source = self.sources.get(part)
            if source is None:
                have = [name for name, given in self.sources.items() if given is not None]
                raise UserError(
                    f"data: it has no {part} videos, only {', '.join(have) or 'none'}; choose another data="
                )
            videos = source()
            if not videos:
                raise UserError(f"data: the list of {part} videos is empty; check the dataset with task=check")
            # Results are kept by name. Training keeps none, and a mixture may well hold two videos of one name.
            name, count = Counter(video.name for video in videos).most_common(1)[0]
            if part != "train" and count > 1:
                raise UserError(f"data: {count} {part} videos are called '{name}'; results go by name, so rename one")
            self._videos[part] = videos
        return self._videos[part]

    def train_dataloader(self) -> DataLoader:
        """Annotated frames, shuffled and augmented, at the network's size."""
        dataset = FrameDataset(
            self.videos("train"),
            self.flow,
            self.train_transform,
            seed=self.seed,
            motion_as_option=self.motion_as_option,
            paste=self.paste,
            others=[_joining(self.flow, pair, "flow_pairs") for pair in self.flow_pairs],
        )
        replicas, rank = self._processes()
        # Without a given seed each process drew its own, and the processes would not share out the same order.
        seed = self.seed if self.trainer is None else self.trainer.strategy.broadcast(self.seed)
        groups = [dataset.videos[video].dataset for video in dataset.pairs[:, 0]]
        shares = (groups, self.weights, self.samples_per_epoch)
        sampler = EpochSampler(*shares, seed, replicas, rank, self.scales, self.batch_size)
        sampler.seen = self._seen
        return self._loader(
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            # A last batch of one sample would upset batch normalisation; a tiny dataset still gets its one batch.
            drop_last=len(sampler) >= self.batch_size,
            persistent_workers=self.num_workers > 0,
        )

    def val_dataloader(self) -> DataLoader | list:
        """Annotated frames in order, with the truth and the frame at their own size; empty without videos."""
        return self._eval_loader("val", persistent=True) if self.sources["val"] is not None else []

    def test_dataloader(self) -> DataLoader:
        """Annotated frames in order, with the truth and the frame at their own size."""
        return self._eval_loader("test", persistent=False)

    def predict_dataloader(self) -> DataLoader:
        """Every frame of every video in order of time; several processes share out the videos."""
        replicas, rank = self._processes()
        dataset = StreamDataset(
            self.videos("predict")[rank::replicas],
            self.flow,
            self.eval_transform,
            self.done,
            self.motion_as_option,
            self.second,
        )
        return self._loader(dataset, batch_size=self.eval_batch_size, num_workers=min(1, self.num_workers))

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Give sizes back as the tuples that they were: pinning memory for a GPU makes lists of them."""
        return {**batch, "size": [(height, width) for height, width in batch["size"]]}

    def _eval_loader(self, part: str, persistent: bool) -> DataLoader:
        """The loader of validation or test."""
        dataset = FrameDataset(
            self.videos(part),
            self.flow,
            self.eval_transform,
            with_truth=True,
            with_image=True,
            seed=self.seed,
            # Evaluation shows flow wherever there is some; a still image is treated as it was in training.
            motion_as_option=None if self.motion_as_option is None else 0.0,
            second=self.second,
        )
        replicas, rank = self._processes()
        return self._loader(
            dataset,
            batch_size=self.eval_batch_size,
            # With fewer samples than processes all must take some part: Lightning then repeats samples.
            sampler=ShareSampler(dataset, replicas, rank, shuffle=False) if 1 < replicas <= len(dataset) else None,
            persistent_workers=persistent and self.num_workers > 0,
        )

    def _loader(self, dataset: FrameDataset | StreamDataset, **options: Any) -> DataLoader:
        """A loader with what all of them share."""
        options.setdefault("num_workers", self.num_workers)
        if options["num_workers"] > 0:
            # A forked worker inherits OpenCV's pool without its threads and would wait for them for ever. One thread
            # (not 0, which keeps the pool) gives it up here, while they live; the loading is the workers' business now.
            cv2.setNumThreads(1)
        return DataLoader(
            dataset,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_single_threaded,
            **options,
        )

    def _processes(self) -> tuple[int, int]:
        """Number of processes of the run, and which one this is."""
        return (1, 0) if self.trainer is None else (self.trainer.world_size, self.trainer.global_rank)


def _joining(flow: FlowStore, pair: Mapping[str, Any], name: str) -> FlowStore:
    """The flow of other pairs of frames, as a setting says."""
    if "direction" not in pair or pair.keys() - {"direction", "gap"}:
        raise UserError(f"data.{name}: {dict(pair)}; give direction (forward or backward) and gap, nothing else")
    if flow.estimator is None:
        raise UserError(
            f"data.{name}: {dict(pair)}, but the flow was made beforehand and joins one pair of frames only; leave it "
            f"out (data.{name}=null), or compute flow (flow=dis)"
        )
    return flow.joining(**pair)


def _cores() -> int:
    """Cores that this process may use, where the system tells; else all there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _single_threaded(worker: int) -> None:
    """Keep a loading process to one core: the workers already share out the cores among them."""
    cv2.setNumThreads(0)  # not 1: that would wait for the threads of a pool that came with the fork after all
    torch.set_num_threads(1)
