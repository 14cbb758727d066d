import numpy as np
import pytest

from retinalib.anchors import AnchorConfig, anchor_grid
from retinalib.faces import Faces, box_iou
from retinalib.studies.anchor_coverage import anchor_boxes, best_iou_by_size, coverage, fitted, size_from_iou

CONFIG = AnchorConfig()


def boxes(*rows):
    return Faces(rows, np.full((len(rows), 98, 2), np.nan))


@pytest.mark.parametrize("config", [CONFIG, AnchorConfig((4, 16), ((9, 14, 21), (40, 64, 200)))])
def test_numbers_of_lone_faces_by_brute_force(config):
    """Faces beyond the image among them, and images without one."""
    rng = np.random.default_rng(0)
    grid = anchor_grid(160, 160, config).numpy().astype(float) * 160
    corners = np.concatenate([grid[:, :2] - grid[:, 2:] / 2, grid[:, :2] + grid[:, 2:] / 2], 1)
    np.testing.assert_allclose(anchor_boxes(160, config)[0], corners, atol=1e-4)
    spots = [(rng.uniform(-20, 120, 2), rng.uniform(2, 60, 2)) for _ in range(20)]
    faces = [boxes([*corner, *(corner + extent)]) for corner, extent in spots]
    table = coverage([*faces, Faces.empty()], 160, config)
    assert table["image"].tolist() == list(range(20)) and set(table["kind"]) == {"matched", "kept", "missed"}
    with pytest.raises(ValueError, match="at least one face"):
        coverage([Faces.empty()], 160, config)
    for face, (_, extent), (_, row) in zip(faces, spots, table.iterrows(), strict=True):
        overlap = box_iou(face.boxes, corners)[0]
        assert row["iou"] == pytest.approx(overlap.max(), abs=1e-5)
        over = int((overlap >= 0.35).sum())
        assert row["positives"] == (over or int(overlap.max() >= 0.2))
        assert row["kind"] == ("matched" if over else "kept" if overlap.max() >= 0.2 else "missed")
        assert row["size"] == pytest.approx(np.sqrt(extent.prod()), rel=1e-5)


def test_faces_compete_within_an_image():
    face = [48, 48, 80, 80]
    alone = coverage([boxes(face)], 160, CONFIG)["positives"].iloc[0]
    shared = coverage([boxes(face, [52, 52, 84, 84])], 160, CONFIG)["positives"]
    assert (shared < alone + 1).all() and shared.sum() < 2 * alone


def test_fitting_scales_by_the_longer_side():
    assert fitted(boxes([10, 20, 30, 40]), (100, 400), 200).boxes.tolist() == [[5, 10, 15, 20]]


def test_best_iou_of_a_face_like_an_anchor_is_high_and_of_a_tiny_one_bounded_by_its_area():
    table = best_iou_by_size(np.array([4.0, 128.0, 900.0]), 320, CONFIG)
    assert sorted(table["size"].unique()) == [4, 128]  # 900 does not fit
    assert table[table["size"] == 4]["iou"].max() == pytest.approx((4 / 16) ** 2, rel=1e-3)
    # the nearest of the anchors with stride 16 is at most 8 px off each way
    worst = (128 - 8) ** 2 / (2 * 128**2 - (128 - 8) ** 2)
    assert table[table["size"] == 128]["iou"].min() >= worst - 1e-6


def test_the_size_from_which_faces_are_reached():
    curve = best_iou_by_size(np.geomspace(4, 64, 60), 320, CONFIG)
    # a square within the smallest anchor, as each of up to 8 px is somewhere: its IoU is the ratio of the areas
    assert size_from_iou(curve, 0.2) == pytest.approx(16 * 0.2**0.5, rel=0.01)
    assert size_from_iou(curve, 0.2, quantile=1) == pytest.approx(16 * 0.2**0.5, rel=0.01)
    lucky, typical, unlucky = (size_from_iou(curve, 0.6, quantile) for quantile in (1, 0.5, 0))
    assert 16 * 0.6**0.5 <= lucky + 0.05 < typical < unlucky
    assert size_from_iou(curve, 0.01) == 4 and np.isnan(size_from_iou(curve, 1.1))
