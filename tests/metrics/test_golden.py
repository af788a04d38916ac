"""Golden values of the official evaluation codes on masks derived from real annotations."""

from __future__ import annotations

import csv
import subprocess
import sys

import numpy as np
import pytest

from maskvos.data.datasets.davis import davis
from maskvos.metrics import Protocol, evaluate_folder
from maskvos.metrics.reading import read_prediction, read_truth
from maskvos.metrics.saliency import Saliency
from maskvos.metrics.weighted_f import weighted_f
from maskvos.types import MaskRule

pytestmark = pytest.mark.shared

FEW = ("libby",)
ALL = ("blackswan", "bmx-trees", "car-roundabout", "cows", "dance-twirl", "dog", "drift-straight", "kite-surf", "libby")
ALL += ("parkour",)
EVALUATORS = {
    "davis2016_official": {"trim": "both", "decay": "davis2016"},
    "davis2017_official_inner_frames": {"trim": "both", "decay": "davis2017"},
    "davis2017_official_all_frames": {"trim": "none", "decay": "davis2017"},
}


def make(shared, folder, families, sequences):
    command = [sys.executable, shared / "golden/make_predictions.py", "--davis", shared / "data/DAVIS", "--out", folder]
    command += ["--families", ",".join(families), "--seqs", ",".join(sequences)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder


@pytest.fixture(scope="session")
def few(shared, tmp_path_factory):
    """Predictions of one sequence in two families."""
    return make(shared, tmp_path_factory.mktemp("few"), ("noisy", "soft"), FEW)


@pytest.fixture(scope="session")
def every(shared, tmp_path_factory):
    """All predictions that have golden values."""
    families = ("shift", "erode", "prev", "noisy", "empty", "soft")
    return make(shared, tmp_path_factory.mktemp("every"), families, ALL)


def read(shared, name):
    return list(csv.DictReader((shared / "golden" / name).open()))


def check_j_and_f(shared, predictions, family, sequences):
    """Frames must be bit-equal, sequences equal to 1e-9."""
    videos = davis(shared / "data/DAVIS", "val", sequences=sequences)
    folder, _, level = family.partition(">")
    # Binary masks are the same at any threshold, as 255 exceeds all of them.
    threshold = f"above_{level or 127}"
    golden = {
        (row["sequence"], row["frame"]): (float(row["J"]), float(row["F"]))
        for row in read(shared, "jf_frames.csv")
        if row["family"] == family and row["sequence"] in sequences
    }
    checked = 0
    for evaluator, options in EVALUATORS.items():
        protocol = Protocol(evaluator, threshold=threshold, **options)
        summary = evaluate_folder(predictions / folder, videos, protocol, workers=2, progress=False)
        assert {(row.video, row.frame): (row.values["j"], row.values["f"]) for row in summary.frames} == golden
        ours = {row.name: row.values for row in summary.sequences}
        for row in read(shared, "jf_sequences.csv"):
            if (row["evaluator"], row["family"]) == (evaluator, family) and row["sequence"] in sequences:
                for m in "JF":
                    for statistic, key in (("mean", ""), ("recall", "_recall"), ("decay", "_decay")):
                        value = ours[row["sequence"]][m.lower() + key]
                        assert value == pytest.approx(float(row[f"{m}_{statistic}"]), abs=1e-9, rel=0), row
                        checked += 1
    assert checked


def check_statistics_of_2016(shared, predictions, family, sequences):
    """Rows without an evaluator: mean over all frames, recall and decay without the first and last."""
    videos = davis(shared / "data/DAVIS", "val", sequences=sequences)
    folder, _, level = family.partition(">")
    scores = [
        {
            row.name: row.values
            for row in evaluate_folder(predictions / folder, videos, protocol, progress=False).sequences
        }
        for protocol in (Protocol("p", threshold=f"above_{level or 127}", trim=trim) for trim in ("none", "both"))
    ]
    for row in read(shared, "jf_sequences.csv"):
        if (row["evaluator"], row["family"]) == ("", family) and row["sequence"] in sequences:
            every, inner = (values[row["sequence"]] for values in scores)
            for m in "jf":
                ours = every[m], inner[f"{m}_recall"], inner[f"{m}_decay"]
                golden = [float(row[f"{m.upper()}_{statistic}"]) for statistic in ("mean", "recall", "decay")]
                assert ours == pytest.approx(golden, abs=1e-9, rel=0), row


@pytest.mark.parametrize("family", ["noisy", "soft>127"])
def test_j_and_f_of_one_sequence(shared, few, family):
    check_j_and_f(shared, few, family, FEW)
    check_statistics_of_2016(shared, few, family, FEW)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["shift", "erode", "prev", "noisy", "empty", "soft>0", "soft>127", "soft>128"])
