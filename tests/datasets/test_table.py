import warnings

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from retinalib.datasets import table as module
from retinalib.datasets.table import (
    BOX,
    PHOTO_SUFFIXES,
    FaceDataset,
    known_points,
    numbers,
    read_image,
    safe_relative,
    set_aside,
    usable,
)
from retinalib.evaluate import evaluate_faces, summary
from retinalib.faces import Faces, mean_landmarks_in_box
from retinalib.landmarks import WFLW_98, WIDER_5
from retinalib.workspace import PROJECT

UNKNOWN = np.full((98, 2), np.nan, np.float32)


@pytest.fixture
def picture():
    image = np.zeros((20, 30, 3), np.uint8)
    image[:, :15] = (255, 0, 0)  # red at the left
    return image


def rows(names, boxes, landmarks=None):
    table = pd.DataFrame(np.array(boxes, float).reshape(-1, 4), columns=BOX)
    table.insert(0, "image", names)
    table["landmarks"] = list(landmarks) if landmarks is not None else [UNKNOWN] * len(table)
    return table


# ------------------------------------------------------------------------------------------------------------------- photos


def test_grey_levels_and_16_bits_become_rgb(tmp_path, picture):
    bgr = picture[..., ::-1]
    for name, values in {"grey.png": bgr[..., 2], "deep.png": bgr.astype(np.uint16) * 257}.items():
        (tmp_path / name).write_bytes(cv2.imencode(".png", values)[1].tobytes())
        image = read_image(tmp_path / name)
        assert image.shape == (20, 30, 3) and image.dtype == np.uint8, name
        assert image[0, 0].tolist() == ([255, 255, 255] if name == "grey.png" else [255, 0, 0]), name


def test_the_photo_formats_are_those_that_can_be_read(tmp_path, picture):
    known = {suffix for suffix, kind in Image.registered_extensions().items() if kind in module._FORMATS}
    assert known - {".pfm"} == PHOTO_SUFFIXES  # of PFM, no values are colours
    for suffix in PHOTO_SUFFIXES:
        Image.fromarray(picture).convert({".pbm": "1", ".pgm": "L"}.get(suffix, "RGB")).save(tmp_path / f"photo{suffix}")
        assert read_image(tmp_path / f"photo{suffix}").shape == (20, 30, 3)


