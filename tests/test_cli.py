"""The command ``retinalib``, as a user meets it."""

import json
import os
import runpy
import shutil
import sys
from unittest.mock import Mock

import cv2
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image

from retinalib import rendered
from retinalib.checkpoint import save_model
from retinalib.cli import main
from retinalib.datasets import wflw
from retinalib.datasets.photos import find_photos, picture_names
from retinalib.detect import available_detectors
from retinalib.landmarks import WIDER_5
from retinalib.model import ModelConfig, RetinaFace
from retinalib.rendered.dataset import render_face
from tests.shared import SHARED, needs_shared


def call(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def photo(path, person=0, size=160):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), render_face(size=size, person=person)[0][..., ::-1])
    return path


def test_detects_and_writes(tmp_path):
    photos = [photo(tmp_path / "a" / "face.png"), photo(tmp_path / "b" / "face.png", person=3)]
    empty = tmp_path / "nobody.png"
    cv2.imwrite(str(empty), np.full((90, 120, 3), 128, np.uint8))
    out = tmp_path / "out"
    result = call("detect", *photos, empty, "--out", out, "--checkpoint", "rendered98")
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in out.iterdir()) == [
        "face-2.faces.png", "face.faces.png", "faces.csv", "faces.json", "nobody.faces.png",
    ]  # fmt: skip
    table = pd.read_csv(out / "faces.csv")
    assert table["photo"].tolist() == [str(p) for p in photos]
    assert table["picture"].tolist() == ["face.faces.png", "face-2.faces.png"]
    assert {"x1", "score", "offset_x_right", "openness_left", "inter_pupil"} <= set(table)
    known = json.loads((out / "faces.json").read_text())
    assert [len(p["faces"]) for p in known["photos"]] == [1, 1, 0] and known["schema"] == "wflw98"
    face = known["photos"][0]["faces"][0]
    assert np.shape(face["landmarks"]) == (98, 2) and face["box"][0] == pytest.approx(table["x1"][0], abs=0.01)
    true = render_face(size=160)[1]
    assert np.abs(np.array(face["landmarks"]) - true.landmarks[0]).mean() < 5
    drawn = cv2.imread(str(out / "face.faces.png"))
    assert drawn.shape == (800, 800, 3)  # a small photo is enlarged, so that its points can be seen
    plain = cv2.resize(cv2.imread(str(photos[0])), (800, 800))
    assert 0.005 < (np.abs(drawn.astype(int) - plain).max(-1) > 60).mean() < 0.3
    assert cv2.imread(str(out / "nobody.faces.png")).shape == (600, 800, 3)


def test_a_bad_photo_is_named_and_the_others_go_on(tmp_path):
    good, bad = photo(tmp_path / "good.png"), tmp_path / "bad.jpg"
    bad.write_bytes(b"not a photo")
    result = call("detect", bad, good, tmp_path / "gone.png", "--out", tmp_path / "out", "--score-threshold", 0.3)
    assert result.exit_code == 1
    assert "bad.jpg is not an image that can be read" in result.stderr
    assert "gone.png" in result.stderr and "photos left out: 2 of 3" in result.stderr
    assert len(pd.read_csv(tmp_path / "out" / "faces.csv")) == 1
    result = call("detect", bad, "--out", tmp_path / "none")
    assert result.exit_code == 1
    table = pd.read_csv(tmp_path / "none" / "faces.csv")
    assert not len(table) and "offset_x_right" in table  # the columns are there all the same


