import shutil

import numpy as np
import pytest

from retinalib.datasets import london
from retinalib.landmarks import WFLW_98
from retinalib.pupils import openness

EYES = (WFLW_98.right_eye, WFLW_98.left_eye)


@pytest.fixture(scope="module")
def photos():
    return london.load()


def test_every_photo_has_one_face_with_two_marked_eyes(photos):
    assert len(photos) == len(photos.table) == 102 and photos.complete and not photos.table.attrs["set_aside"]
    points, boxes = np.stack(photos.table["landmarks"]), photos.table[["x1", "y1", "x2", "y2"]].to_numpy()
    marked = sorted({i for eye in EYES for i in (*eye.lids, eye.pupil)})
    assert np.flatnonzero(np.isfinite(points).any((0, 2))).tolist() == marked
    assert ((points[:, marked] > boxes[:, None, :2]) & (points[:, marked] < boxes[:, None, 2:])).all()
    assert (boxes > 0).all() and (boxes < 640).all() and (photos.sizes == 640).all()
    image, faces = photos[0]
    assert image.shape == (640, 640, 3) and len(faces) == 1 and faces.visible.sum() == len(marked)


def test_eyes_are_in_order(photos):
    """Right and left are the person's own; from the outer to the inner canthus, the upper lid above the lower one."""
    points = np.stack(photos.table["landmarks"]).astype(float)
    for eye, to_inner, side in zip(EYES, (1, -1), ("right", "left"), strict=True):
        for row in ((eye.outer, *eye.upper, eye.inner), (eye.outer, *eye.lower, eye.inner), (eye.outer, eye.pupil, eye.inner)):
            assert (np.diff(points[:, list(row), 0] * to_inner, axis=1) > 0).all()
        assert (points[:, list(eye.upper), 1] < points[:, list(eye.lower), 1]).all()
        assert ((openness(points, eye) > 0.15) & (openness(points, eye) < 0.6)).all()
        width = np.linalg.norm(points[:, eye.outer] - points[:, eye.inner], axis=1)
        assert ((photos.table[f"iris_diameter_{side}"] / width).between(0.35, 0.6)).all()
    assert (points[:, EYES[0].pupil, 0] < points[:, EYES[1].pupil, 0] - 60).all()


def test_the_licence_comes_along_and_a_missing_list_is_named(tmp_path):
    text = (london.PHOTOS / "README.md").read_text(encoding="utf-8")
    assert "CC BY 4.0" in text and "10.6084/m9.figshare.5047666.v5" in text and "DeBruine" in text
    with pytest.raises(FileNotFoundError, match=r"no eyes\.csv in .*: the open photographs lie in data/photos/"):
        london.load(tmp_path)
    shutil.copy(london.PHOTOS / "eyes.csv", tmp_path)
    with pytest.raises(FileNotFoundError, match="none of the 102 photos is below"):
        london.load(tmp_path)