@pytest.mark.parametrize(("brightest", "kind"), [(255, "u1"), (100, "u1"), (4095, ">u2"), (65535, ">u2")])
@pytest.mark.parametrize("magic", [b"P5", b"P6"])
def test_the_brightest_value_of_a_ppm_is_white(tmp_path, magic, brightest, kind):
    """Scientific cameras write 10 or 12 bits so."""
    values = np.array([0, brightest // 2, brightest]).repeat(3 if magic == b"P6" else 1).astype(kind)
    (tmp_path / "a.ppm").write_bytes(magic + b"\n# by a camera\n3 1\n%d\n" % brightest + values.tobytes())
    image = read_image(tmp_path / "a.ppm")
    assert image.shape == (1, 3, 3) and image[0, 0].tolist() == [0] * 3 and image[0, 2].tolist() == [255] * 3
    assert abs(image[0, 1].astype(int) - 127).max() <= 1


def test_what_is_no_image_is_named(tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "half.ppm").write_bytes(b"P6\n3 1\n255\n12345678")
    kinds = {"none.jpg": FileNotFoundError, "folder.jpg": IsADirectoryError}
    for name in ("none.jpg", "folder.jpg", "empty.jpg", "text.jpg", "half.ppm"):
        with pytest.raises(kinds.get(name, ValueError), match=name):
            read_image(tmp_path / name)


# -------------------------------------------------------------------------------------------------------------- words of lists


@pytest.mark.parametrize("path", ["../a.jpg", "/a.jpg", "a/../../b.jpg", "C:/a.jpg", "", "..\\a.jpg"])
def test_paths_stay_below_their_folder(path):
    with pytest.raises(ValueError, match="leads out of"):
        safe_relative(path)


def test_numbers_are_plain():
    assert numbers(["1", "-2.5", "1e3", "nan"])[:3].tolist() == [1, -2.5, 1000]
    for wrong in ("1_000", "\u0661", "1,5", "0x1", "1j", ""):
        with pytest.raises(ValueError, match=r"digits 0 to 9|could not convert"):
            numbers([wrong])


# ------------------------------------------------------------------------------------------------------------------- bad data


def test_points_that_are_no_place_are_unknown():
    points = np.random.default_rng(0).uniform(0, 99, (8, 5, 2))
    points[1, 2] = np.nan  # unknown before
    points[2, :2] = np.inf, np.nan
    points[3, 0, 1] = -1e6
    points[4] = 50, 60
    points[5] = np.nan
    points[6, 3:] = -1  # as WIDER FACE's labels write what is unknown
    points[7, 0] = 50, 5000  # of a face of 100 pixels
    found, why = known_points(points, [[0, 0, 100, 100]] * 8)
    assert found.dtype == np.float32 and np.isnan(found).all(-1).sum(1).tolist() == [0, 1, 2, 1, 5, 5, 2, 1]
    assert np.isfinite(found).all(-1).sum(1).tolist() == [5, 4, 3, 4, 0, 0, 3, 4]
    place = "its landmarks all lie in one place and are unknown"
    assert why == {4: place} | {n: f"{k} landmarks that are no place are unknown" for n, k in ((2, 2), (3, 1), (7, 1))}
    assert known_points(np.zeros((0, 98, 2)), np.zeros((0, 4)))[0].shape == (0, 98, 2)


def test_what_is_set_aside_says_why():
    table = rows(list("abcde"), [[0, 0, 9, 9], [0, 0, np.nan, 9], [5, 0, 5, 9], [0, 9, 9, 3], [0, 0, np.inf, 9]])
    more = rows(["a", "f"], [[0, 0, 9, 9], [0, 0, 9, 100_001]])
    kept = usable(pd.concat([table, more], ignore_index=True).assign(line=range(1, 8)), WFLW_98)
    assert kept["image"].tolist() == ["a"] and kept.index.tolist() == [0]
    assert kept.attrs["set_aside"] == [
        (2, "box that is not finite"),
        (5, "box that is not finite"),
        (7, "box over 100,000 pixels away"),
        (3, "box of no area"),
        (4, "box of no area"),
        (6, "the same face again"),
    ]
    none = set_aside(kept, kept["image"] == "a", "its photo is missing")
    assert len(none) == 0 and len(none.attrs["set_aside"]) == 7
    assert len(kept.attrs["set_aside"]) == 6  # the table before stays as it is


@pytest.fixture
def hand_made(tmp_path):
    """Six photos with a face of 60 pixels each, whose landmarks lie on a grid in its box; and the true faces."""
    grid = np.stack(np.meshgrid(np.linspace(22, 78, 14), np.linspace(22, 78, 7)), -1).reshape(98, 2)
    names = [f"{n}.png" for n in range(6)]
    for name in names:
        cv2.imwrite(str(tmp_path / name), np.zeros((100, 100, 3), np.uint8))
    boxes = np.tile([20.0, 20.0, 80.0, 80.0], (6, 1))
    return names, boxes, np.tile(grid, (6, 1, 1)), [Faces(boxes[:1], grid[None])] * 6


@pytest.mark.parametrize("wrong", [-1, np.inf, -np.inf, 1e30, 5000, np.nan])
def test_a_table_made_by_hand_meets_the_same_checks(tmp_path, hand_made, wrong):
    """Nothing of a wrong landmark is learned, measured or averaged: perfect predictions score 0."""
    names, boxes, points, perfect = hand_made
    points[2, 5] = points[3, :40] = wrong
    table = rows(names, boxes, points)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        dataset = FaceDataset(table, tmp_path)
    told = ["no place and count as unknown: 2 (line 2 …)" in str(warning.message) for warning in said]
    assert told == ([] if wrong == -1 or np.isnan(wrong) else [True])  # both of which say that a point is unknown
    faces = [dataset.faces(n) for n in range(6)]
    assert [int(f.visible.sum()) for f in faces] == [98, 98, 97, 58, 98, 98]
    np.testing.assert_allclose(mean_landmarks_in_box(faces), (points[0] - 20) / 60, atol=1e-6)
    assert summary(evaluate_faces(perfect, faces)).loc["all", "mean_nme"] == 0
    assert table["landmarks"][2][5][0] == wrong or np.isnan(wrong)  # the caller's table stays as it was


def test_a_table_of_another_shape_is_refused(tmp_path):
    table = rows(["a.png"], [[0, 0, 9, 9]])
    with pytest.raises(ValueError, match=r"landmarks of shape \(98, 2\), where schema wider5 has \(5, 2\)"):
        FaceDataset(table, tmp_path, WIDER_5)
    with pytest.raises(ValueError, match=r"needs the columns image, x1, y1, x2, y2 and landmarks; \['y2'\] are missing"):
        FaceDataset(table.drop(columns="y2"), tmp_path)


def test_photos_are_looked_at_before_they_are_needed(tmp_path, picture):
    for name in ("good.png", "bare.png"):
        cv2.imwrite(str(tmp_path / name), picture)
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "folder.png").mkdir()
    box = [0, 0, 9, 9]
    table = rows(
        ["good.png", "text.png", "gone.png", "folder.png", "good.png", "good.png"],
        [box, box, box, box, [25, 0, 37, 9], [-9, 0, 5, 9]],  # of a photo of 30 × 20 pixels
    )
    with pytest.warns(UserWarning, match="set aside"):
        dataset = FaceDataset(table, tmp_path, names=[*table["image"], "bare.png", "away.png"])
    assert dataset.names == ["good.png", "bare.png"] and dataset.table["line"].tolist() == [0]
    assert sorted(dataset.table.attrs["set_aside"]) == [
        (0, "its photo is missing"),  # a photo without faces has no line
        (1, "its photo is no image that can be read"),
        (2, "its photo is missing"),
        (3, "its photo is missing"),
        (4, "its box lies outside its photo"),
        (5, "its box lies outside its photo"),
    ]
    with pytest.raises(FileNotFoundError, match=r"none of the 1 photos is below .*: names are paths below that folder"):
        FaceDataset(rows(["b.png", "b.png"], [box, [1, 1, 9, 9]]), tmp_path)


# ------------------------------------------------------------------------------------------------------------------- data sets


def test_photos_group_their_faces(tmp_path, picture):
    for name in ("b.png", "a.png"):
        cv2.imwrite(str(tmp_path / name), picture[..., ::-1])
    points = np.full((98, 2), 5.0, np.float32)
    points[0] = (31, 5)
    points[1] = np.nan
    table = rows(["b.png", "a.png", "b.png"], [[1, 0, 9, 9], [2, 0, 9, 9], [3, 0, 9, 9]], [points] * 3).assign(line=[1, 2, 3])
    dataset = FaceDataset(table, tmp_path)
    assert dataset.names == ["b.png", "a.png"] and len(list(dataset)) == 2 and dataset.sizes.tolist() == [[20, 30]] * 2
    image, faces = dataset[0]
    assert image[0, 0].tolist() == [255, 0, 0] and faces.boxes[:, 0].tolist() == [1, 3]
    assert faces.attributes["line"].tolist() == [1, 3]
    assert faces.visible[0].tolist() == [False, False] + [True] * 96


def test_no_rows():
    empty = pd.DataFrame(columns=["image", "line", *BOX, "landmarks"])
    assert len(FaceDataset(empty, ".")) == 0 and FaceDataset(empty, ".").sizes.shape == (0, 2)
    assert len(usable(empty.astype(dict.fromkeys(BOX, float)), WFLW_98)) == 0


def test_photos_without_faces_stay(tmp_path, picture):
    table = rows(["b.png", "d.png", "b.png"], [[0, 0, 9, 9], [0, 0, 8, 8], [0, 0, 7, 7]])
    names = ["a.png", "b.png", "c.png", "d.png"]
    for name in names:
        cv2.imwrite(str(tmp_path / name), picture)
    dataset = FaceDataset(table, tmp_path, names=names)
    assert dataset.names == names and [len(faces) for _, faces in dataset] == [0, 2, 0, 1]
    assert [r.tolist() for r in dataset.rows] == [[], [0, 2], [], [1]]
    assert dataset.faces(0).landmarks.shape == (0, 98, 2) and dataset[0][0].shape == (20, 30, 3)
    part = dataset.subset(["d.png", "a.png"])
    assert part.names == ["a.png", "d.png"] and part.table["x2"].tolist() == [8] and part.rows[1].tolist() == [0]
    assert len(dataset.subset([])) == 0
    with pytest.raises(ValueError, match=r"names lack 1 photos of the table, such as d\.png"):
        FaceDataset(table, tmp_path, names=["b.png"])
    with pytest.raises(ValueError, match=r"1 of 2 names are no photos of the data set, such as photos/a\.png"):
        dataset.subset(["a.png", "photos/a.png"])


def test_own_annotations_as_the_data_page_says(tmp_path, picture, monkeypatch):
    code = (PROJECT / "data/README.md").read_text(encoding="utf-8").split("```python")[1].split("```")[0]
    (tmp_path / "data/mine/photos").mkdir(parents=True)
    for name in ("one", "empty"):
        assert cv2.imwrite(str(tmp_path / f"data/mine/photos/{name}.jpg"), np.zeros((120, 120, 3), np.uint8))
    monkeypatch.chdir(tmp_path)
    values = {}
    exec(code, values)
    assert [len(faces) for _, faces in values["dataset"]] == [1, 0] and values["faces"].landmarks.shape == (1, 5, 2)
