import numpy as np
import pandas as pd
import pytest

from retinalib.evaluate import (
    auc,
    cumulative_error,
    detection_ap,
    evaluate_faces,
    failure_rate,
    match_faces,
    matched_landmarks,
    nme,
    point_errors,
    precision_recall,
    resampled_ap,
    summary,
)
from retinalib.faces import Faces
from retinalib.landmarks import WFLW_98, WIDER_5
from tests.shared import IBUG_68, PLATE_4


def scene(rng, faces=3, noise=0.0, missed=(), surplus=0):
    """True faces apart from each other, and predictions of them."""
    corner = np.stack([np.arange(faces) * 100.0, rng.uniform(0, 50, faces)], 1)
    size = rng.uniform(40, 80, (faces, 1))
    landmarks = corner[:, None] + rng.uniform(0, 1, (faces, 98, 2)) * size[:, None]
    boxes = np.concatenate([corner, corner + size], 1)
    true = Faces(boxes, landmarks)
    kept = [i for i in range(faces) if i not in missed]
    moved = landmarks[kept] + rng.normal(0, 1, (len(kept), 98, 2)) * noise
    wrong = np.tile([1000.0, 1000, 1040, 1040], (surplus, 1)) + 100 * np.arange(surplus)[:, None]
    predicted = Faces(
        np.concatenate([boxes[kept], wrong]),
        np.concatenate([moved, np.zeros((surplus, 98, 2))]),
        scores=rng.uniform(0.1, 1, len(kept) + surplus),
    )
    return predicted, true


def test_an_overlap_at_the_threshold_is_a_match():
    whole, half, less = (
        Faces(np.array([box], np.float32), np.zeros((1, 5, 2), np.float32), scores=np.ones(1, np.float32), schema=WIDER_5)
        for box in ([0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 4.9])
    )
    assert match_faces(half, whole).tolist() == [0] and match_faces(less, whole).tolist() == [-1]


def test_nme_by_pupils_and_by_box():
    """By outer canthi, see test_protocols."""
    rng = np.random.default_rng(0)
    true, predicted = rng.uniform(0, 100, (4, 98, 2)), rng.uniform(0, 100, (4, 98, 2))
    expected = nme(predicted, true, normaliser="inter_ocular")
    pupils = [e * np.hypot(*(t[60] - t[72])) / np.hypot(*(t[96] - t[97])) for e, t in zip(expected, true, strict=True)]
    np.testing.assert_allclose(nme(predicted, true, normaliser="inter_pupil"), pupils)
    boxes = np.array([[50, 60, 80, 100.0]] * 4)
    by_box = nme(predicted, true, normaliser="box", boxes=boxes)
    np.testing.assert_allclose(by_box, nme(predicted, true, normaliser=np.full(4, np.sqrt(1200))))


def test_normalisers_of_other_schemas():
    true = np.random.default_rng(0).uniform(0, 100, (2, 68, 2))
    middles = [true[:, list(eye.lids)].mean(1) for eye in (IBUG_68.right_eye, IBUG_68.left_eye)]
    errors = point_errors(true + [3, 4], true, normaliser="inter_pupil", schema=IBUG_68)
    np.testing.assert_allclose(errors[:, 0], 5 / np.linalg.norm(middles[0] - middles[1], axis=-1))
    corners, boxes = true[:, :4], np.array([[0, 0, 10, 10.0]] * 2)
    np.testing.assert_allclose(nme(corners + [3, 4], corners, normaliser="box", schema=PLATE_4, boxes=boxes), 0.5)
    plate = Faces(boxes[:1], corners[:1], scores=np.ones(1), schema=PLATE_4)
    assert evaluate_faces([plate], [plate])["nme"].tolist() == [0]  # by default, of the box
    for name in ("inter_ocular", "inter_pupil"):
        with pytest.raises(ValueError, match=r"no eyes|normaliser must be"):
            nme(corners, corners, normaliser=name, schema=PLATE_4)


