from dataclasses import replace

import cv2
import numpy as np
import pytest

from retinalib import workspace
from retinalib.config import PROFILES
from retinalib.datasets import wflw, wider
from retinalib.landmarks import WFLW_98, WIDER_5, Eye, LandmarkSchema
from retinalib.workspace import open_dataset

POINTS = "12 22 0.0 28 22 0.0 20 30 0.0 15 38 0.0 25 38 0.0 0.9"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty project folder."""
    monkeypatch.setattr(workspace, "PROJECT", tmp_path)
    return tmp_path


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def photo(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.zeros((60, 80, 3), np.uint8))


def wider_layout(root, labels):
    """Twenty training photos, every fifth without a face, and two validation photos, in the official layout."""
    counts = {f"0--A/{n:02}.jpg": int(n % 5 > 0) for n in range(20)}
    boxes = "".join(f"{name}\n{n}\n{'10 20 30 40' if n else '0 0 0 0'} 0 0 0 0 0 0\n" for name, n in counts.items())
    write(root / wider.BOXES.format(split="train"), boxes)
    write(root / wider.BOXES.format(split="val"), "1--B/a.jpg\n2\n10 20 30 40\n5 5 9 9\n1--B/b.jpg\n0\n0 0 0 0\n")
    if labels:
        text = "".join(f"# {name}\n" + f"10 20 30 40 {POINTS}\n" * n for name, n in counts.items())
        write(root / wider.LABELS.format(split="train"), text)
    for split, names in (("train", counts), ("val", ["1--B/a.jpg", "1--B/b.jpg"])):
        for name in names:
            photo(root / wider.IMAGES.format(split=split) / name)


def test_wider_face_in_its_official_layout(project):
    wider_layout(project / "data/wider", labels=True)
    sets = {split: open_dataset("wider", None, "quick", 0, split) for split in ("train", "validation", "test")}
    assert {split: (len(s), len(s.table)) for split, s in sets.items()} == {
        "train": (18, 16),
        "validation": (2, 0),  # photos 0 and 10, without faces
        "test": (2, 2),
    }
    assert not set(sets["train"].names) & set(sets["validation"].names)
    assert all(s.schema is WIDER_5 and s.complete for s in sets.values())
    image, faces = sets["train"][0]
    assert image.shape == (60, 80, 3) and faces.visible.all() and faces.landmarks[0, 4].tolist() == [25, 38]
    image, faces = sets["test"][0]
    assert faces.boxes.tolist() == [[10, 20, 40, 60], [5, 5, 14, 14]] and not faces.visible.any()
    assert len(sets["test"][1][1]) == 0


def test_wider_face_without_landmarks(project):
    wider_layout(project / "elsewhere", labels=False)
    with pytest.warns(UserWarning, match=r"train/label\.txt is missing: boxes only, no landmarks are trained"):
        dataset = open_dataset("wider", "elsewhere", "quick", 0, "train")
    assert (len(dataset), len(dataset.table)) == (18, 16) and not any(f.visible.any() for _, f in dataset)
    write(project / "elsewhere" / wider.LABELS.format(split="val"), "# 1--B/b.jpg\n1 2 3 4\n")
    assert open_dataset("wider", "elsewhere", "quick", 0, "test").names == ["1--B/b.jpg"]  # the labels come first


def test_wider_face_missing(project):
    with pytest.raises(FileNotFoundError, match=r"neither .*train/label\.txt \(from http.*_train_bbx_gt\.txt .*data/README"):
        open_dataset("wider", None, "quick", 0, "validation")
    with pytest.raises(FileNotFoundError, match=r"neither .*val/label\.txt \(from http.*_val_bbx_gt\.txt \(wider_face_split"):
        open_dataset("wider", None, "quick", 0, "test")
    with pytest.raises(ValueError, match=r"DATASET must be one of synthetic, wflw, wider; got 'widerface'"):
        open_dataset("widerface", None, "quick", 0, "test")
    with pytest.raises(ValueError, match="split must be 'train' or 'test', got 'val'"):
        wider.load_split(project / "data/wider", "val")


def wflw_layout(root):
    """Twenty training photos and one test photo with a labelled face each."""
    points = " ".join(f"{v:.2f}" for v in np.random.default_rng(0).uniform(20, 40, 196))
    for split, names in (("train", [f"0--A/{n:02}.jpg" for n in range(20)]), ("test", ["1--B/a.jpg"])):
        lines = [f"{points} 10 20 40 60 0 0 0 0 0 0 {name}\n" for name in names]
        write(root / wflw.LISTS.format(split=split), "".join(lines))
        for name in names:
            photo(root / wflw.IMAGES / name)


BOXES = {
    "train": "".join(f"0--A/{n:02}.jpg\n2\n11 20 30 40\n60 5 9 9\n" for n in range(20)),
    "val": "1--B/a.jpg\n1\n60 5 9 9\n",
}


@pytest.mark.parametrize("folder", ["data/wflw", "data/wider/wider_face_split"])
def test_wider_boxes_are_joined_into_wflw_where_they_lie(project, folder):
    wflw_layout(project / "data/wflw")
    alone = open_dataset("wflw", None, "quick", 0, "train")
    assert not alone.complete and (len(alone), len(alone.table)) == (18, 18)
    for split, text in BOXES.items():
        write(project / folder / f"wider_face_{split}_bbx_gt.txt", text)
    joined = {split: open_dataset("wflw", None, "quick", 0, split) for split in ("train", "validation", "test")}
    assert {split: (len(s), len(s.table), s.complete) for split, s in joined.items()} == {
        "train": (18, 36, True),
        "validation": (2, 4, True),
        "test": (1, 2, True),
    }
    assert joined["train"].names == alone.names and joined["validation"].names == ["0--A/18.jpg", "0--A/19.jpg"]
    faces = joined["train"].faces(0)
    assert faces.boxes.tolist() == [[11, 20, 41, 60], [60, 5, 69, 14]] and faces.visible.all(1).tolist() == [True, False]


def test_wflws_own_lists_come_before_those_of_wider_face(project):
    wflw_layout(project / "data/wflw")
    write(project / "data/wflw/wider_face_val_bbx_gt.txt", BOXES["val"])
    write(project / "data/wider/wider_face_split/wider_face_val_bbx_gt.txt", "1--B/a.jpg\n1\n1 2 x 4\n")
    assert open_dataset("wflw", None, "quick", 0, "test").complete


def test_profiles_train_any_schema():
    eyes = {"right_eye": Eye(0), "left_eye": Eye(1)}
    few = LandmarkSchema("mine3", 3, {"eyes": (0, 1), "chin": (2,)}, (1, 0, 2), **eyes)
    many = LandmarkSchema("mine68", 68, {"all": tuple(range(68))}, tuple(range(68)))
    profile = workspace.PROFILES["standard"]
    weights = [profile.train_config(schema=schema).loss.landmark_weight for schema in (few, WIDER_5, many, WFLW_98)]
    assert weights == [1.0, 1.0, 0.25, 0.25]


@pytest.mark.parametrize(("most", "left"), [(None, 18), (18, 18), (17, 9), (1, 1), (100, 18)])
def test_a_profile_measures_so_many_photos_evenly_spaced(project, monkeypatch, most, left):
    wider_layout(project / "data/wider", labels=True)
    monkeypatch.setitem(PROFILES, "quick", replace(PROFILES["quick"], measured=most))
    photos = open_dataset("wider", None, "quick", 0, "train")
    some = workspace.measured(photos, "quick")
    assert len(some) == left and some.names == photos.names[:: 18 // left]
    assert len(workspace.measured(photos.subset([]), "quick")) == 0