def test_j_and_f_of_all(shared, every, family):
    check_j_and_f(shared, every, family, ALL)
    check_statistics_of_2016(shared, every, family, ALL)


def check_saliency(shared, predictions, sequences):
    videos = davis(shared / "data/DAVIS", "val", sequences=sequences)
    checked = 0
    for evaluator, options in (
        ("original_project", {"structure": "torch"}),
        ("pysodmetrics_normalize_False", {}),
        ("pysodmetrics_normalize_True", {"minmax": True}),
    ):
        for aggregate, trim in (("inner frames", "both"), ("all frames", "none")):
            rows = [
                row
                for row in read(shared, "vsod_sequences.csv")
                if (row["evaluator"], row["aggregate"]) == (evaluator, aggregate) and row["sequence"] in sequences
            ]
            if not rows:
                continue
            protocol = Protocol("vsod", ("mae", "max_f", "max_e", "s"), trim=trim, **options)
            summary = evaluate_folder(predictions / "soft", videos, protocol, workers=2, progress=False)
            ours = {row.name: row.values for row in summary.sequences}
            for row in rows:
                for name, key in (("MAE", "mae"), ("max_F", "max_f"), ("max_E", "max_e"), ("S", "s")):
                    # pysodmetrics' golden values have nine digits; the original project computes in float32.
                    digits = 1e-6 if evaluator == "original_project" else 1e-9
                    value = ours[row["sequence"]][key]
                    assert value == pytest.approx(float(row[name]), abs=digits, rel=0), (row, name)
                    checked += 1
    assert checked == 5 * 4 * len(sequences)


def test_saliency_of_one_sequence(shared, few):
    check_saliency(shared, few, FEW)


@pytest.mark.slow
def test_saliency_of_all(shared, every):
    check_saliency(shared, every, ALL)


@pytest.mark.parametrize("minmax", [False, True])
def test_real_maps_equal_pysodmetrics(shared, few, minmax):
    package = pytest.importorskip("py_sod_metrics")
    for frame in ("00010", "00040"):
        levels = read_prediction(few / "soft/libby" / f"{frame}.png").values
        truth = read_truth(shared / "data/DAVIS/Annotations/480p/libby" / f"{frame}.png", MaskRule()) > 0
        ours = Saliency.of(levels, truth, minmax)
        step = (levels, truth * np.uint8(255)) if minmax else (levels / 255, truth)
        theirs = {}
        for name in ("MAE", "Fmeasure", "Emeasure", "Smeasure", "WeightedFmeasure"):
            measure = getattr(package, name)()
            measure.step(*step, normalize=minmax)
            theirs.update(measure.get_results())
        pairs = [
            (ours.mae, theirs["mae"]),
            (ours.s, theirs["sm"]),
            (ours.adaptive_f, theirs["fm"]["adp"]),
            (ours.adaptive_e, theirs["em"]["adp"]),
            (ours.f_curve[::-1], theirs["fm"]["curve"]),
            (ours.e_curve[::-1], theirs["em"]["curve"]),
            (weighted_f(levels, truth, minmax), theirs["wfm"]),
        ]
        for mine, other in pairs:
            np.testing.assert_allclose(mine, other, rtol=0, atol=1e-9)


def check_stability(shared, predictions, rows):
    """Ties between matchings are broken otherwise than by the official code, so values differ by up to 5e-5 of them."""
    for row in rows:
        videos = davis(shared / "data/DAVIS", "val", sequences=(row["sequence"],))
        folder = shared / "data/DAVIS/Annotations/480p" if row["family"] == "gt" else predictions / row["family"]
        protocol = Protocol("davis2016", ("t",), trim="both", threshold="above_0")
        # The folder of annotations holds other sequences, too.
        (sequence,) = evaluate_folder(folder, videos, protocol, missing="skip", progress=False).sequences
        assert sequence.values["t"] == pytest.approx(float(row["T_mean"]), rel=1e-4, abs=0), row


def test_stability_of_one_sequence(shared):
    rows = [
        row for row in read(shared, "t_sequences.csv") if (row["family"], row["sequence"]) == ("gt", "drift-straight")
    ]
    check_stability(shared, None, rows)


@pytest.mark.slow
def test_stability_of_all(shared, every):
    rows = read(shared, "t_sequences.csv")
    assert len(rows) == 27
    check_stability(shared, every, rows)
