import numpy as np
import pytest
import torch

from retinalib.anchors import AnchorConfig, anchor_grid, match
from retinalib.evaluate import box_iou
from retinalib.faces import Faces
from retinalib.studies.anchor_coverage import best_iou_by_size, fitted, reach, size_reaching

CONFIG = AnchorConfig()


def boxes(*rows):
    return Faces(rows, np.full((len(rows), 98, 2), np.nan))


def corners(size, config=CONFIG):
    grid = anchor_grid(size, size, config).numpy().astype(float) * size
    return np.concatenate([grid[:, :2] - grid[:, 2:] / 2, grid[:, :2] + grid[:, 2:] / 2], 1)


def test_numbers_of_lone_faces_by_brute_force():
    rng = np.random.default_rng(0)
    for _ in range(20):
        corner, extent = rng.uniform(0, 100, 2), rng.uniform(4, 60, 2)
        face = boxes([*corner, *(corner + extent)])
        row = reach([face], 160, CONFIG).iloc[0]
        overlap = box_iou(face.boxes, corners(160))[0]
        assert row["iou"] == pytest.approx(overlap.max(), abs=1e-5)
        over = int((overlap >= 0.35).sum())
        assert row["positives"] == (over or int(overlap.max() >= 0.2))
        assert row["kind"] == ("matched" if over else "kept" if overlap.max() >= 0.2 else "missed")
        assert row["size"] == pytest.approx(np.sqrt(extent.prod()), rel=1e-5)


def test_one_row_a_face_and_none_for_empty_images():
    table = reach([boxes([10, 10, 40, 40]), Faces.empty(), boxes([0, 0, 3, 3], [50, 50, 114, 114])], 160, CONFIG)
    assert table["image"].tolist() == [0, 2, 2] and table["face"].tolist() == [0, 0, 1]
    assert table["kind"].tolist()[1] == "missed" and table["positives"].tolist()[1] == 0
    assert table["stride"].tolist()[2] == 16
    with pytest.raises(ValueError, match="at least one face"):
        reach([Faces.empty()], 160, CONFIG)


def test_faces_compete_within_an_image():
    face = [48, 48, 80, 80]
    alone = reach([boxes(face)], 160, CONFIG)["positives"].iloc[0]
    shared = reach([boxes(face, [52, 52, 84, 84])], 160, CONFIG)["positives"]
    assert (shared < alone + 1).all() and shared.sum() < 2 * alone


@pytest.mark.parametrize("config", [CONFIG, AnchorConfig((4, 16), ((9, 14, 21), (40, 64, 200)))])
@pytest.mark.parametrize(("threshold", "minimum"), [(0.35, 0.2), (0.6, 0.4)])
def test_many_images_as_training_matches_them_one_by_one(config, threshold, minimum):
    """Crowded images, faces that leave the image, of one place, long and flat."""
    rng = np.random.default_rng(1)
    images = []
    for _ in range(25):
        corner, extent = rng.uniform(-20, 150, (6, 2)), np.exp(rng.uniform(np.log(2), np.log(150), (6, 2)))
        found = np.concatenate([corner, corner + extent], 1).astype(np.float32)
        images.append(boxes(*found, found[0]))
    table = reach(images, 150, config, threshold, minimum)
    expected = []
    for faces in images:
        matched = match(torch.from_numpy(faces.boxes / 150), anchor_grid(150, 150, config), threshold, minimum)
        expected += torch.bincount(matched[matched >= 0], minlength=len(faces)).tolist()
    assert table["positives"].tolist() == expected
    assert set(table["kind"]) == {"matched", "kept", "missed"}
    overlap = np.concatenate([box_iou(faces.boxes, corners(150, config)).max(1) for faces in images])
    np.testing.assert_allclose(table["iou"], overlap, atol=1e-5)


def test_fitting_scales_by_the_longer_side():
    assert fitted(boxes([10, 20, 30, 40]), (100, 400), 200).boxes.tolist() == [[5, 10, 15, 20]]


def test_best_iou_of_a_face_like_an_anchor_is_high_and_of_a_tiny_one_bounded_by_its_area():
    table = best_iou_by_size(np.array([4.0, 128.0, 900.0]), 320, CONFIG, positions=40)
    assert sorted(table["size"].unique()) == [4, 128]  # 900 does not fit
    assert table[table["size"] == 4]["iou"].max() == pytest.approx((4 / 16) ** 2, rel=1e-3)
    # the nearest of the anchors with stride 16 is at most 8 px off each way
    worst = (128 - 8) ** 2 / (2 * 128**2 - (128 - 8) ** 2)
    assert table[table["size"] == 128]["iou"].min() >= worst - 1e-6


def test_the_size_from_which_faces_are_reached():
    curve = best_iou_by_size(np.geomspace(4, 64, 60), 320, CONFIG, positions=40)
    # a square within the smallest anchor, as each of up to 8 px is somewhere: its IoU is the ratio of the areas
    assert size_reaching(curve, 0.2) == pytest.approx(16 * 0.2**0.5, rel=0.01)
    assert size_reaching(curve, 0.2, quantile=1) == pytest.approx(16 * 0.2**0.5, rel=0.01)
    lucky, typical, unlucky = (size_reaching(curve, 0.6, quantile) for quantile in (1, 0.5, 0))
    assert 16 * 0.6**0.5 <= lucky + 0.05 < typical < unlucky
    assert size_reaching(curve, 0.01) == 4 and np.isnan(size_reaching(curve, 1.1))
