import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from retinalib.datasets.table import (
    BOX,
    FaceDataset,
    known_points,
    numbers,
    read_image,
    safe_relative,
    set_aside,
    set_aside_counts,
    to_faces,
    usable,
    with_photos,
)
from retinalib.workspace import PROJECT


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
    assert len(usable(empty.astype(dict.fromkeys(BOX, float)))) == 0 and set_aside_counts(empty) == ""


def test_own_annotations_as_the_data_page_says(tmp_path, picture, monkeypatch):
    code = (PROJECT / "data/README.md").read_text(encoding="utf-8").split("```python")[1].split("```")[0]
    (tmp_path / "data/mine/photos").mkdir(parents=True)
    for name in ("one", "empty"):
        assert cv2.imwrite(str(tmp_path / f"data/mine/photos/{name}.jpg"), picture)
    monkeypatch.chdir(tmp_path)
    values = {}
    exec(code, values)
    assert [len(faces) for _, faces in values["dataset"]] == [1, 0] and values["faces"].landmarks.shape == (1, 5, 2)


def rows(names, boxes):
    table = pd.DataFrame(np.array(boxes, float).reshape(-1, 4), columns=BOX)
    table.insert(0, "image", names)
    table.insert(1, "line", range(1, len(table) + 1))
    table["landmarks"] = [np.zeros((98, 2), np.float32)] * len(table)
    return table


def test_what_is_set_aside_says_why():
    table = rows(list("abcde"), [[0, 0, 9, 9], [0, 0, np.nan, 9], [5, 0, 5, 9], [0, 9, 9, 3], [0, 0, np.inf, 9]])
    more = rows(["a", "f"], [[0, 0, 9, 9], [0, 0, 9, 100_001]]).assign(line=[6, 7])
    kept = usable(pd.concat([table, more], ignore_index=True))
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
    assert len(none) == 0 and len(kept.attrs["set_aside"]) == 6  # the table before stays as it is
    assert set_aside_counts(none).startswith("2 (box that is not finite), 1 (box over 100,000 pixels away), 2 (box of no area)")


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
    kept, gone = with_photos(table, tmp_path, "get it", ["bare.png", "away.png"])
    assert kept["line"].tolist() == [1] and set(gone) == {"text.png", "gone.png", "folder.png", "away.png"}
    assert sorted(kept.attrs["set_aside"]) == [
        (2, "its photo is no image that can be read"),
        (3, "its photo is missing"),
        (4, "its photo is missing"),
        (5, "its box lies outside its photo"),
        (6, "its box lies outside its photo"),
    ]
    assert with_photos(table[:0], tmp_path, "get it")[1] == {}
    with pytest.raises(FileNotFoundError, match=r"none of the 1 photos is below .*: get it"):
        with_photos(rows(["b.png", "b.png"], [box, box]), tmp_path, "get it")


def test_a_photo_that_viewers_turn_is_warned_of(tmp_path, picture):
    for name, orientation in (("plain.jpg", 1), ("turned.jpg", 6)):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(picture).save(tmp_path / name, exif=exif)
    table = rows(["plain.jpg", "turned.jpg", "turned.jpg"], [[20, 5, 29, 9], [20, 5, 29, 9], [5, 22, 9, 29]])
    with pytest.warns(UserWarning, match=r"viewers turn 1 photos .* such as turned\.jpg: .* as they are stored"):
        kept, _ = with_photos(table, tmp_path, "get it")
    assert kept["line"].tolist() == [1, 2]  # the third fits the turned picture only


def test_numbers_are_plain():
    assert numbers(["1", "-2.5", "1e3", "nan"])[:3].tolist() == [1, -2.5, 1000]
    for wrong in ("1_000", "\u0661", "1,5", "0x1", "1j", ""):
        with pytest.raises(ValueError, match=r"digits 0 to 9|could not convert"):
            numbers([wrong])


def test_points_that_are_no_place_are_unknown():
    points = np.random.default_rng(0).uniform(0, 99, (6, 5, 2))
    points[1, 2] = np.nan  # unknown before
    points[2, :2] = np.inf, np.nan
    points[3, 0, 1] = -1e6
    points[4] = 50, 60
    points[5] = np.nan
    found, why = known_points(points)
    assert found.dtype == np.float32 and np.isnan(found).all(-1).sum(1).tolist() == [0, 1, 2, 1, 5, 5]
    assert np.isfinite(found).all(-1).sum(1).tolist() == [5, 4, 3, 4, 0, 0]
    assert why == {
        2: "2 landmarks that are no place are unknown",
        3: "1 landmarks that are no place are unknown",
        4: "its landmarks all lie in one place and are unknown",
    }
    assert known_points(np.zeros((0, 98, 2)))[0].shape == (0, 98, 2)


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


@pytest.mark.parametrize(("brightest", "kind"), [(255, "u1"), (100, "u1"), (4095, ">u2"), (65535, ">u2")])
@pytest.mark.parametrize("magic", [b"P5", b"P6"])
def test_the_brightest_value_of_a_ppm_is_white(tmp_path, magic, brightest, kind):
    """Scientific cameras write 10 or 12 bits so."""
    values = np.array([0, brightest // 2, brightest]).repeat(3 if magic == b"P6" else 1).astype(kind)
    (tmp_path / "a.ppm").write_bytes(magic + b"\n# by a camera\n3 1\n%d\n" % brightest + values.tobytes())
    image = read_image(tmp_path / "a.ppm")
    assert image.shape == (1, 3, 3) and image[0, 0].tolist() == [0] * 3 and image[0, 2].tolist() == [255] * 3
    assert abs(image[0, 1].astype(int) - 127).max() <= 1
    (tmp_path / "a.ppm").write_bytes((tmp_path / "a.ppm").read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"a\.ppm is not an image that can be read"):
        read_image(tmp_path / "a.ppm")
