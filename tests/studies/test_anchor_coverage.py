import numpy as np
import pytest

from retinalib.anchors import AnchorConfig, anchor_grid
from retinalib.faces import Faces, box_iou
from retinalib.studies.anchor_coverage import anchor_boxes, coverage

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
