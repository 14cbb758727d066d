import cv2
import numpy as np
import pandas as pd
import pytest

from retinalib.datasets.describe import describe_faces
from retinalib.datasets.table import FaceDataset


@pytest.fixture
def dataset(tmp_path):
    """Two photos; the first with a plain face, one with odd points, its twin, and one without landmarks."""
    for name, (height, width) in {"a.png": (120, 200), "b.png": (50, 80)}.items():
        assert cv2.imwrite(str(tmp_path / name), np.zeros((height, width, 3), np.uint8))
    plain = np.stack(np.meshgrid(np.linspace(12, 38, 14), np.linspace(12, 38, 7)), -1).reshape(98, 2).astype(np.float32)
    odd = plain + np.float32(40)
    odd[3] = odd[4]  # two points in one place
    odd[5] = 250, 60  # outside of photo and box
    odd[6] = 91.5, 60  # outside the box
    odd[7] = np.nan
    twin = odd + np.float32(0.25)
    rows = [
        ("a.png", 10, 40, plain),
        ("a.png", 50, 90, odd),
        ("a.png", 50, 90, twin),
        ("b.png", 10, 40, np.full((98, 2), np.nan)),
    ]
    table = pd.DataFrame({"image": [r[0] for r in rows], "line": range(1, 5)})
    for column, index in (("x1", 1), ("y1", 1), ("x2", 2), ("y2", 2)):
        table[column] = [float(r[index]) for r in rows]
    table["landmarks"] = [r[3] for r in rows]
    return FaceDataset(table, tmp_path)


def test_a_row_a_face(dataset):
    table = describe_faces(dataset)
    assert table["photo"].tolist() == [0, 0, 0, 1] and table["faces"].tolist() == [3, 3, 3, 1]
    assert table["labelled"].tolist() == [True, True, True, False]
    assert table["outside_photo"].tolist() == [0, 1, 1, 0]
    assert table["outside_box"].tolist() == [0, 2, 2, 0]
    assert table["repeated"].tolist() == [0, 2, 2, 0]
    assert table["twin"].tolist() == [False, True, True, False]
    assert table["size"].tolist() == [30, 40, 40, 30]
    assert table["share"].iloc[3] == pytest.approx(30 / np.sqrt(4000))


def test_photos_without_faces_have_no_row(dataset):
    names = ["none.png", *dataset.names]
    assert cv2.imwrite(str(dataset.images_root / "none.png"), np.zeros((9, 9, 3), np.uint8))
    table = describe_faces(FaceDataset(dataset.table, dataset.images_root, names=names))
    assert table["photo"].tolist() == [1, 1, 1, 2] and table["photo"].dtype == int
    alone = describe_faces(FaceDataset(dataset.table.iloc[:0], dataset.images_root, names=["none.png"]))
    assert len(alone) == 0 and list(alone) == list(table)


def test_rows_are_those_of_the_table(dataset):
    """Also where the faces of a photo do not stand together in the list."""
    table = dataset.table.iloc[[3, 1, 0, 2]].iloc[[1, 0, 2, 3]].reset_index(drop=True)
    shuffled = describe_faces(FaceDataset(table, dataset.images_root))
    assert shuffled["photo"].tolist() == [0, 1, 0, 0]
    assert shuffled["face"].tolist() == [0, 0, 1, 2]
    assert shuffled["repeated"].tolist() == [2, 0, 0, 2]
    assert np.allclose(shuffled["width"], table["x2"] - table["x1"])