def test_five_landmarks_have_no_pupil_columns(tmp_path):
    save_model(RetinaFace(ModelConfig(schema=WIDER_5)), tmp_path / "five.pt")
    options = ("--out", tmp_path / "out", "--checkpoint", tmp_path / "five.pt", "--score-threshold", 0)
    result = call("detect", photo(tmp_path / "a.png", size=64), *options)
    assert result.exit_code == 0, result.output
    table = pd.read_csv(tmp_path / "out" / "faces.csv")
    assert len(table) and list(table) == ["photo", "picture", "face", "x1", "y1", "x2", "y2", "score"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("detect", "{}/a.png", "--out", "{}/out", "--checkpoint", "nobody"), "no detector 'nobody'"),
        (("detect", "{}/a.png", "--out", "{}/out", "--checkpoint", "{}/a.png"), "damaged or not a checkpoint"),
        (("detect", "{}/empty", "--out", "{}/out"), "there is no photo in"),
        (("detect", "{}/a.png", "--out", "{}/a.png"), "is a file"),
        (("detect", "{}/a.png", "--out", "{}/out", "--score-threshold", "2"), "not in the range"),
        (("detect", "--out", "{}/out"), "Missing argument"),
        (("datasets", "check", "{}/empty"), "no annotations at"),
        (("datasets", "audit", "{}/empty", "--out", "{}/out"), "no annotations at"),
        (("datasets", "extract", "wflw", "{}/empty"), "WFLW_images.tar.gz and WFLW_annotations.tar.gz missing in"),
        (("datasets", "extract", "wider", "{}/empty"), ": download from http"),
        (("detect", "{}/a.png", "--out", "{}/out", "--device", "gpu"), "device 'gpu' can't be used here: choose cpu"),
        (("detect", "{}/a.png", "--out", "{}/out", "--normalisation", "caffe"), "'caffe' is not one of 'imagenet'"),
        (("train", "{}/run", "--profile", "fast"), "'fast' is not one of 'quick', 'standard'"),
        (("workbook", "--profile", "shipped"), "'shipped' is not one of 'quick', 'standard', 'full'"),
        (("train", "{}/run", "--dataset", "lfw"), "DATASET must be one of synthetic, wflw, wider; got 'lfw'"),
        (("train", "{}/a.png"), "is a file"),
        (("ablation", "--seeds"), "Option '--seeds' requires an argument"),
        (("export", "rendered98", "{}"), "is a directory"),
        (("workbook", "99"), "no notebook's name begins with 99"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(arguments, sentence, tmp_path):
    photo(tmp_path / "a.png", size=64)
    (tmp_path / "empty").mkdir()
    result = call(*(a.format(tmp_path) for a in arguments))
    assert result.exit_code == 2 and not (tmp_path / "out").exists()
    assert sentence in result.stderr and "Traceback" not in result.output
    assert result.stderr.strip().splitlines()[-1].startswith("Error: ")


def test_photos_below_folders_and_their_names(tmp_path):
    for name in ("x/b.JPG", "x/a.png", "y/A.jpg", "x/a.faces.png", "x/notes.txt", "y/c.pgm", "y/d.jfif", "y/e.GIF"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_photos([tmp_path, tmp_path / "x" / "a.png"])
    names = [p.relative_to(tmp_path).as_posix() for p in found]
    assert names == ["x/a.png", "x/b.JPG", "y/A.jpg", "y/c.pgm", "y/d.jfif", "y/e.GIF"]
    assert list(picture_names(found[:3]).values()) == ["a.faces.png", "b.faces.png", "A-2.faces.png"]


def test_datasets(tmp_path):
    root = rendered.make(tmp_path, 5, seed=4, size=96, workers=1, progress=False)
    checked = call("datasets", "check", root)
    assert checked.exit_code == 0 and "test: photos 1, faces" in checked.stdout and "nothing wrong" in checked.stdout
    train = wflw.read_annotations(tmp_path / root / wflw.LISTS.format(split="train"))
    described = call("datasets", "describe", root)
    assert described.exit_code == 0
    numbers = dict(line.rsplit(None, 1) for line in described.stdout.splitlines()[:2])
    assert numbers == {"photos": "4", "faces": str(len(train))}
    (tmp_path / root / wflw.LISTS.format(split="test")).rename(tmp_path / "test.txt")
    alone = call("datasets", "check", root)
    assert alone.exit_code == 0 and "train: photos 4" in alone.stdout and "test" not in alone.stdout
    (tmp_path / root / wflw.LISTS.format(split="train")).rename(tmp_path / root / wflw.LISTS.format(split="test"))
    wflw.write_annotations(train, tmp_path / root / wflw.LISTS.format(split="train"))
    twice = call("datasets", "check", root)
    assert twice.exit_code == 1 and f"{min(train['image'])} is in the train and in the test list" in twice.stderr
    (tmp_path / root / wflw.LISTS.format(split="test")).unlink()
    damaged = tmp_path / root / wflw.IMAGES / train["image"][0]
    damaged.write_bytes(damaged.read_bytes()[:50])
    checked = call("datasets", "check", root)
    assert checked.exit_code == 1 and f"{damaged} is not an image" in checked.stderr and "nothing wrong" not in checked.stdout


def test_what_is_wrong_is_listed_by_file_and_line(tmp_path):
    """A data set in WIDER FACE's layout with a fault of each kind."""
    images = tmp_path / "WIDER_train/images"
    for name in ("a", "b", "c"):
        photo(images / f"{name}.png", size=64)
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.fromarray(render_face(size=64)[0]).save(images / "turned.jpg", exif=exif)
    far, known = "1e7 5 0 " + "5 5 0 " * 4, "10 12 0 20 12 0 15 20 0 10 25 0 20 25 0"
    (tmp_path / "retinaface_gt_v1.1/train").mkdir(parents=True)
    labels = tmp_path / "retinaface_gt_v1.1/train/label.txt"
    faces = [f"5 5 20 20 {known}", f"5 5 20 20 {known}", f"5 5 0 20 {known}", f"70 5 20 20 {known}", f"5 5 30 20 {far}"]
    more = ["5 5 40 20 1e7 5 0 " + known[8:], "# turned.jpg", "1 1 9 9", "# gone.png", "# c.png"]
    labels.write_text("\n".join(["# a.png", *faces, *more]))
    boxes = tmp_path / "wider_face_split/wider_face_val_bbx_gt.txt"
    boxes.parent.mkdir()
    boxes.write_text("d.png\ntwo\n")
    result = call("datasets", "check", tmp_path)
    assert result.exit_code == 1 and "label: photos 4, faces 5" in result.stdout
    said = result.stderr.splitlines()
    assert [s for s in said if s.startswith(str(labels))] == [
        f"{labels}, line 3: the same face again",
        f"{labels}, line 4: box of no area",
        f"{labels}, line 5: the box lies outside a.png, 64 × 64 pixels",
        f"{labels}, line 6: its landmarks all lie in one place and are unknown",
        f"{labels}, line 7: 1 landmarks that are no place are unknown",
        f"{labels}, line 9: viewers turn turned.jpg (EXIF): boxes are taken to be of the pixels as they are stored",
        f"{labels}, line 10: no image at {images / 'gone.png'}",
    ]
    assert f"{boxes}, line 2: the number of faces of d.png belongs here, not 'two'" in said
    assert said[-1] == "things wrong: 8"
    boxes.write_text("b.png\n2\n1 1 9 9\n20 20 30 30\n")
    (tmp_path / "WIDER_val").mkdir()
    (tmp_path / "WIDER_val/images").symlink_to(images)
    described = call("datasets", "describe", tmp_path, "--split", "test")
    assert described.exit_code == 0 and described.stdout.split()[:4] == ["photos", "1", "faces", "2"]


def test_checkpoints():
    result = call("checkpoints")
    assert result.exit_code == 0
    rows = {line.split()[0]: line for line in result.stdout.splitlines()}
    assert list(rows) == available_detectors() and "12 to 160 px, ±30°" in rows["rendered98"]
    assert "mobilenet0.25" in rows["rendered98"] and "wflw98" in rows["rendered98"]
    assert "reduction 16" in rows["rendered98-se16"] and "reduction" not in rows["rendered98"]


def test_odd_file_names_cost_no_other_photo(tmp_path):
    """One that is no UTF-8, and one so long that no picture's name has room."""
    good, long = photo(tmp_path / "a.jpg"), photo(tmp_path / ("z" * 250 + ".jpg"))  # its picture's name has 260 bytes
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jpg")
    shutil.copy(good, odd)
    result = call("detect", good, odd, long, "--out", tmp_path / "out")
    assert result.exit_code == 1 and "photos left out: 1 of 3" in result.stderr
    assert ".faces.png could not be written and is as it was before: File name too long" in result.stderr
    assert len(pd.read_csv(tmp_path / "out" / "faces.csv")) == 2
    assert len(json.loads((tmp_path / "out" / "faces.json").read_text())["photos"]) == 2


def test_an_interruption_keeps_what_was_found(tmp_path, monkeypatch):
    monkeypatch.setattr("retinalib.cli.read_image", Mock(side_effect=[render_face(size=160)[0], KeyboardInterrupt]))
    photos = photo(tmp_path / "a.png"), photo(tmp_path / "b.png")
    assert call("detect", *photos, "--out", tmp_path / "out").exit_code == 1
    assert set(pd.read_csv(tmp_path / "out" / "faces.csv")["photo"]) == {str(photos[0])}


def test_box_lists_in_wflws_folder_are_checked_too(tmp_path):
    """Their photos that WFLW does not have are no fault."""
    root = rendered.make(tmp_path, 4, size=96, workers=1, progress=False)
    name = rendered.load(root, "train").names[0]
    boxes = root / "wider_face_mine_bbx_gt.txt"
    boxes.write_text(f"elsewhere.jpg\n1\n1 1 9 9\n{name}\n1\n1 1 9 9\n")
    assert call("datasets", "check", root).exit_code == 0
    boxes.write_text("elsewhere.jpg\n2\n1 1 0 9\n1 1 9 9\nnowhere.jpg\n0\n0 0 0 0\n")
    assert call("datasets", "check", root).exit_code == 0
    boxes.write_text(f"elsewhere.jpg\n1\n1 1 0 9\n{name}\n2\n1 1 9 9\n1 1 0 9\n")
    result = call("datasets", "check", root)
    assert result.exit_code == 1 and result.stderr.splitlines()[-2:] == [f"{boxes}, line 7: box of no area", "things wrong: 1"]


@needs_shared
def test_what_is_assumed_is_a_note_that_an_option_ends(tmp_path):
    weights, out = SHARED / "reference/mobilenet0.25_Final.pth", tmp_path / "out"
    options = (photo(tmp_path / "a.png", size=64), "--out", out, "--checkpoint", weights)
    assert call("detect", *options).stderr.startswith(f"note: {weights} does not say what input it was trained with")
    assert "note" not in call("detect", *options, "--normalisation", "reference", "--all-turns").stderr


@pytest.mark.parametrize("module", ["train", "ablation", "export"])
@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
def test_modules_are_their_subcommands(module, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module(f"retinalib.{module}", run_name="__main__")
    assert end.value.code == 0 and capsys.readouterr().out.startswith(f"Usage: retinalib {module} [OPTIONS]")
