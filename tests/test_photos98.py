"""The shipped detector for photographs: what its card promises, held on the open photographs, and the script that trains it."""

import runpy
import sys

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from retinalib import WIDER_5, Faces, ModelConfig, RetinaFace, load_detector, rendered
from retinalib.checkpoint import load_model, save_model
from retinalib.datasets import london
from retinalib.evaluate import nme
from retinalib.landmarks import WFLW_98
from retinalib.workspace import PROJECT

PUPILS = list(WFLW_98.pupils)


@pytest.fixture(scope="module")
def detector():
    return load_detector("photos98", "cpu")


@pytest.fixture(scope="module")
def photos():
    dataset = london.load()
    return [dataset[number] for number in range(0, len(dataset), 9)]


def pupil_errors(faces, truth):
    points = (np.concatenate([f.landmarks[:, PUPILS] for f in part]) for part in (faces, truth))
    found, true = points
    return np.linalg.norm(found - true, axis=-1).mean(1) / np.linalg.norm(true[:, 0] - true[:, 1], axis=-1)


def test_it_is_the_default_and_fits_a_download(detector):
    assert load_detector(device="cpu").model.config == detector.model.config
    assert (PROJECT / "data/checkpoints/photos98.pt").stat().st_size < 6e6
    assert detector.model.config.trained_on.turns == 40


def test_pupils_of_open_photographs(detector, photos):
    """One face a photograph; the second look at least halves the error of the pupils."""
    found = [detector.detect(image) for image, _ in photos]
    assert [len(faces) for faces in found] == [1] * len(photos)
    once = [detector.detect(image, second_look=False) for image, _ in photos]
    truth = [faces for _, faces in photos]
    assert np.median(pupil_errors(found, truth)) < 0.017 < 0.03 < np.median(pupil_errors(once, truth))


@pytest.mark.parametrize("longer", [128, 224, 384, 640])
def test_headshots(detector, photos, longer):
    """A face with a tenth around it is found at any size."""
    for image, _ in photos[::3]:
        whole = detector.detect(image)
        low, high = np.split(whole.boxes[0], 2)
        margin = 0.1 * (high - low)
        left, top, right, bottom = np.concatenate([low - margin, high + margin]).clip(0, 639).astype(int)
        shot = image[top:bottom, left:right]
        scale = longer / max(shot.shape[:2])
        shot = cv2.resize(shot, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        found = detector.detect(shot)
        assert len(found) == 1
        expected = (whole.landmarks - [left, top]) * scale
        assert nme(found.landmarks, expected, normaliser="inter_ocular")[0] < 0.06


@pytest.fixture
def script(tmp_path, monkeypatch):
    """Runs a script of the checkpoints in ``tmp_path``: begun with ``start.pt``, with few rendered faces for all others."""
    monkeypatch.chdir(tmp_path)
    root = rendered.make(tmp_path / "faces", 21, seed=1, size=96, progress=False)
    monkeypatch.setattr(rendered, "make", lambda *_, **__: root)
    torch.manual_seed(7)
    save_model(RetinaFace(ModelConfig(schema=WIDER_5)), tmp_path / "start.pt")

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name])
        main = runpy.run_path(str(PROJECT / "data/checkpoints" / name))["main"]
        main([argument.replace("FACES", str(root)) for argument in arguments], standalone_mode=False)

    return run


START = ("--real", "FACES", "--start", "start.pt", "--out")


def test_the_recipe_trains(script):
    """Two steps of each training, on rendered faces for the real ones, give a detector that loads."""
    script("photos98.py", *START, "out.pt", "--steps", "2", "--workers", "0", "--batch", "16")
    detector = load_detector("out.pt", "cpu")
    assert len(detector.model.looks) == 2
    detector.detect(np.zeros((96, 96, 3), np.uint8))


def test_the_study_of_real_faces_trains_the_whole_network(script, tmp_path):
    script("rendered_to_real.py", *START, "out", "--steps", "1", "--size", "64", "--workers", "0")
    networks = {path.stem: load_model(path) for path in (tmp_path / "out").iterdir()}
    assert len(networks) == 11 and networks["all-rendered-public-se16"].config.se_reduction == 16
    begun = load_model("start.pt").state_dict()["fpn.merge.0.0.weight"]
    public, scratch = (networks[f"all-rendered{end}"].state_dict()["fpn.merge.0.0.weight"] for end in ("-public", ""))
    assert (public - begun).abs().max() < 0.01 < (scratch - begun).abs().max()


def test_turned_faces_keep_their_landmarks():
    turned = runpy.run_path(str(PROJECT / "data/checkpoints/turns.py"))["turned"]
    image, faces = rendered.render_face(size=160)
    again, moved = turned(*turned(image, faces, 20), -20)
    spare = (np.array(again.shape[1::-1]) - image.shape[1::-1]) / 2
    np.testing.assert_allclose(moved.landmarks - spare, faces.landmarks, atol=1.5)  # canvases are whole pixels
    assert (moved.boxes[:, :2] <= moved.landmarks.min(1) + 1e-3).all()
    dark = np.full((101, 81, 3), (124, 116, 104), np.uint8)
    dark[30, 60] = 255
    spot = Faces([[50, 20, 70, 40]], np.full((1, 98, 2), [60, 30]))
    seen, there = turned(dark, spot, 40)
    assert np.abs(np.unravel_index(seen.sum(2).argmax(), seen.shape[:2])[::-1] - there.landmarks[0, 0]).max() <= 0.75


def test_the_study_of_turns(script):
    script("turns.py", *START, "t", "--test", "FACES", "--steps", "1", "--size", "64")
    table = pd.read_csv("t.csv")
    assert table["degrees"].tolist() == [0, 20, 40] * 4 and (table["found"] <= table["shown"]).all()


def test_the_script_of_rendered98_gives_each_first_look_the_same_look(script, tmp_path):
    for name in ("a.pt", "b.pt"):
        save_model(RetinaFace(), name)
    script("rendered98.py", "a.pt", "b.pt", "--out", "out", "--steps", "30")
    a, b = (load_model(tmp_path / "out" / name).state_dict() for name in ("a.pt", "b.pt"))
    looks = [name for name in a if name.startswith("looks.")]
    assert looks and all(torch.equal(a[name], b[name]) for name in looks)
    assert torch.equal(a["fpn.merge.0.0.weight"], load_model("a.pt").state_dict()["fpn.merge.0.0.weight"])
    assert not torch.equal(a["fpn.merge.0.0.weight"], b["fpn.merge.0.0.weight"])
