import copy
import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from benchmarks.plain import plain_detect
from retinalib import available_detectors, load_detector
from retinalib.checkpoint import save_model
from retinalib.datasets import london, wider
from retinalib.detect import Detector, for_inference
from retinalib.evaluate import detection_ap, nme
from retinalib.faces import Faces, box_iou
from retinalib.landmarks import WFLW_98, WIDER_5
from retinalib.model import ModelConfig, RetinaFace, TrainedOn
from retinalib.rendered.dataset import load, make, render_face
from retinalib.second_look import eye_look
from retinalib.workspace import PROJECT
from tests.shared import SHARED, needs_shared


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    model = RetinaFace(ModelConfig())
    for head in model.class_head:  # an untrained network that calls some anchors faces
        torch.nn.init.normal_(head.weight, std=0.2)
    return Detector(model, "cpu")


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, size, dtype=np.uint8) for size in ((96, 128, 3), (65, 97, 3), (96, 128, 3))]


@pytest.mark.parametrize("options", [(0.5, 0.4, 750), (0.3, 0.2, 5)])
def test_detect_is_the_plain_way(detector, images, options):
    for image in images:
        faces, plain = detector.detect(image, *options, pyramid=False), plain_detect(detector.model, image, *options[:2])
        assert len(faces) == min(len(plain), options[2]) > 0 and (faces.visible == plain.visible[: len(faces)]).all()
        for name, digits in (("scores", 1e-5), ("boxes", 1e-2), ("landmarks", 1e-2)):
            np.testing.assert_allclose(getattr(faces, name), getattr(plain, name)[: len(faces)], atol=digits)


@pytest.fixture(scope="module")
def rendered():
    return load_detector("rendered98", "cpu")


