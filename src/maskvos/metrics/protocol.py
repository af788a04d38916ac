"""Evaluation protocols of benchmarks: which frames count, how maps are thresholded, and how scores are averaged.

All options are explicit, so that published numbers can be reproduced and differences explained. The `Summary` reports
which frames were counted, and which were left out and why.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from maskvos.errors import UserError, nearest
from maskvos.metrics import functional as F
from maskvos.metrics.outline import outline
from maskvos.metrics.results import FrameRow, FrameScore, SequenceScore, Summary
from maskvos.metrics.saliency import Saliency, Structure, e_curve_of, f_curve_of
from maskvos.metrics.stability import stability_series
from maskvos.settings.table import check_settings
from maskvos.text import natural

if TYPE_CHECKING:
    from maskvos.types import Frame, Video

Trim = Literal["none", "first", "last", "both"]
Threshold = Literal["above_0", "above_127", "above_128"]
Average = Literal["sequences", "classes", "frames"]
VideoScores = tuple[list[SequenceScore], list[FrameRow]]
"""Result of `Protocol.reduce`: the row of a sequence (or of its objects), and the rows of its frames."""

MAX_PROPOSALS = 20

SERIES = ("j", "f")
"""Metrics that have recall and decay in addition to the mean."""
SALIENCY = ("mae", "s", "mean_f", "adaptive_f", "mean_e", "adaptive_e")
CURVES = {"max_f": f_curve_of, "max_e": e_curve_of}
STABILITY = "t"
MEASURES = (*SERIES, STABILITY, "boundary_iou", "precision", "recall", *SALIENCY, *CURVES, "weighted_f")


@dataclass(frozen=True)
class Protocol:
    """Evaluation protocol of a benchmark.

    Attributes:
        name: Name in reports.
        measures: Metrics to compute, from `MEASURES`; ``f`` is the boundary F, ``max_f`` etc. are saliency F-measures;
            ``t`` is the temporal stability of each frame and the next one.
        trim: Frames of each video to leave out: ``both`` is the first and the last.
        empty_truth: Whether frames without foreground in the ground truth count (``score``) or not (``skip``).
        threshold: 8-bit levels of a soft map that are foreground; a float probability in [0, 1] is compared with the
            midpoint between two levels (``above_127``: p > 0.5). Does not apply to bool masks and object labels.
        average: ``sequences``: mean over frames, then sequences. ``classes``: mean over frames, then sequences of a
            class, then classes. ``frames``: mean over all frames (the decay is still averaged over sequences).
        objects: ``merge``: all objects are one foreground. ``match``: each true object is matched with the best
            predicted object over the sequence, and rows are objects (DAVIS-2017 unsupervised).
        decay: See `functional.series_decay`.
        tolerance: See `functional.boundary_f`.
        minmax: Min-max normalise each saliency map.
        structure: See `saliency.s_measure`.
        curve: For ``max_f`` and ``max_e``: maximum of the mean curve over sequences (``averaged``), or mean of the
            maxima of the sequences (``per_sequence``).
        unstable: Sequences that the mean of ``t`` leaves out, since occlusions change the outline of the object itself.

    Raises:
        UserError: Unknown metric or option.
    """

    name: str
    measures: Sequence[str] = ("j", "f")
    trim: Trim = "none"
    empty_truth: Literal["score", "skip"] = "score"
    threshold: Threshold = "above_127"
    average: Average = "sequences"
    objects: Literal["merge", "match"] = "merge"
    decay: F.Decay = "exact"
    tolerance: float = 0.008
    minmax: bool = False
    structure: Structure = "matlab"
    curve: Literal["averaged", "per_sequence"] = "averaged"
    unstable: Sequence[str] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "measures", tuple(self.measures))
        object.__setattr__(self, "unstable", tuple(self.unstable))
        check_settings(vars(self), "protocol")
        if self.objects == "match" and set(self.measures) != set(SERIES):
            raise UserError(
                f"protocol.objects=match supports j and f only, not {list(self.measures)}; set measures=[j,f]"
            )

    @property
    def level(self) -> int:
        """The 8-bit level above which a pixel is foreground."""
        return int(self.threshold.removeprefix("above_"))

    @property
    def soft(self) -> bool:
        """Whether a saliency metric is computed, which scores soft maps without threshold."""
        return bool(set(self.measures) & {*SALIENCY, *CURVES, "weighted_f"})

    def foreground(self, prediction: np.ndarray) -> np.ndarray:
        """Threshold a prediction (H, W), uint8 or float in [0, 1], to a mask (H, W) bool; bool is returned as is."""
        prediction = np.asarray(prediction)
        if prediction.dtype == np.bool_:
            return prediction
        if np.issubdtype(prediction.dtype, np.floating):
            if not (prediction.min(initial=0) >= 0 and prediction.max(initial=0) <= 1):
                raise UserError(
                    "prediction: probabilities must be in [0, 1]; apply the sigmoid, or threshold the logits"
                )
            return prediction > (self.level + 0.5) / 255
        if prediction.dtype != np.uint8:
            raise UserError(
                f"prediction of type {prediction.dtype}: expected bool, uint8 from 0 to 255, or float in [0, 1]"
            )
        return prediction > self.level

    def score(
        self, video: str, frame: str, prediction: np.ndarray, truth: np.ndarray, labels: bool = False, note: str = ""
    ) -> FrameScore:
        """Score one frame.

        Args:
            video: Name of the sequence.
            frame: Name of the frame.
            prediction: (H, W) bool, uint8, or float in [0, 1]; for ``objects=match`` object ids (uint8), or the mask of
                one object.
            truth: (H, W) bool; for ``objects=match`` object ids (uint8).
            labels: Integers in `prediction` are object ids, not levels of a soft map.
            note: Remark to store with the score.

        Raises:
            UserError: Different sizes, or values out of range; the message names the frame.
        """
        try:
            if self.objects == "match":
                return self._score_objects(video, frame, prediction, truth, note)
            if labels:
                prediction = np.asarray(prediction) != 0
            values, histogram = self._values(prediction, np.asarray(truth))
            border = outline(self.foreground(prediction)) if STABILITY in self.measures else None
        except UserError as error:
            raise UserError(f"{video}/{frame}: {error}") from error
        return FrameScore(video, frame, values, not np.any(truth), histogram, note=note, outline=border)

    def _values(self, prediction: np.ndarray, truth: np.ndarray) -> tuple[dict[str, float], np.ndarray | None]:
        values: dict[str, float] = {}
        wanted = set(self.measures)
        if wanted & {*SERIES, "boundary_iou", "precision", "recall"}:
            mask = self.foreground(prediction)
            if wanted >= set(SERIES):
                values["j"], values["f"] = F.jaccard_and_boundary_f(mask, truth, self.tolerance)
            elif "j" in wanted:
                values["j"] = F.jaccard(mask, truth)
            elif "f" in wanted:
                values["f"] = F.boundary_f(mask, truth, self.tolerance)
            if "boundary_iou" in wanted:
                values["boundary_iou"] = F.boundary_iou(mask, truth)
            if wanted & {"precision", "recall"}:
                values["precision"], values["recall"] = F.precision_recall(mask, truth)
        if "weighted_f" in wanted:
            values["weighted_f"] = F.weighted_f(prediction, truth, self.minmax)
        names = [name for name in self.measures if name != STABILITY]  # `reduce` adds it, since it needs the next frame
        if not wanted & {*SALIENCY, *CURVES}:
            return {name: values[name] for name in names}, None
        saliency = Saliency.of(prediction, truth, self.minmax, self.structure)
        values.update({name: getattr(saliency, name) for name in (*SALIENCY, *CURVES) if name in wanted})
        histogram = saliency.curve_histogram if wanted & set(CURVES) else None
        return {name: values[name] for name in names}, histogram

    def _score_objects(
        self, video: str, frame: str, prediction: np.ndarray, truth: np.ndarray, note: str
    ) -> FrameScore:
        prediction, truth = np.asarray(prediction), np.asarray(truth)
        if truth.dtype == np.bool_:
            raise UserError(
                "protocol.objects=match needs ground truth with object ids, but here objects are merged; save the masks"
                " and score them with task=evaluate"
            )
        if np.issubdtype(prediction.dtype, np.floating):
            prediction = self.foreground(prediction)
        if prediction.max(initial=0) > MAX_PROPOSALS:
            raise UserError(
                f"object id {prediction.max()}: at most {MAX_PROPOSALS} objects per sequence are allowed; number them"
                " from 1, and save ids (palette PNG), not grey levels"
            )
        scores = np.stack(F.object_scores(prediction, truth, self.tolerance))
        return FrameScore(video, frame, {}, not np.any(truth), objects=scores, note=note)

    def summarise(self, frames: Iterable[FrameScore], videos: Sequence[Video] | None = None) -> Summary:
        """Average the scores of frames in any order; of duplicate scores of a frame the first counts.

        Args:
            frames: The scores.
            videos: All videos with all frames; None: the scored frames, which are assumed to be complete.

        Raises:
            UserError: A scored frame is in no video, two videos have the same name, or a video has no class although
                the protocol averages over classes.
        """
        by_video: dict[str, dict[str, FrameScore]] = {}
        for score in frames:
            by_video.setdefault(score.video, {}).setdefault(score.frame, score)
        if videos is None:
            results = [self.reduce(name, list(by_video[name].values())) for name in sorted(by_video, key=natural)]
        else:
            check_unique(videos)
            unknown = sorted(set(by_video) - {video.name for video in videos})
            if unknown:
                raise UserError(
                    f"scores of '{unknown[0]}': unknown video; {nearest(unknown[0], [v.name for v in videos])}"
                )
            results = [
                self.reduce(video.name, list(by_video.get(video.name, {}).values()), video.frames, video.category)
                for video in videos
            ]
        return self.combine(results)

    def reduce(
        self,
        video: str,
        scores: Sequence[FrameScore],
        frames: Sequence[Frame] | None = None,
        category: str | None = None,
    ) -> VideoScores:
        """Average the scores of one sequence.

        Args:
            video: Name of the sequence.
            scores: Scores of its frames, in any order, without duplicates.
            frames: All its frames in temporal order; None: the scored frames, in natural order of their names.
            category: Class of the sequence.

        Returns:
            Rows of the sequence (or its objects), and of all its frames.
        """
        by_name = {score.frame: score for score in scores}
        names = [frame.name for frame in frames] if frames else sorted(by_name, key=natural)
        unknown = sorted(set(by_name) - set(names))
        if unknown:
            raise UserError(f"scores of '{video}/{unknown[0]}': unknown frame; {nearest(unknown[0], names)}")
        reasons = {name: self._left_out(name, names, by_name.get(name)) for name in names}
        for frame in frames or ():
            if reasons[frame.name] == "not scored" and getattr(frame, "mask", True) is None:
                reasons[frame.name] = "not annotated"
        if STABILITY in self.measures:
            outlines = [None if reasons[name] else by_name[name].outline for name in names]
            for name, value in zip(names, stability_series(outlines), strict=False):
                if not math.isnan(value):
                    by_name[name] = replace(by_name[name], values={**by_name[name].values, STABILITY: value})
        counted = [by_name[name] for name in names if not reasons[name]]
        if self.objects == "match":
            rows, values = self._match(video, category, counted, [by_name[name] for name in names if name in by_name])
        else:
            rows, values = [self._sequence(video, video, category, counted)], {}
        notes = {name: (score.note, values.get(name, score.values)) for name, score in by_name.items()}
        return rows, [
            FrameRow(video, name, notes[name][1] if name in notes else {}, reasons[name], notes.get(name, ("",))[0])
            for name in names
        ]

    def trimmed(self, name: str, names: Sequence[str]) -> str:
        """Reason why `trim` leaves out a frame of a video with these frame names, or an empty string."""
        if self.trim in ("first", "both") and name == names[0]:
            return "first frame"
        if self.trim in ("last", "both") and name == names[-1]:
            return "last frame"
        return ""

    def _left_out(self, name: str, names: Sequence[str], score: FrameScore | None) -> str:
        """Reason why a frame is left out of the means, or an empty string."""
        if reason := self.trimmed(name, names):
            return reason
        if score is None:
            return "not scored"
        return "empty truth" if self.empty_truth == "skip" and score.empty_truth else ""

    def _sequence(self, name: str, video: str, category: str | None, counted: Sequence[FrameScore]) -> SequenceScore:
        if not counted:
            return SequenceScore(name, video, category, 0, {})
        curves = {
            measure: np.mean([CURVES[measure](s.histogram) for s in counted if s.histogram is not None], axis=0)
            for measure in CURVES
            if measure in self.measures
        }
        values: dict[str, float] = {}
        for measure in self.measures:
            series = np.array([score.values.get(measure, math.nan) for score in counted])
            values[measure] = float(curves[measure].max()) if measure in curves else F.series_mean(series)
            if measure in SERIES:
                values[f"{measure}_recall"] = F.series_recall(series)
                values[f"{measure}_decay"] = F.series_decay(series, self.decay)
        if "j" in values and "f" in values:
            values = {"jf": (values["j"] + values["f"]) / 2, **values}
        return SequenceScore(name, video, category, len(counted), values, curves)

    def _match(
        self, video: str, category: str | None, counted: Sequence[FrameScore], present: Sequence[FrameScore]
    ) -> tuple[list[SequenceScore], dict[str, dict[str, float]]]:
        """Rows of the objects of a video, and the mean over its objects for each counted frame.

        Ids up to the highest id in the first annotated frame are the true objects, as in the official code.
        """
        first = present[0].objects if present else None
        objects = 0 if first is None else first.shape[2] - 1
        if not counted or not objects:
            return [self._sequence(video, video, category, [])], {}
        arrays = [score.objects for score in counted if score.objects is not None]
        proposals = max(objects, max(array.shape[1] for array in arrays) - 1)
        scores = np.stack([_expand(array, proposals, objects) for array in arrays], axis=-1)
        chosen, _ = F.match_objects(scores[0], scores[1])
        rows = []
        for index, proposal in enumerate(chosen):
            series = scores[:, proposal, index]
            frames = [
                FrameScore(video, score.frame, {"j": float(j), "f": float(f)})
                for score, j, f in zip(counted, *series, strict=True)
            ]
            rows.append(self._sequence(f"{video}_{index + 1}", video, category, frames))
        means = scores[:, chosen, np.arange(objects)].mean(axis=1)
        values = {score.frame: {"j": float(j), "f": float(f)} for score, j, f in zip(counted, *means, strict=True)}
        return rows, values

    def combine(self, videos: Iterable[VideoScores]) -> Summary:
        """Average the results of `reduce` over all sequences.

        Raises:
            UserError: A video has no class although the protocol averages over classes.
        """
        videos = list(videos)
        rows = [row for sequences, _ in videos for row in sequences]
        frames = [frame for _, frames in videos for frame in frames]
        scored = [row for row in rows if row.frames]
        notes = []
        if len(scored) < len(rows):
            missing = ", ".join(row.name for row in rows if not row.frames)
            notes.append(f"no frame counted, so not in the mean: {missing}")
        unstable = ", ".join(row.name for row in scored if row.name in self.unstable)
        if STABILITY in self.measures and unstable:
            notes.append(f"not in the mean of T, as protocol.unstable lists them: {unstable}")
        overall = self._mean(scored, weighted=self.average == "frames")
        classes: dict[str, dict[str, float]] = {}
        also: dict[str, dict[str, float]] = {}
        if self.average == "classes":
            without = [row.name for row in scored if row.category is None]
            if without:
                raise UserError(
                    f"protocol.average=classes: video '{without[0]}' has no class;"
                    " use average=sequences for this dataset"
                )
            names = sorted({str(row.category) for row in scored})
            classes = {name: self._mean([row for row in scored if row.category == name]) for name in names}
            also["mean over sequences"] = overall
            overall = {key: F.series_mean(np.array([values[key] for values in classes.values()])) for key in overall}
        return Summary({**asdict(self), "measures": list(self.measures)}, overall, rows, frames, classes, also, notes)

    def _mean(self, rows: Sequence[SequenceScore], weighted: bool = False) -> dict[str, float]:
        """Mean over sequences, or over all their frames."""
        if not rows:
            return {}
        weights = np.array([row.frames for row in rows], np.float64)
        mean = {}
        for key in rows[0].values:
            by_frame = weighted and not key.endswith("_decay")
            values = np.array([row.values[key] for row in rows])
            kept = np.ones(len(rows), bool)
            if key == STABILITY:
                kept = ~np.isnan(values) & [row.name not in self.unstable for row in rows]
            mean[key] = math.nan
            if kept.any():
                mean[key] = float(np.average(values[kept], weights=weights[kept] if by_frame else None))
        if self.curve == "averaged":
            for key in rows[0].curves:
                curves = np.stack([row.curves[key] for row in rows])
                mean[key] = float(np.average(curves, axis=0, weights=weights if weighted else None).max())
        return mean


def check_unique(videos: Sequence[Video]) -> None:
    """Raise `UserError` if two videos have the same name, as scores are identified by name."""
    names = [video.name for video in videos]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(
            f"two videos are called '{twice[0]}': scores are identified by name, so evaluate their datasets separately"
        )


def _expand(scores: np.ndarray, proposals: int, objects: int) -> np.ndarray:
    """Expand scores (2, P + 1, O + 1) of one frame to (2, proposals, objects); absent objects take row or column 0."""
    p, o = (np.arange(1, count + 1) for count in (proposals, objects))
    p, o = (np.where(ids < size, ids, 0) for ids, size in zip((p, o), scores.shape[1:], strict=True))
    return scores[:, p[:, None], o[None, :]]