def test_unknown_landmarks_and_bad_normalisers():
    true = np.random.default_rng(2).uniform(0, 9, (2, 98, 2))
    predicted = true + 1
    true[0, 5], true[0, 6] = np.nan, np.inf
    errors = point_errors(predicted, true, normaliser=np.array([2.0, 0.0]))
    assert np.isnan(errors[0, 5:7]).all() and np.isnan(errors[1]).all()
    np.testing.assert_allclose(nme(predicted, true, normaliser=np.array([2.0, 0.0])), [np.sqrt(2) / 2, np.nan])
    with pytest.raises(ValueError, match="normaliser must be"):
        nme(predicted, true, normaliser="nose")
    with pytest.raises(ValueError, match="with boxes"):
        nme(predicted, true, normaliser="box")
    with pytest.raises(ValueError, match=r"must both be \(N, L, 2\)"):
        nme(predicted[:1], true, normaliser="inter_ocular")
    with pytest.raises(TypeError):
        nme(predicted, true)
    assert nme(np.zeros((0, 98, 2)), np.zeros((0, 98, 2)), normaliser="inter_ocular").shape == (0,)


def test_failures_and_auc_by_hand():
    errors = np.array([0.0, 0.02, 0.05, 0.0999, 0.1, 0.101, 0.5, np.nan, np.inf])
    assert failure_rate(errors) == pytest.approx(4 / 9) and auc(errors) == pytest.approx((1 + 0.8 + 0.5 + 0.001) / 9)
    curve = cumulative_error(errors, 0.1, 3)
    np.testing.assert_allclose(curve["share"], [1 / 9, 3 / 9, 5 / 9])
    assert np.isnan(auc(np.zeros(0))) and np.isnan(failure_rate(np.zeros(0))) and auc(np.zeros(3)) == pytest.approx(1)
    for bad, threshold in (([0.1], 0.0), ([0.1], np.nan), ([-0.1], 0.1)):
        with pytest.raises(ValueError, match="errors must not be negative, and their threshold be positive"):
            auc(np.array(bad), threshold)


def test_ap_by_hand():
    """Three true faces; detections by score: hit, miss, hit. Interpolated precision is 1 up to 1/3 and 2/3 up to 2/3."""
    box = np.array([[0, 0, 10, 10], [50, 0, 60, 10], [100, 0, 110, 10]], float)
    points = np.zeros((3, 5, 2))
    true = Faces(box, points, schema=WIDER_5)
    found = Faces([[0, 0, 10, 10], [200, 0, 210, 10], [50, 0, 60, 9]], points, scores=np.array([0.9, 0.8, 0.7]), schema=WIDER_5)
    assert detection_ap([found], [true]) == pytest.approx(1 / 3 * 1 + 1 / 3 * 2 / 3)
    np.testing.assert_allclose(precision_recall([found], [true])["recall"], [1 / 3, 1 / 3, 2 / 3, np.nan])
    for scores, ap in (([0.7, 0.9, 0.8], 2 / 3 * 2 / 3), ([0.8, 0.7, 0.9], 2 / 3 * 1)):  # the miss first, then last
        ranked = Faces(found.boxes, points, scores=np.array(scores), schema=WIDER_5)
        assert detection_ap([ranked], [true]) == pytest.approx(ap)
    assert detection_ap([true], [true]) == 1 and detection_ap([Faces.empty(WIDER_5)], [true]) == 0
    assert np.isnan(detection_ap([found], [Faces.empty(WIDER_5)])) and np.isnan(detection_ap([], []))
    low = Faces(box * [1, 1, 1, 0.8], points, schema=WIDER_5)  # an IoU of 0.8 with each
    assert detection_ap([low], [true], 0.75) == 1 and detection_ap([low], [true], 0.85) == 0


def test_a_second_detection_of_a_face_is_a_mistake():
    true = Faces([[0, 0, 10, 10]], np.zeros((1, 5, 2)), schema=WIDER_5)
    twice = Faces([[0, 0, 10, 10], [0, 0, 10, 9]], np.zeros((2, 5, 2)), scores=np.array([0.5, 0.9]), schema=WIDER_5)
    assert match_faces(twice, true).tolist() == [1]
    assert precision_recall([twice], [true])["precision"].tolist() == [1.0, 0.5]
    assert precision_recall([twice], [true])["recall"].tolist() == [1.0, 1.0]


