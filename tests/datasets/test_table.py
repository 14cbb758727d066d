import cv2
import numpy as np
import pandas as pd
import pytest

from retinalib.datasets.table import FaceDataset, read_image, safe_relative, to_faces


@pytest.fixture
def picture():
    image = np.zeros((20, 30, 3), np.uint8)
    image[:, :15] = (255, 0, 0)  # red at the left
    return image


def test_every_kind_of_file_becomes_rgb(tmp_path, picture):
    bgr = picture[..., ::-1]
    kinds = {
        "plain.png": bgr,
        "grey.png": bgr[..., 2],
        "alpha.png": np.dstack([bgr, np.full((20, 30), 9, np.uint8)]),
        "deep.png": bgr.astype(np.uint16) * 257,
        "ünï code.png": bgr,
    }
    for name, values in kinds.items():
        (tmp_path / name).write_bytes(cv2.imencode(".png", values)[1].tobytes())
        image = read_image(tmp_path / name)
        assert image.shape == (20, 30, 3) and image.dtype == np.uint8, name
        assert image[0, 0].tolist() == ([255, 255, 255] if name == "grey.png" else [255, 0, 0]), name


def test_exif_turns_only_where_asked(tmp_path, picture):
    coded = cv2.imencode(".jpg", picture[..., ::-1])[1].tobytes()
    tiff = b"MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00\x00\x00\x00\x00"
    body = b"Exif\x00\x00" + tiff
    turned = coded[:2] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + coded[2:]
    (tmp_path / "turned.jpg").write_bytes(turned)
    assert read_image(tmp_path / "turned.jpg").shape == (20, 30, 3)  # as annotated
    assert read_image(tmp_path / "turned.jpg", honour_exif=True).shape == (30, 20, 3)  # as viewers show it


def test_what_is_no_image_is_named(tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("no picture")
    for name, error in (
        ("none.jpg", FileNotFoundError),
        ("folder.jpg", IsADirectoryError),
        ("empty.jpg", ValueError),
        ("text.jpg", ValueError),
    ):
        with pytest.raises(error, match=name):
            read_image(tmp_path / name)


@pytest.mark.parametrize("path", ["../a.jpg", "/a.jpg", "a/../../b.jpg", "C:/a.jpg", "", "..\\a.jpg"])
def test_paths_stay_below_their_folder(path):
    with pytest.raises(ValueError, match="leads out of"):
        safe_relative(path)


def test_photos_group_their_faces(tmp_path, picture):
    for name in ("b.png", "a.png"):
        cv2.imwrite(str(tmp_path / name), picture[..., ::-1])
    points = np.full((98, 2), 5.0, np.float32)
    points[0] = (31, 5)
    points[1] = np.nan
    table = pd.DataFrame(
        {"image": ["b.png", "a.png", "b.png"], "line": [1, 2, 3], "x1": [1.0, 2, 3], "y1": 0.0, "x2": 9.0, "y2": 9.0}
    )
    table["landmarks"] = [points] * 3
    dataset = FaceDataset(table, tmp_path)
    assert dataset.names == ["b.png", "a.png"] and len(dataset) == 2
    image, faces = dataset[0]
    assert (
        image[0, 0].tolist() == [255, 0, 0]
        and faces.boxes[:, 0].tolist() == [1, 3]
        and faces.attributes["line"].tolist() == [1, 3]
    )
    assert faces.visible[0].tolist() == [False, False] + [True] * 96
    assert len(list(dataset)) == 2


def test_no_rows():
    columns = ["image", "line", "x1", "y1", "x2", "y2", "landmarks"]
    empty = pd.DataFrame(columns=columns)
    assert len(FaceDataset(empty, ".")) == 0 and len(to_faces(empty)) == 0
