import re

import cv2
import numpy as np
import pandas as pd
import pytest

from retinalib.datasets import wflw, wider
from retinalib.datasets.table import ATTRIBUTES
from tests.shared import SHARED, needs_shared


def line(rng, image="0--A/a.jpg", box=(10, 20, 60, 90), flags="0 1 0 0 0 1"):
    points = " ".join(f"{v:.6f}" for v in rng.uniform(0, 100, 196))
    return f"{points} {' '.join(map(str, box))} {flags} {image}"


@pytest.fixture
def lines():
    rng = np.random.default_rng(0)
    return [line(rng), line(rng, "0--A/a.jpg", (100, 20, 160, 90)), line(rng, "1--B/with blank.jpg")]


def write(tmp_path, text, name="list.txt", **options):
    path = tmp_path / name
    path.write_bytes(text.encode(**options) if isinstance(text, str) else text)
    return path


def test_reads_what_is_there(tmp_path, lines):
    table = wflw.read_annotations(write(tmp_path, "\n".join(lines)))
    assert table["image"].tolist() == ["0--A/a.jpg", "0--A/a.jpg", "1--B/with blank.jpg"]
    assert table["line"].tolist() == [1, 2, 3]
    assert table.loc[0, ["x1", "y1", "x2", "y2"]].tolist() == [10, 20, 60, 90]
    assert table.loc[0, list(ATTRIBUTES)].tolist() == [False, True, False, False, False, True]
    expected = np.array(lines[1].split()[:196], np.float32).reshape(98, 2)
    np.testing.assert_array_equal(table["landmarks"][1], expected)


def test_line_ends_marks_tabs_and_blank_lines_do_not_matter(tmp_path, lines):
    plain = wflw.read_annotations(write(tmp_path, "\n".join(lines)))
    odd = "\ufeff" + "\r\n".join([lines[0].replace(" ", "\t"), "", *lines[1:]]) + "\r\n\r\n"
    table = wflw.read_annotations(write(tmp_path, odd))
    pd.testing.assert_frame_equal(table.drop(columns=["line", "landmarks"]), plain.drop(columns=["line", "landmarks"]))
    assert table["line"].tolist() == [1, 3, 4]


def test_attributes_that_a_table_lacks_are_false_and_odd_names_are_refused(tmp_path, lines):
    table = wflw.read_annotations(write(tmp_path, "\n".join(lines)))
    wflw.write_annotations(table.drop(columns=list(ATTRIBUTES)), tmp_path / "bare.txt")
    again = wflw.read_annotations(tmp_path / "bare.txt")
    assert not again[list(ATTRIBUTES)].to_numpy().any() and again["image"].tolist() == table["image"].tolist()
    for name in ("2 friends.jpg", "../a.jpg"):
        with pytest.raises(ValueError, match=r"image path|first word must not be a number"):
            wflw.write_annotations(table.assign(image=name), tmp_path / "odd.txt")
    assert not (tmp_path / "odd.txt").exists()


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: s.split(" ", 1)[1], "line 2: 206 columns, where WFLW has 207"),
        (lambda s: "1.0 " + s, "line 2: 208 columns, where WFLW has 207"),
        (lambda s: s.replace(s.split()[5], "x7.5", 1), "line 2: could not convert string to float: 'x7.5'"),
        (lambda s: s.replace("0--A/a.jpg", "../../secret.jpg"), r"line 2: the image path '\.\./\.\./secret\.jpg' leads out"),
        (lambda s: s.replace(" 0 1 0 0 0 1 ", " 0 1 nan 0 0 1 "), "line 2: the six attributes must be 0 or 1, not 0 1 nan"),
    ],
)
def test_a_damaged_line_is_named(tmp_path, lines, change, message):
    path = write(tmp_path, "\n".join([lines[0], change(lines[1]), lines[2]]))
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}, {message}"):
        wflw.read_annotations(path)


def test_files_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no annotations at .*WFLW is to be had from https"):
        wflw.read_annotations(tmp_path / "none.txt")
    with pytest.raises(ValueError, match="lists no faces"):
        wflw.read_annotations(write(tmp_path, "\n \n"))
    with pytest.raises(ValueError, match="not UTF-8"):
        wflw.read_annotations(write(tmp_path, b"\xff\xfe\x00"))


def official(tmp_path, train, test, images):
    for split, rows in (("train", train), ("test", test)):
        path = tmp_path / wflw.LISTS.format(split=split)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(rows))
    for name in images:
        (tmp_path / wflw.IMAGES / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / wflw.IMAGES / name), np.zeros((120, 200, 3), np.uint8))