@pytest.mark.parametrize("longer", [128, 200, 278, 384, 640, 1024])
def test_a_face_that_fills_the_picture_is_found(rendered, longer):
    """Networks see faces up to the size of their training crops, here 160 pixels; the smallest level shows none larger."""
    image, truth = render_face(yaw=15, size=320, person=4)
    x1, y1, x2, y2 = truth.boxes[0].round().astype(int)
    scale = longer / max(x2 - x1, y2 - y1)
    size = (round((x2 - x1) * scale), round((y2 - y1) * scale))
    headshot = cv2.resize(image[y1:y2, x1:x2], size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    found, wanted = rendered.detect(headshot), truth.transformed((1, 1), (-x1, -y1)).transformed((scale, scale))
    assert len(found) == 1 and found.scores[0] > 0.5 and box_iou(found.boxes, wanted.boxes).item() > 0.7
    assert nme(found.landmarks, wanted.landmarks, normaliser="inter_ocular").item() < 0.08


def test_the_pyramid_follows_what_training_covered(detector, rendered):
    """Levels halve until a face that fills the picture is as in training; a single level changes nothing."""
    assert [looked_at(rendered.model, *size) for size in ((160, 90), (300, 321))] == [[(160, 90)], [(150, 160), (300, 321)]]
    model = copy.deepcopy(detector.model)
    assert looked_at(model, 512, 9) == [(512, 9)] and len(looked_at(model, 513, 9)) == 2  # not known: the largest anchor
    model.config = replace(model.config, trained_on=TrainedOn(10, 100, 0))
    assert [max(shape) for shape in looked_at(model, 640, 480)] == [80, 160, 320, 640]
    image = render_face(size=160)[0]
    np.testing.assert_array_equal(rendered.detect(image).landmarks, rendered.detect(image, pyramid=False).landmarks)
    assert rendered.detect(np.full((900, 700, 3), 128, np.uint8)).landmarks.shape == (0, 98, 2)


def looked_at(model, height, width, score=0.1, size=8):
    """The sizes of the pictures that detection looks at, if each of them shows one face of that score and size."""
    shown = Faces(np.float32([[90, 10, 90 + size, 10 + size]]), np.zeros((1, 98, 2)), scores=[score])
    seen, ours = [], Detector(model, "cpu")
    ours._detect_batch = lambda pictures, *_: seen.append(pictures[0].shape[:2]) or [shown] * len(pictures)
    ours.detect(np.zeros((height, width, 3), np.uint8), second_look=False)
    return seen


def test_a_closer_look_is_that_at_the_whole_image():
    """Where a second look moves all landmarks, an image itself is looked at around what its half shows unclearly, uncut."""
    ours = load_detector("photos98", "cpu")
    assert looked_at(ours.model, 600, 642) == [(150, 160), (300, 321), (256, 384)]
    assert looked_at(ours.model, 600, 642, 0.9) == looked_at(ours.model, 600, 642, size=130) == [(150, 160), (300, 321)]
    photo, empty = (np.full((640, 500, 3), 128, np.uint8) for _ in range(2))
    photo[40:90, 300:350] = cv2.resize(london.load()[0][0][:640], (50, 50), interpolation=cv2.INTER_AREA)
    half, wanted = cv2.resize(photo, (250, 320), interpolation=cv2.INTER_AREA), ours.detect(photo, pyramid=False)
    assert len(wanted) == 1 and not len(ours.detect(half, pyramid=False))
    for found in (ours.detect(photo), ours.detect([empty, photo, empty])[1]):
        np.testing.assert_allclose(found.landmarks, wanted.landmarks, atol=0.01)
    shown = Faces(np.float32([[5, 3, 60, 60], [90, 10, 110, 30], [190, 99, 250, 150]]), np.zeros((3, 98, 2)))
    ours._detect_batch = lambda pictures, *_: [shown] if pictures[0].shape == (256, 256, 3) else None
    np.testing.assert_array_equal(ours._closer(photo, shown[:2], 0.5, 0.4).boxes, shown.boxes[:2])
    boxes = [[0, 0, 40, 40], [40, 0, 60, 20], [40, 0, 60, 20], [200, 200, 220, 220], [0, 0, 130, 130]]
    shown = Faces(np.float32(boxes), np.zeros((5, 98, 2)), scores=[0.9, 0.02, 0.04, 0.02, 0.4])
    assert ours._unclear(shown, 0.5).tolist() == [False, False, True, True, False] and not len(ours._unclear(shown[:0], 0.5))


def test_turned_photos(rendered):
    """Each turn's look is turned back exactly, and the look at the upright face is kept."""
    image, truth = render_face(yaw=-10, size=200, person=2)
    image = np.pad(image, ((0, 40), (30, 0), (0, 0)), constant_values=90)  # neither square nor centred
    height, width = image.shape[:2]
    upright = rendered.detect(image)
    back = {  # a point of the photo as it is turned clockwise
        90: lambda p: np.stack([height - p[..., 1], p[..., 0]], -1),
        180: lambda p: [width, height] - p,
        270: lambda p: np.stack([p[..., 1], width - p[..., 0]], -1),
    }
    for turn, turned in back.items():
        photo = np.ascontiguousarray(np.rot90(image, -turn // 90))
        (found,) = rendered.detect([photo], turns=(360 - turn,))
        np.testing.assert_allclose(found.landmarks, turned(upright.landmarks), atol=1e-3)
        corners = turned(upright.boxes.reshape(-1, 2, 2))
        np.testing.assert_allclose(found.boxes, np.concatenate([corners.min(1), corners.max(1)], 1), atol=1e-3)
        best = rendered.detect(photo, turns=(0, 90, 180, 270))
        assert len(best) == 1 and np.abs(best.landmarks - turned(truth.landmarks + [30, 0])).mean() < 3
    for wrong in (45, (), (0, 360), "90"):
        with pytest.raises(ValueError, match="turns must be some of 0, 90, 180 and 270 degrees"):
            rendered.detect(image, turns=wrong)


@pytest.mark.parametrize("options", [(), (0.3, 0.2, 3)])
@pytest.mark.parametrize("order", [(0, 1, 2), (0, 0, 1)])
def test_lists_paths_and_single_images_agree(detector, images, tmp_path, options, order):
    """Limits count for each image, also where two go through the network together."""
    cv2.imwrite(str(tmp_path / "an image.png"), images[1][..., ::-1])
    sources = [images[0], tmp_path / "an image.png", images[2]]
    together = detector.detect([sources[n] for n in order], *options)
    assert isinstance(together, list)
    for faces, image in zip(together, (images[n] for n in order), strict=True):
        alone = detector.detect(image, *options)
        assert isinstance(alone, Faces) and len(alone) == len(faces)
        np.testing.assert_allclose(faces.boxes, alone.boxes, atol=1e-2)
        np.testing.assert_allclose(faces.landmarks, alone.landmarks, atol=1e-2)


@pytest.mark.parametrize("options", [{"se_reduction": 16}, {"looks": (eye_look(WFLW_98),)}, {"backbone": "resnet50"}])
def test_the_copy_for_inference_gives_the_same(options):
    torch.manual_seed(0)
    model = RetinaFace(ModelConfig(**options))
    for module in model.modules():  # as after a training
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    copied, pixels = for_inference(model), torch.randn(2, 3, 70, 90)
    assert not [m for m in copied.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)] and model.training
    with torch.inference_mode():
        for ours, theirs in zip(copied.dense(pixels), model.eval().dense(pixels), strict=True):
            assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()


def test_new_weights_are_seen_after_a_refresh(detector, images):
    ours = Detector(RetinaFace(detector.model.config), "cpu")
    before = ours.detect(images[0], 0.0, max_faces=5)
    ours.model.load_state_dict(detector.model.state_dict())
    np.testing.assert_array_equal(ours.detect(images[0], 0.0, max_faces=5).boxes, before.boxes)
    ours.refresh()
    np.testing.assert_array_equal(ours.detect(images[0]).boxes, detector.detect(images[0]).boxes)


def test_a_list_is_read_photo_by_photo(detector, images, monkeypatch):
    """Memory holds one group of neighbours of one size, however long the list is."""
    log, photos = [], {"a": images[0], "b": images[0], "c": images[1], "d": images[0]}
    monkeypatch.setattr("retinalib.detect.read_image", lambda path, **_: log.append(path) or photos[path])
    run = detector._detect_batch
    monkeypatch.setattr(detector, "_detect_batch", lambda pictures, *o: log.append(len(pictures)) or run(pictures, *o))
    assert len(detector.detect(iter(photos), pyramid=False)) == 4
    assert log == ["a", "b", "c", 2, "d", 1, 1]


def test_given_boxes(rendered, tmp_path):
    """Every box gets its face, in order: near the truth if there is one, whatever its margin, and where none is found."""
    dataset = load(make(tmp_path / "faces", 6, seed=3), "train")
    rng, errors = np.random.default_rng(0), []
    for image, faces in dataset:
        order = rng.permutation(len(faces))
        sides = np.tile(faces.boxes[:, 2:] - faces.boxes[:, :2], 2)
        boxes = (faces.boxes + rng.uniform(-0.05, 0.05, sides.shape) * sides)[order]
        given = rendered.detect_in_boxes(image, boxes)
        np.testing.assert_allclose(given.boxes, boxes, rtol=1e-6)
        errors += nme(given.landmarks, faces.landmarks[order], normaliser="box", boxes=faces.boxes[order]).tolist()
    assert len(errors) > 6 and np.median(errors) < 0.05
    grey, box = np.full((200, 300, 3), 128, np.uint8), np.array([[10, 20, 90, 110], [280, 150, 340, 230.0]])
    nothing = rendered.detect_in_boxes(grey, box)
    assert not len(rendered.detect(grey)) and len(nothing) == 2 and np.isfinite(nothing.landmarks).all()
    middle = (box[:, :2] + box[:, 2:]) / 2
    assert (np.abs(nothing.landmarks.mean(1) - middle) < 80).all() and not nothing.visible[1].all()
    assert rendered.detect_in_boxes(grey, np.zeros((0, 4))).landmarks.shape == (0, 98, 2)
    for wrong in (box[:, :3], box[:, ::-1], np.full((1, 4), np.nan)):
        with pytest.raises(ValueError, match="finite boxes"):
            rendered.detect_in_boxes(grey, wrong)


def test_bfloat16_stays_near(rendered):
    """Under the caller's autocast the network alone computes in it: places in an image, to 8 bits, would be off by pixels."""
    image, truth = render_face(size=256)
    exact = rendered.detect(image)
    with torch.autocast("cpu", torch.bfloat16):
        brief, given = rendered.detect(image), rendered.detect_in_boxes(image, exact.boxes)
    assert len(exact) == len(brief) == 1 and brief.landmarks.dtype == np.float32
    assert np.abs(exact.landmarks - brief.landmarks).max() < 0.03 * truth.size[0]
    assert 0 < np.abs(exact.boxes - brief.boxes).max() < 0.03 * truth.size[0]
    assert np.array_equal(given.landmarks, rendered.detect_in_boxes(image, exact.boxes).landmarks)


def test_load_detector_from_file_and_run_folder(detector, images, tmp_path):
    save_model(detector.model, tmp_path / "best.pt")
    for place in (tmp_path, tmp_path / "best.pt"):
        again = load_detector(place, "cpu").detect(images[0])
        np.testing.assert_array_equal(again.boxes, detector.detect(images[0]).boxes)
    with pytest.raises(FileNotFoundError, match="no detector 'nobody'"):
        load_detector("nobody")
    assert load_detector().model.config.schema.count == 98 and available_detectors()[0] in ("photos98", "rendered98")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        load_detector(tmp_path / "empty")


@needs_shared
def test_detections_are_the_references():
    expected = json.loads((SHARED / "reference/detections_5pt.json").read_text())
    detector = load_detector(SHARED / "reference/mobilenet0.25_Final.pth", "cpu", "reference")
    photo = SHARED / "real_faces/WFLW_images" / expected["image"]
    faces = detector.detect(photo, expected["score_threshold"], expected["nms_threshold"], pyramid=False)
    assert faces.schema == WIDER_5 and len(faces) == len(expected["boxes"])
    np.testing.assert_allclose(faces.boxes, expected["boxes"], atol=0.1)
    np.testing.assert_allclose(faces.scores, expected["scores"], atol=1e-4)
    np.testing.assert_allclose(
        faces.landmarks.reshape(len(faces), -1), np.reshape(expected["landmarks"], (len(faces), -1)), atol=0.1
    )


@needs_shared
def test_reference_weights_reach_their_level_on_wider_val():
    """All 176 faces of 46 validation photos, most of them large. The published values of these weights on all 3,226 photos are
    0.907, 0.882 and 0.738 (easy, medium, hard)."""
    real = SHARED / "real_faces"
    dataset = wider.load(real / "wider_face_val_bbx_gt.txt", real / "WFLW_images")
    detector = load_detector(SHARED / "reference/mobilenet0.25_Final.pth", "cpu", "reference")
    photos = [dataset[number] for number in range(len(dataset))]
    found = [detector.detect(image, score_threshold=0.02, pyramid=False) for image, _ in photos]
    ap = detection_ap(found, [faces for _, faces in photos])
    print(f"AP of the reference weights, {len(photos)} photos, {sum(len(f) for _, f in photos)} faces: {ap:.4f}")
    assert ap > 0.92


def test_an_installed_package_brings_its_checkpoints(tmp_path):
    """A wheel, built from a copy and unpacked elsewhere; all packages are in it."""
    copy, out = tmp_path / "copy", tmp_path / "elsewhere"
    for name in ("retinalib", "data/checkpoints"):
        shutil.copytree(PROJECT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, copy)
    python = [sys.executable, "-m"]
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    subprocess.run([*python, "pip", "wheel", *options, "--wheel-dir", str(tmp_path), str(copy)], check=True)
    zipfile.ZipFile(next(tmp_path.glob("*.whl"))).extractall(out)
    modules = {path.relative_to(PROJECT) for path in (PROJECT / "retinalib").rglob("*.py")}
    assert modules <= {path.relative_to(out) for path in out.rglob("*.py")}
    code = "import retinalib; from retinalib.workspace import PROJECT; retinalib.load_detector('rendered98', 'cpu'); "
    code += "print(retinalib.__file__, PROJECT, *retinalib.available_detectors())"
    done = subprocess.run([sys.executable, "-c", code], cwd=out, env=os.environ | {"PYTHONPATH": str(out)}, capture_output=True)
    file, project, *shipped = done.stdout.decode().split()
    assert file == str(out / "retinalib/__init__.py") and project == str(out) and shipped == available_detectors()
