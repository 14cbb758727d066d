import warnings

import cv2
import numpy as np
import pytest

from retinalib.datasets import wider
from tests.shared import SHARED, needs_shared

BOXES = """0--A/one.jpg
2
10 20 30 40 0 0 0 0 0 0
50 60 7 8 1 0 0 0 2 0
0--A/none.jpg
0
0 0 0 0 0 0 0 0 0 0
1--B/flat.jpg
2
1 2 0 5
5 6 7 8
"""


def write(tmp_path, text, name="list.txt"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_boxes(tmp_path):
    table = wider.read_boxes(write(tmp_path, BOXES))
    assert table["image"].tolist() == ["0--A/one.jpg", "0--A/one.jpg", "1--B/flat.jpg"] and table["line"].tolist() == [3, 4, 11]
    assert table.loc[0, ["x1", "y1", "x2", "y2"]].tolist() == [10, 20, 40, 60]
    assert table.attrs["set_aside"] == [(10, "box of no area")] and np.isnan(table["landmarks"][0]).all()
    assert table.attrs["no_faces"] == [(5, "0--A/none.jpg")]


@pytest.mark.parametrize("at", range(10))
def test_line_ends_marks_tabs_and_blank_lines_do_not_matter(tmp_path, at):
    plain, lines = wider.read_boxes(write(tmp_path, BOXES)), BOXES.replace("10 20 30 40", "10\t20\t30\t40").splitlines()
    path = tmp_path / "odd.txt"
    path.write_bytes(("\ufeff" + "\r\n".join([*lines[:at], "", *lines[at:]]) + "\r\n\r\n").encode())
    table = wider.read_boxes(path)
    np.testing.assert_array_equal(table[["x1", "y1", "x2", "y2"]], plain[["x1", "y1", "x2", "y2"]])
    assert table["line"].tolist() == [line + (line > at) for line in plain["line"]]
    assert table.attrs["photos"] == plain.attrs["photos"] == ["0--A/one.jpg", "0--A/none.jpg", "1--B/flat.jpg"]


@pytest.mark.parametrize(
    "text, message",
    [
        ("a/b.jpg\nmany\n", "line 2: the number of faces of a/b.jpg belongs here, not 'many'"),
        ("a/b.jpg\n", "line 2: the number of faces"),
        ("a/b.jpg\n3\n1 2 3 4\n", "line 2: 3 faces of a/b.jpg announced, but the file ends"),
        ("a/b.jpg\n1\n1 2 3\n", "line 3: 3 numbers, where 4 or 10 belong"),
        ("a/b.jpg\n1\n1 2 x 4\n", "line 3: could not convert"),
        ("../b.jpg\n1\n1 2 3 4\n", "line 1: the image path"),
        ("a/b.jpg\n²\n1 2 3 4\n", "line 2: the number of faces of a/b.jpg belongs here, not '²'"),
        ("a/b.jpg\n1\n1 2 3 4\n5 6 7 8\nc.jpg\n", "line 5: the number of faces of 5 6 7 8 belongs here, not 'c.jpg'"),
    ],
)
def test_damaged_lists_are_named(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        wider.read_boxes(write(tmp_path, text))


def test_five_point_labels(tmp_path):
    points = "12 22 0.0 28 22 0.0 20 30 0.0 -1 -1 -1 25 38 0.0"
    text = f"# 0--A/one.jpg\n10 20 30 40 {points} 0.82\n10 20 30 40 {'-1 -1 -1 ' * 5}0.5\n# 0--A/two.jpg\n1 2 3 4\n# c.jpg\n"
    table = wider.read_labels(write(tmp_path, text, "label.txt"))
    assert table["image"].tolist() == ["0--A/one.jpg", "0--A/one.jpg", "0--A/two.jpg"]
    assert np.isnan(table["landmarks"][0]).any(1).tolist() == [False, False, False, True, False]
    assert table["landmarks"][0][4].tolist() == [25, 38]
    assert np.isnan(table["landmarks"][1]).all() and np.isnan(table["landmarks"][2]).all()
    assert table.attrs["no_faces"] == [(6, "c.jpg")]


def test_damaged_labels_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"line 1: a photo \('# path'\) belongs here first"):
        wider.read_labels(write(tmp_path, "1 2 3 4\n"))
    with pytest.raises(ValueError, match="line 2: 5 numbers, where 4 or 19 or 20"):
        wider.read_labels(write(tmp_path, "# a.jpg\n1 2 3 4 5\n"))


def test_a_list_is_told_by_its_content_whatever_its_name(tmp_path):
    """And read by the other list's reader, it says which it looks like."""
    boxes, labels = "a.jpg\n1\n10 20 30 40\n", "# a.jpg\n10 20 30 40\n"
    photos(tmp_path, "a.jpg")
    for text in (boxes, labels, "\n\n" + labels.replace("\n", "\r\n")):
        for name in ("label.txt", "wider_face_val_bbx_gt.txt", "mine.txt"):
            dataset = wider.load(write(tmp_path, text, name), tmp_path)
            assert dataset.names == ["a.jpg"] and dataset.faces(0).boxes.tolist() == [[10, 20, 40, 60]]
    with pytest.raises(ValueError, match=r"line 1: .* or is it a box list for read_boxes\?"):
        wider.read_labels(write(tmp_path, boxes))
    with pytest.raises(ValueError, match=r"line 2: .*; it looks like RetinaFace's label\.txt, which read_labels reads"):
        wider.read_boxes(write(tmp_path, labels))


def test_missing_and_empty(tmp_path):
    with pytest.raises(FileNotFoundError, match="WIDER FACE is to be had from"):
        wider.read_boxes(tmp_path / "none.txt")
    for read in (wider.read_boxes, wider.read_labels):
        with pytest.raises(ValueError, match=r"list\.txt lists no photos"):
            read(write(tmp_path, "\n\n"))
        (tmp_path / "latin.txt").write_bytes(b"a/\xfcber.jpg\n1\n1 2 3 4\n")
        with pytest.raises(ValueError, match=r"latin\.txt is not UTF-8 text \(byte 2\)"):
            read(tmp_path / "latin.txt")


def photos(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(folder / name), np.zeros((600, 800, 3), np.uint8))


def test_missing_photos_are_counted_and_photos_without_faces_stay(tmp_path):
    path = write(tmp_path, BOXES.replace("0--A/none.jpg", "0--A/gone.jpg\n1\n1 2 3 4\n0--A/lost.jpg\n0\n0--A/none.jpg"))
    photos(tmp_path, "0--A/one.jpg", "0--A/none.jpg", "1--B/flat.jpg")
    with pytest.warns(UserWarning, match=r"list\.txt: set aside 1 \(box of no area\), 2 \(its photo is missing\)"):
        dataset = wider.load(path, tmp_path)
    assert dataset.names == ["0--A/one.jpg", "0--A/none.jpg", "1--B/flat.jpg"] and dataset.complete
    assert dataset.table.attrs["set_aside"] == [
        (15, "box of no area"),
        (7, "its photo is missing"),
        (8, "its photo is missing"),
    ]
    assert [len(faces) for _, faces in dataset] == [2, 0, 1] and dataset[1][1].schema.name == "wider5"


def test_lists_of_nothing_usable(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none of the 3 photos is below .*: get WIDER_train\.zip"):
        wider.load(write(tmp_path, BOXES), tmp_path)
    photos(tmp_path, "none.jpg")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = wider.load(write(tmp_path, "none.jpg\n0\n"), tmp_path)
    assert dataset.names == ["none.jpg"] and len(dataset.table) == 0 and len(dataset[0][1]) == 0


@needs_shared
@pytest.mark.parametrize("split, photos, faces", [("train", 564, 1948), ("val", 46, 176)])
def test_real_lists(split, photos, faces):
    real = SHARED / "real_faces"
    dataset = wider.load(real / f"wider_face_{split}_bbx_gt.txt", real / "WFLW_images")
    assert (len(dataset), len(dataset.table)) == (photos, faces)
    image, found = dataset[0]
    assert (found.boxes[:, 2:] <= np.array(image.shape[1::-1]) + 1).all() and not found.visible.any()
