import numpy as np
import pandas as pd
import pytest
from scipy.integrate import simpson

from retinalib import rendered
from retinalib.ablation import measure
from retinalib.datasets import wflw
from retinalib.datasets.table import ATTRIBUTES
from retinalib.detect import load_detector
from retinalib.evaluate import auc, failure_rate, nme
from retinalib.studies.protocols import by_subset, end_to_end, in_given_boxes
from retinalib.workspace import PROJECT
from tests.shared import SHARED, needs_shared


def hrnet_nme(predicted, true):
    """As the evaluation of HRNet-Facial-Landmark-Detection defines it, face by face."""
    return np.array(
        [
            np.sum(np.linalg.norm(p - t, axis=1)) / (np.linalg.norm(t[60] - t[72]) * len(t))
            for p, t in zip(predicted, true, strict=True)
        ]
    )


def pipnet_failure_and_auc(errors, threshold=0.1, step=0.0001):
    """As PIPNet's evaluation defines them: Simpson's rule under the sampled cumulative curve."""
    levels = np.arange(0, threshold + step, step)
    shares = np.array([np.mean(errors <= level) for level in levels])
    return 1 - shares[-1], simpson(shares, x=levels) / threshold


def test_measures_are_those_of_public_evaluations():
    rng = np.random.default_rng(0)
    true = rng.uniform(0, 200, (2500, 98, 2))
    predicted = true + rng.normal(0, 1, true.shape) * rng.lognormal(1.6, 0.6, (2500, 1, 1))
    errors = nme(predicted, true, normaliser="inter_ocular")
    np.testing.assert_allclose(errors, hrnet_nme(predicted, true))
    failures, area = pipnet_failure_and_auc(errors)
    assert 0.1 < failures < 0.9 and failure_rate(errors) == pytest.approx(failures)
    assert auc(errors) == pytest.approx(area, abs=2e-4)  # theirs goes in steps of 0.0001


def test_subsets_by_hand():
    rows = pd.DataFrame({"matched": True, "size": 50.0, "nme": [0.02, 0.04, 0.2], **dict.fromkeys(ATTRIBUTES, False)})
    rows.loc[1:, "pose"] = True
    table, published = by_subset(rows), pd.read_csv(PROJECT / "data/ablation/published.csv", index_col="network")
    assert list(table.index) == ["test", "pose"] and set(table.index) <= {"test", *ATTRIBUTES} == set(published)
    assert table.loc["pose"].tolist() == pytest.approx([2, 0.12, 0.5, 0.3])
    assert by_subset(rows[:0])["faces"].tolist() == [0]


def test_end_to_end_is_the_ablations_measure_with_intervals(tmp_path):
    dataset = rendered.load(rendered.make(tmp_path / "faces", 20, seed=5), "train")
    faces, detections, numbers = measure(load_detector("rendered98", "cpu"), dataset)
    table = end_to_end(faces, detections, dataset.names)
    assert table.loc["AP", "value"] == pytest.approx(numbers["ap"])
    assert table.loc["found", "value"] == pytest.approx(faces["matched"].mean())
    assert table.loc["median NME", "value"] == pytest.approx(faces["nme"].median())
    assert (table["low"] <= table["value"]).all() and (table["value"] <= table["high"]).all()
    assert table.loc["median NME", "low"] < table.loc["median NME", "high"]
    assert "AP" not in end_to_end(faces, detections[:0], dataset.names).index  # labelled in part


@needs_shared
def test_real_test_faces_in_given_boxes():
    """No face is missed, and the second look helps."""
    dataset = wflw.load(SHARED / "real_faces", "test")
    dataset = dataset.subset(dataset.names[::4])
    detector = load_detector("photos98", "cpu")
    table, first = (by_subset(in_given_boxes(detector, dataset, looks)).loc["test"] for looks in (True, False))
    assert table["faces"] == sum(len(dataset.faces(number)) for number in range(len(dataset)))
    assert table["mean_nme"] < 0.1 and table["mean_nme"] < 0.85 * first["mean_nme"]