def test_train_and_test_stay_apart_and_missing_photos_are_counted(tmp_path):
    rng = np.random.default_rng(2)
    train = [line(rng, "a/1.jpg"), line(rng, "a/2.jpg"), line(rng, "a/gone.jpg")]
    flat = line(rng, "a/2.jpg", box=(10, 20, 10, 90))  # a test photo, although its test face is set aside
    official(tmp_path, train, [flat, line(rng, "a/3.jpg")], ["a/1.jpg", "a/2.jpg"])
    with pytest.warns(
        UserWarning, match=r"_train\.txt: set aside 1 \(its photo is in the test list\), 1 \(its photo is missing\)"
    ):
        dataset = wflw.load(tmp_path, "train")
    assert dataset.names == ["a/1.jpg"] and not dataset.complete
    assert dataset.table.attrs["set_aside"] == [(2, "its photo is in the test list"), (3, "its photo is missing")]
    image, faces = dataset[0]
    assert image.shape == (120, 200, 3) and len(faces) == 1 and faces.attributes["expression"].tolist() == [True]
    with pytest.raises(ValueError, match="split must be"):
        wflw.load(tmp_path, "val")


def test_no_photo_or_no_face_left_says_why(tmp_path):
    rng = np.random.default_rng(4)
    flat = line(rng, "a/1.jpg", box=(10, 20, 10, 90))
    official(tmp_path, [flat, line(rng, "a/2.jpg")], [line(rng, "a/2.jpg")], [])
    with pytest.raises(FileNotFoundError, match=r"none of the 1 photos is below .*: get WFLW_images"):
        wflw.load(tmp_path, "test")
    official(tmp_path, [flat, line(rng, "a/2.jpg")], [line(rng, "a/2.jpg")], ["a/1.jpg", "a/2.jpg"])
    message = r"_train\.txt: no face is left, for all are set aside: 1 \(box of no area\), 1 \(its photo is in the test list\)"
    with pytest.raises(ValueError, match=message):
        wflw.load(tmp_path, "train")


@needs_shared
def test_real_lists():
    table = wflw.read_annotations(SHARED / "real_faces/WFLW_annotations/list_98pt_test_attributed_faces.txt")
    assert len(table) == 1832 and not table.attrs["set_aside"]
    dataset = wflw.load(SHARED / "real_faces", "test")
    assert (len(dataset), len(dataset.table)) == (63, 72)
    assert all(dataset[n][1].visible.mean() > 0.9 for n in range(3))


@needs_shared
def test_wider_boxes_join_the_labelled_faces():
    real = SHARED / "real_faces"
    lists = [real / f"wider_face_{split}_bbx_gt.txt" for split in ("train", "val")]
    dataset = wflw.load(real, "test", wider_boxes=lists)
    boxes = pd.concat([wider.read_boxes(path) for path in lists])
    expected = boxes[boxes["image"].isin(dataset.names)]
    labelled = np.array([np.isfinite(points).all() for points in dataset.table["landmarks"]])
    assert dataset.complete and labelled.sum() == 72
    assert abs(len(dataset.table) - len(expected)) <= 3  # a labelled face without a box of its own keeps the one it had
    inside = [
        ((p.mean(0) > b[:2]) & (p.mean(0) < b[2:])).all()
        for p, b in zip(
            dataset.table["landmarks"][labelled], dataset.table[["x1", "y1", "x2", "y2"]].to_numpy()[labelled], strict=True
        )
    ]
    assert all(inside)
    with pytest.warns(UserWarning, match="photos are not in the WIDER FACE lists"):
        assert not wflw.load(real, "test", wider_boxes=lists[1]).complete


def test_joined_boxes_follow_the_same_policy(tmp_path):
    """Outside of the photo or of no area: set aside; in two lists: one. A photo whose box has no area is known to the list."""
    rng = np.random.default_rng(0)
    official(tmp_path, [line(rng, "0--A/a.jpg"), line(rng, "b.jpg")], [line(rng, "c.jpg")], ["0--A/a.jpg", "b.jpg"])
    first = "0--A/a.jpg\n3\n10 20 50 70\n500 500 30 30\n1 1 5 5\nb.jpg\n1\n3 3 0 0\n"
    paths = [write(tmp_path, first, "one.txt"), write(tmp_path, "0--A/a.jpg\n1\n1 1 5 5\n", "two.txt")]
    with pytest.warns(UserWarning, match=r"set aside 1 \(its box lies outside its photo\)"):
        dataset = wflw.load(tmp_path, "train", wider_boxes=paths)
    assert dataset.complete and dataset.table["image"].tolist() == ["0--A/a.jpg", "b.jpg", "0--A/a.jpg"]
    assert dataset.table[["x1", "y1", "x2", "y2"]].to_numpy()[2].tolist() == [1, 1, 6, 6]
