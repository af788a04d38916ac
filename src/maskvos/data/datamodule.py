"""The LightningDataModule: data loaders for training, validation and test, and their samplers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, DistributedSampler

from maskvos.data.dataset import FrameDataset, collate
from maskvos.data.transforms import Transform
from maskvos.environment import cores, init_worker
from maskvos.errors import UserError, nearest
from maskvos.flow.store import FlowStore, paired_flow
from maskvos.settings.table import check_settings
from maskvos.types import Batch, Video

STAGES = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}


class EpochSampler(DistributedSampler[Any]):
    """Shuffles every epoch differently, draws the datasets of a mixture by weight, and yields (epoch, index) keys.

    A `DistributedSampler`, so that Lightning keeps it and sets its epoch.

    Args:
        groups: Dataset name of every sample.
        weights: Dataset name to its share of an epoch's samples (normalised here); None: every sample once.
        samples_per_epoch: Length of an epoch; None: the number of samples.
        seed: Seed of the order.
        num_replicas: Number of processes.
        rank: Index of this process.
        scales: Factors on the input size, one drawn per batch, the same on all processes; None: always 1.
        batch_size: Samples per batch and process.

    Raises:
        UserError: A weight is negative, or is missing for a dataset or given for an unknown one.
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
        # (epoch, number of its samples that were used): a resumed training continues behind them.
        self.seen = (0, 0)

    def __iter__(self) -> Iterator[tuple[int, int] | tuple[int, int, float]]:
        """Yield (epoch, index) or (epoch, index, scale); a dataset repeats a sample only after all have been drawn."""
        rng = np.random.default_rng([self.seed, self.epoch])
        ends = np.round(np.cumsum(self.weights) / sum(self.weights) * self.total).astype(int)
        drawn = []
        for members, count in zip(self.members, np.diff(ends, prepend=0), strict=True):
            rounds = -(-count // len(members))
            drawn += [rng.permutation(members) for _ in range(rounds - 1)]
            if rounds:
                drawn.append(rng.permutation(members)[: count - (rounds - 1) * len(members)])
        order = rng.permutation(np.concatenate(drawn))
        # All processes need equally many samples to synchronise gradients: the first ones are repeated.
        order = np.resize(order, self.num_samples * self.num_replicas)
        epoch, count = self.seen
        own = order[self.rank :: self.num_replicas]
        for place in range(count if epoch == self.epoch else 0, len(own)):
            pair = self.epoch, int(own[place])
            if self.scales is None:
                yield pair
            else:
                # Derived from the batch's index, so that an epoch can be resumed anywhere.
                draw = np.random.default_rng([self.seed, self.epoch, place // self.batch_size])
                yield *pair, float(draw.choice(self.scales))

    def __len__(self) -> int:
        return self.num_samples


class EvalSampler(DistributedSampler[Any]):
    """Every sample exactly once, split among processes; each loading process reads neighbouring frames.

    The frames of a process are divided into one run per loading process, and batches are taken from the runs in turns,
    as `DataLoader` deals them out. Consecutive frames then meet in one process, which decodes each of them once. A
    `DistributedSampler`, so that Lightning keeps it; Lightning's own repeats samples to equalise processes, and a score
    must not count a frame twice.

    Args:
        dataset: What is sampled.
        num_replicas: Number of processes.
        rank: Index of this process.
        batch_size: Samples per batch.
        workers: Loading processes.
    """

    def __init__(
        self, dataset: FrameDataset, num_replicas: int = 1, rank: int = 0, batch_size: int = 1, workers: int = 0
    ) -> None:
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=False)
        own = np.arange(rank, len(dataset), num_replicas)
        batches = [own[start : start + batch_size] for start in range(0, len(own), batch_size)]
        # A shorter last batch stays last, where the loader makes one.
        full, last = batches[: len(own) // batch_size], batches[len(own) // batch_size :]
        runs = np.array_split(np.arange(len(full)), max(1, workers))
        turns = [run[turn] for turn in range(len(runs[0])) for run in runs if turn < len(run)]
        self.order = [int(index) for batch in [*(full[turn] for turn in turns), *last] for index in batch]

    def __iter__(self) -> Iterator[int]:
        """Yield indices."""
        return iter(self.order)

    def __len__(self) -> int:
        return len(self.order)


class VideoDataModule(pl.LightningDataModule):
    """Data loaders for training, validation and test. Nothing on disk is touched before `setup` or `videos`.

    Args:
        flow: Source of optical flow.
        train: Lists the training videos when called.
        val: Lists the validation videos, which select the checkpoint.
        test: Lists the test videos.
        size: Height and width of the network's input, pixels.
        batch_size: Training samples per step and process.
        eval_batch_size: Frames per step in validation, test and prediction.
        num_workers: Loading processes; 0: load in the main process; None: one per core, at most 8.
        augment: Albumentations transforms for training.
        scales: Multi-scale training: each batch has one of these factors times ``size``, rounded to multiples of 32
            pixels; None: always ``size``.
        weights: Dataset name to its share of the training samples, for mixtures.
        samples_per_epoch: Training samples per epoch; None: every one once.
        motion_as_option: Probability that the motion encoder reads the RGB frame, see `FrameDataset`.
        paste: Probability of pasting another sample's object, see `FrameDataset`.
        flow_pairs: Training samples draw their flow from these frame pairs (each with ``direction`` and ``gap``, as in
            `FlowStore`) and the usual one with equal probability; None: always the usual one.
        tta_flow: Frame pair (``direction`` and ``gap``) of a second flow map in validation and test, for test-time
            augmentation; None: no second map.
        seed: Seed of order and augmentation; None: a random one.
        root: The dataset's folder, to which ``train``, ``val`` and ``test`` refer in the configuration (so that
            ``data.root=...`` changes all of them); not used here.
    """

    def __init__(
        self,
        flow: FlowStore,
        train: Callable[[], list[Video]] | None = None,
        val: Callable[[], list[Video]] | None = None,
        test: Callable[[], list[Video]] | None = None,
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
        tta_flow: Mapping[str, Any] | None = None,
        seed: int | None = 0,
        root: str | None = None,
    ) -> None:
        super().__init__()
        given: dict[str, Any] = {
            "batch_size": batch_size,
            "eval_batch_size": eval_batch_size,
            "num_workers": num_workers,
        }
        given |= {"motion_as_option": motion_as_option, "paste": paste, "scales": scales, "size": size}
        check_settings(given, "data")
        self.sources = {"train": train, "val": val, "test": test}
        self.flow = flow
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = min(8, cores()) if num_workers is None else num_workers
        self.scales = scales
        self.weights = weights
        self.samples_per_epoch = samples_per_epoch
        self.motion_as_option = motion_as_option
        self.paste = paste
        self.flow_pairs = flow_pairs or ()
        self.tta_flow = None if tta_flow is None else paired_flow(flow, tta_flow, "tta.flow")
        self.seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed
        self.train_transform = Transform(size, augment)
        self.eval_transform = Transform(size)
        self._videos: dict[str, list[Video]] = {}
        self._seen = (0, 0)

    def state_dict(self) -> dict[str, Any]:
        """Progress within the epoch, saved in checkpoints."""
        if self.trainer is None:
            return {}
        batches = self.trainer.fit_loop.epoch_loop.batch_progress.current.processed  # type: ignore[attr-defined]
        return {"epoch": self.trainer.current_epoch, "samples": batches * self.batch_size}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue an interrupted epoch behind the samples that it has used."""
        self._seen = (state_dict.get("epoch", 0), state_dict.get("samples", 0))

    def setup(self, stage: str) -> None:
        """List the videos of a stage (``fit``, ``validate`` or ``test``).

        Raises:
            UserError: The data is missing or incomplete.
        """
        for split in STAGES[stage]:
            # Training works without validation videos.
            if self.sources[split] is not None or split != "val" or stage == "validate":
                self.videos(split)

    def videos(self, split: str) -> list[Video]:
        """The videos of ``train``, ``val`` or ``test``; listed once.

        Raises:
            UserError: The split is not configured, or it is empty, or two of its videos have the same name.
        """
        if split not in self._videos:
            source = self.sources.get(split)
            if source is None:
                have = ", ".join(name for name, given in self.sources.items() if given is not None)
                raise UserError(f"data: no {split} videos (it has: {have or 'nothing'}); choose another data=")
            videos = source()
            if not videos:
                raise UserError(f"data: the list of {split} videos is empty; check the dataset with task=check")
            # Results are stored by name. Training stores none, and a mixture may well hold two videos of one name.
            name, count = Counter(video.name for video in videos).most_common(1)[0]
            if split != "train" and count > 1:
                raise UserError(f"data: {count} {split} videos named '{name}'; results are stored by name: rename one")
            self._videos[split] = videos
        return self._videos[split]

    def train_dataloader(self) -> DataLoader[Any]:
        """Annotated frames, shuffled and augmented, at the network's input size."""
        dataset = FrameDataset(
            self.videos("train"),
            self.flow,
            self.train_transform,
            seed=self.seed,
            motion_as_option=self.motion_as_option,
            paste=self.paste,
            other_flows=[paired_flow(self.flow, pair, "data.flow_pairs") for pair in self.flow_pairs],
        )
        replicas, rank = self._processes()
        # Without a given seed each process has drawn its own, but all must split the same order.
        seed = self.seed if self.trainer is None else self.trainer.strategy.broadcast(self.seed)
        groups = [dataset.videos[video].dataset for video in dataset.pairs[:, 0]]
        shares = (groups, self.weights, self.samples_per_epoch)
        sampler = EpochSampler(*shares, seed, replicas, rank, self.scales, self.batch_size)
        sampler.seen = self._seen
        return self._loader(
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            # A last batch of one sample would disturb batch norm; a tiny dataset still gets its one batch.
            drop_last=len(sampler) >= self.batch_size,
            persistent_workers=self.num_workers > 0,
        )

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Annotated frames with ground truth and image at their own size; empty without validation videos."""
        return self._eval_loader("val", persistent=True) if self.sources["val"] is not None else []

    def test_dataloader(self) -> DataLoader[Any]:
        """Annotated frames with ground truth and image at their own size."""
        return self._eval_loader("test", persistent=False)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Turn sizes back into tuples: pinning memory for a GPU makes lists of them."""
        return {**batch, "size": [(height, width) for height, width in batch["size"]]}

    def _eval_loader(self, split: str, persistent: bool) -> DataLoader[Any]:
        """The loader of validation or test."""
        dataset = self.eval_dataset(split)
        replicas, rank = self._processes()
        sampler = EvalSampler(dataset, replicas, rank, self.eval_batch_size, self.num_workers)
        return self._loader(
            dataset,
            batch_size=self.eval_batch_size,
            # With fewer samples than processes every process still needs one: Lightning's sampler repeats them.
            sampler=sampler if replicas <= len(dataset) else None,
            persistent_workers=persistent and self.num_workers > 0,
        )

    def eval_dataset(self, split: str) -> FrameDataset:
        """The annotated frames of ``val`` or ``test`` without augmentation, with ground truth and image."""
        return FrameDataset(
            self.videos(split),
            self.flow,
            self.eval_transform,
            with_truth=True,
            with_image=True,
            seed=self.seed,
            # Evaluation uses flow wherever there is some; still images are treated as in training.
            motion_as_option=None if self.motion_as_option is None else 0.0,
            tta_flow=self.tta_flow,
        )

    def _loader(self, dataset: FrameDataset, **options: Any) -> DataLoader[Any]:
        """A loader with the options that all of them share."""
        options.setdefault("num_workers", self.num_workers)
        return DataLoader(
            dataset,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=init_worker,
            **options,
        )

    def _processes(self) -> tuple[int, int]:
        """Number of training processes, and the index of this one."""
        return (1, 0) if self.trainer is None else (self.trainer.world_size, self.trainer.global_rank)