def test_detections_know_their_photo_and_missed_faces():
    rng = np.random.default_rng(5)
    predicted, true = zip(scene(rng, missed=(1,), surplus=2), scene(rng, missed=(0, 1, 2)), scene(rng), strict=True)
    table = precision_recall(predicted, true, ["a.jpg", "b.jpg", "c.jpg"])
    counts = table.groupby("image")
    assert counts["hit"].sum().to_dict() == {"a.jpg": 2, "b.jpg": 0, "c.jpg": 3}
    assert counts["score"].apply(lambda s: s.isna().sum()).to_dict() == {"a.jpg": 1, "b.jpg": 3, "c.jpg": 0}
    assert not table[table["score"].isna()]["hit"].any() and table["recall"].max() == pytest.approx(5 / 9)
    assert len(precision_recall([], [])) == 0 and list(precision_recall([], [])) == list(table)


def test_ap_of_drawn_photos_is_that_of_the_photos_repeated():
    rng = np.random.default_rng(6)
    photos = [scene(rng, missed=[k] if k < 2 else (), surplus=int(rng.integers(0, 4))) for k in range(5)] + [scene(rng, 0)]
    predicted, true = zip(*photos, strict=True)
    names = [f"{k}.jpg" for k in range(6)]
    table = precision_recall(predicted, true, names)
    weights = np.array([[1, 1, 1, 1, 1, 1], [0, 3, 1, 0, 2, 0], [5, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 6]])
    expected = []
    for row in weights:
        drawn = np.repeat(np.arange(6), row)
        expected.append(detection_ap([predicted[k] for k in drawn], [true[k] for k in drawn]))
    np.testing.assert_allclose(resampled_ap(table, pd.Index(names), weights), expected)
    assert np.isnan(expected[-1]) and 0 < expected[1] < 1


def test_end_to_end_rows_and_misses():
    rng = np.random.default_rng(3)
    predicted, true = zip(scene(rng, noise=0.5, missed=(1,), surplus=2), scene(rng), strict=True)
    table = evaluate_faces(predicted, true, ["a.jpg", "b.jpg"])
    assert len(table) == 6 and table["matched"].tolist() == [True, False, True, True, True, True]
    assert table["nme"].isna().tolist() == [False, True, False, False, False, False]
    assert table.loc[table["image"] == "b.jpg", "nme"].max() < 1e-6
    hit = table[table["matched"]].iloc[0]
    expected = nme(predicted[0].landmarks[:1], true[0].landmarks[:1], normaliser="inter_ocular")[0]
    assert hit["nme"] == pytest.approx(expected, rel=1e-4)
    parts = sum(hit[f"nme_{name.replace(' ', '_')}"] * len(points) for name, points in WFLW_98.regions.items())
    assert parts / 98 == pytest.approx(hit["nme"])
    row = summary(table).iloc[0]
    assert row["faces"] == 6 and row["recall"] == pytest.approx(5 / 6)
    assert row["failure_rate"] >= 1 / 6 and summary(table, "image").loc["b.jpg", "auc"] == pytest.approx(1)
    photo, face, ours, theirs = matched_landmarks(predicted, true)
    assert photo.tolist() == [0, 0, 1, 1, 1] and face.tolist() == [0, 2, 0, 1, 2]
    np.testing.assert_allclose(nme(ours, theirs, normaliser="inter_ocular"), table["nme"].dropna(), rtol=1e-5)


def test_faces_without_landmarks_are_detected_but_not_scored():
    predicted, true = scene(np.random.default_rng(4))
    true.landmarks[1] = np.nan
    assert len(evaluate_faces([predicted], [true])) == 2
    assert len(evaluate_faces([Faces.empty()], [Faces.empty()])) == 0


def test_no_photos_give_an_empty_table_that_can_be_summed_up():
    table, some = evaluate_faces([], [], []), evaluate_faces(*([f] for f in scene(np.random.default_rng(7))))
    assert len(table) == 0 and list(table) == list(some) and table["matched"].dtype == bool
    row = summary(table).iloc[0]
    assert row["faces"] == 0 and row.drop("faces").isna().all() and list(row.index) == list(summary(some))
    for by in ("image", ["image", "face"]):
        groups, like = summary(table, by), summary(some, by)
        assert len(groups) == 0 and list(groups) == list(like) and groups.index.names == like.index.names
    assert [len(part) for part in matched_landmarks([], [])] == [0, 0, 0, 0]
    with pytest.raises(ValueError, match="zip"):
        evaluate_faces([], [Faces.empty()])
